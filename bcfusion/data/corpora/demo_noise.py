"""Noises for the fusion recipe's demo: babble, pink, car, machine and wind, synthesised once into the user's cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.signal import lfilter

from bcfusion.contracts import SPLITS
from bcfusion.data.corpora.demo_speech import PEAK, draw_script, draw_voice
from bcfusion.data.corpora.made_once import MadeOnce, per_split, write_flac
from bcfusion.data.corpora.synthesis import Array, synthesise
from bcfusion.requirements import at_least, require

REALISATIONS: Mapping[str, int] = MappingProxyType({"train": 2, "valid": 1, "test": 1})
NOISE_VERSION = 1  # part of the cache key: increment it with any change of a noise
NOISE_LEVEL = -26.0  # dBFS, RMS of each file
TALKERS = 4  # of the babble; each occurs twice, half a file apart


class DemoNoise(MadeOnce):
    """Files of noise; each split has its own realisations (and its own talkers in the babble).

    ``<root>/{train,valid,test}/<kind>_<number>.flac``, 16 bit, mono, RMS -26 dBFS; kinds: :data:`KINDS`.

    Args:
        sample_rate: Hz, at least 8000.
        cache_dir: as in :class:`bcfusion.data.corpora.demo.DemoCorpus`.
        seconds: length of each file, at least 2.
        realisations: files of each kind, for each split.
        seed: of everything random; the same arguments give the same files.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        cache_dir: str | None = None,
        seconds: float = 15.0,
        realisations: Mapping[str, int] = REALISATIONS,
        seed: int = 0,
    ) -> None:
        require(
            self,
            at_least(8000, sample_rate=sample_rate),
            at_least(0, seed=seed),
            at_least(2, seconds=seconds),
            per_split(realisations=realisations),
        )
        self.sample_rate = sample_rate
        self.seconds = float(seconds)
        self.realisations = {split: int(realisations[split]) for split in SPLITS}
        self.seed = seed
        recipe = [NOISE_VERSION, list(KINDS), sample_rate, self.seconds, self.realisations, seed]
        super().__init__(f"demo_noise_{sample_rate}", cache_dir, recipe)

    def files(self, split: str) -> list[str]:
        """Return the paths of the noises of ``train``, ``valid`` or ``test``; the first call ever synthesises all.

        Raises:
            DataError: there is no such split, or the cache directory cannot be written.
        """
        return [str(self._root / entry["file"]) for entry in self._entries(split)]

    def _make(self, folder: Path) -> list[dict[str, Any]]:
        index: list[dict[str, Any]] = []
        length = round(self.seconds * self.sample_rate)
        for s, split in enumerate(SPLITS):
            for k, (kind, noise_of) in enumerate(KINDS.items()):
                for n in range(self.realisations[split]):
                    noise = noise_of(length, self.sample_rate, np.random.default_rng([self.seed, s, k, n]))
                    noise = noise / np.sqrt(np.mean(np.square(noise)))
                    noise *= min(10 ** (NOISE_LEVEL / 20), PEAK / float(np.max(np.abs(noise))))
                    file = f"{split}/{kind}_{n:02d}.flac"
                    write_flac(folder / file, noise, self.sample_rate)
                    index.append({"file": file, "split": split})
        return index


def babble(length: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Return several talkers at once, ``(length,)``."""
    total = np.zeros(length)
    for talker in range(TALKERS):
        voice = draw_voice((talker + rng.uniform(0.2, 0.8)) / TALKERS, rng)
        script, _ = draw_script(voice, length / sample_rate, rng)
        speech = synthesise(script, voice, sample_rate, rng)[:length]
        speech = np.pad(speech, (0, length - len(speech)))
        total += speech + np.roll(speech, length // 2)
    return total


def pink(length: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Return noise whose power falls by 3 dB per octave above 20 Hz, ``(length,)``."""
    return _coloured(length, sample_rate, rng, lambda f: 1 / np.sqrt(np.maximum(f, 20.0)))


def car(length: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Return road rumble below 150 Hz and the orders of an engine whose speed wanders, ``(length,)``."""
    road = _coloured(length, sample_rate, rng, lambda f: (f > 15) / (1 + (f / 90.0) ** 1.6))
    speed = 35.0 * np.exp(0.15 * _slow(length, sample_rate, rng, 0.2))
    turn = 2 * np.pi * np.cumsum(speed) / sample_rate
    engine = sum(
        (np.sin(order * turn + rng.uniform(0, 6.28)) / order for order in (1, 2, 3, 4, 6, 8)), np.zeros(length)
    )
    return road / np.std(road) + 0.6 * engine / np.std(engine)


def machine(length: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Return white noise that pulses a few times per second, over the hum of a motor, ``(length,)``."""
    time = np.arange(length) / sample_rate
    beat = np.clip(np.sin(2 * np.pi * rng.uniform(4.0, 14.0) * time), 0.0, None)
    mains = 2 * np.pi * rng.uniform(95.0, 125.0) * time
    hum = sum((np.sin(k * mains + rng.uniform(0, 6.28)) / k for k in (1, 2, 3, 5, 7, 11)), np.zeros(length))
    return (0.2 + beat) * rng.standard_normal(length) + 0.3 * hum


def wind(length: int, sample_rate: int, rng: np.random.Generator) -> Array:
    """Return turbulence at a microphone in gusts, ``(length,)``."""
    gusts = np.exp(0.9 * _slow(length, sample_rate, rng, 0.7))
    low = _coloured(length, sample_rate, rng, lambda f: (f > 10) / (1 + (f / 60.0) ** 1.2))
    return gusts * low


def _coloured(length: int, sample_rate: int, rng: np.random.Generator, magnitude: Callable[[Array], Array]) -> Array:
    spectrum = np.fft.rfft(rng.standard_normal(length))
    return np.fft.irfft(spectrum * magnitude(np.fft.rfftfreq(length, 1 / sample_rate)), length)


def _slow(length: int, sample_rate: int, rng: np.random.Generator, bandwidth: float) -> Array:
    """Return a random walk around 0 with deviation 1 and the given bandwidth in Hz, ``(length,)``."""
    pole = np.exp(-2 * np.pi * bandwidth / sample_rate)
    walk = lfilter([1.0], [1.0, -pole], rng.standard_normal(length))
    return (walk - walk.mean()) / walk.std()


#: Name of each noise and the function that makes it.
KINDS: Mapping[str, Callable[[int, int, np.random.Generator], Array]] = MappingProxyType(
    {"babble": babble, "pink": pink, "car": car, "machine": machine, "wind": wind}
)
