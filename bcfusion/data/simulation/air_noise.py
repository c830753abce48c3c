"""The air microphone of the fusion task: clean speech with recorded noise at a random signal-to-noise ratio."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bcfusion.audio import UnreadableAudio
from bcfusion.data.simulation import checked_range, choice, uniform
from bcfusion.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

#: level of a speech slice that stands in for one without speech: the nominal -26 dBov of ITU-T P.56
NOMINAL_LEVEL = 10.0 ** (-26.0 / 20.0)
#: root mean square below which a slice holds no speech but the rounding of 16 bits: -80 dB
SILENCE_LEVEL = 1e-4
#: part of each noise file that is training's where one folder serves both
TRAINING_SHARE = 0.8
#: draws after which digital silence in the noise files is taken as it is
DRAWS = 8
#: root mean square below which a slice of a noise file is digital silence, under the rounding noise of 16 bits
NOISE_FLOOR = 1e-5


class NoiseFiles(NamedTuple):
    """Noise recordings for training and for evaluation; ``shared``: the same ones, of which each hears its own part."""

    training: list[str]
    evaluation: list[str]
    shared: bool


class AirNoise:
    """Simulates the air microphone in a noisy place: ``signal = air + noise``.

    The signal-to-noise ratio is that of the slice, energy of the speech over energy of the noise, not of the whole
    file. A slice without speech (below -80 dB) takes noise as if its speech were at the nominal -26 dB. Only the slice
    is read from the noise file, at a random position; a noise that is shorter than the slice is repeated. Noise files
    of another sample rate are resampled, and of several channels one is drawn. Digital silence in a noise file is
    drawn anew a few times and then taken as it is: no noise.

    Nothing is rescaled: air keeps its level, as the other sensors keep theirs, so at a low ratio the sum may exceed
    +-1. It is float32 and is not clipped, since clipping would break ``signal = air + noise``.

    Training and evaluation never hear the same noise. A folder with ``train/`` and with ``valid/`` or ``test/`` is used
    that way; of any other folder, training hears the first 80 % of each file and evaluation the last 20 %.

    In evaluation the file, the position and the ratio are drawn as in training, but from the generator that is seeded
    by the utterance: each utterance has its own noise and ratio, the same in every run, unless ``evaluation_snr`` fixes
    the ratio of all.

    Args:
        noise_root: folder of noise recordings, searched with its sub-folders; None: the demo corpus' own noises.
        snr_range: lowest and highest signal-to-noise ratio in dB, drawn uniformly.
        evaluation_snr: in dB, the one ratio of the evaluation; None: drawn from ``snr_range`` for each utterance.

    Raises:
        ConfigError: an argument is out of range.
        DataError: there is no such folder, or it holds no audio; when called, a noise file holds next to nothing, or
            file after file cannot be read (single ones are named in a warning, and others taken).
    """

    provides_noise = True  #: batches hold ``noise``, which losses may ask for

    def __init__(
        self,
        noise_root: str | None = None,
        snr_range: Sequence[float] = (-10.0, 15.0),
        evaluation_snr: float | None = None,
    ) -> None:
        self.snr_range = checked_range("AirNoise", "snr_range", snr_range, -100.0, 100.0)
        if evaluation_snr is not None and not -100.0 <= evaluation_snr <= 100.0:
            raise ConfigError([f"AirNoise: evaluation_snr={evaluation_snr!r} must be null or a number of dB"])
        self.evaluation_snr = evaluation_snr
        self._unreadable: set[str] = set()
        # a folder is looked at now, so that a wrong path is told before training; the demo's is made only when used
        self._files = None if noise_root is None else folder_noises(Path(noise_root).expanduser())

    def __call__(self, air: Tensor, sample_rate: int, generator: torch.Generator, training: bool) -> dict[str, Tensor]:
        """For clean speech ``air (1, T)``: ``signal`` and the ``noise`` in it, ``(1, T)`` float32 each."""
        air = air.to(torch.float32)
        if not training and self.evaluation_snr is not None:
            snr = self.evaluation_snr
        else:
            snr = uniform(*self.snr_range, generator)
        noise = self._slice(air.shape[-1], sample_rate, generator, training)
        noise_level = _level(noise)
        if noise_level <= NOISE_FLOOR:
            noise = torch.zeros_like(air)
        else:
            speech_level = _level(air)
            if speech_level <= SILENCE_LEVEL:
                speech_level = NOMINAL_LEVEL
            noise = noise * (speech_level / noise_level * 10.0 ** (-snr / 20.0))
        return {"signal": air + noise, "noise": noise}

    def _slice(self, length: int, sample_rate: int, generator: torch.Generator, training: bool) -> Tensor:
        """``(1, length)`` of a random file at a random place; drawn again while it is digital silence."""
        if self._files is None:
            self._files = demo_noises(sample_rate)
        files = self._files.training if training else self._files.evaluation
        low, high = 0.0, 1.0
        if self._files.shared:
            low, high = (0.0, TRAINING_SHARE) if training else (TRAINING_SHARE, 1.0)
        noise = None
        for _ in range(DRAWS):
            path = files[choice(len(files), generator)]
            try:
                noise = read_looped(path, low, high, length, sample_rate, generator)
            except UnreadableAudio as error:  # not the utterance's fault: another noise takes its place
                if path not in self._unreadable:
                    self._unreadable.add(path)
                    logger.warning("noise left out: %s", error)
                continue
            if _level(noise) > NOISE_FLOOR:
                break
        if noise is None:
            raise DataError(f"no noise could be read in {DRAWS} draws; the last: {path}. Check data.noise_root")
        return noise


def folder_noises(root: Path) -> NoiseFiles:
    """The recordings of a folder: ``train/`` against ``valid/`` and ``test/`` where both hold some, else all for both.

    Raises:
        DataError: there is no such folder, or there is no audio in it.
    """
    from bcfusion import audio

    if not root.is_dir():
        raise DataError(f"no noise folder {root}: set data.noise_root to a folder of noise recordings")
    training, valid, test = (sorted(map(str, audio.walk(root / split))) for split in ("train", "valid", "test"))
    if training and (valid or test):
        return NoiseFiles(training, valid + test, shared=False)
    everything = sorted(map(str, audio.walk(root)))
    if not everything:
        raise DataError(f"no audio in the noise folder {root}: it needs {', '.join(audio.EXTENSIONS)} files")
    return NoiseFiles(everything, everything, shared=True)


def demo_noises(sample_rate: int) -> NoiseFiles:
    """The demo corpus' noises, made on the first call ever; its splits are of different realisations."""
    from bcfusion.data.corpora.demo_noise import DemoNoise

    demo = DemoNoise(sample_rate=sample_rate)
    return NoiseFiles(demo.files("train"), demo.files("valid") + demo.files("test"), shared=False)


def read_looped(
    path: str, low: float, high: float, length: int, sample_rate: int, generator: torch.Generator
) -> Tensor:
    """A slice from a random place of a part of a recording, which is repeated where it is too short.

    Args:
        path: sound file of any sample rate and number of channels, of which one is drawn.
        low: where the part begins, in [0, 1] of the file. high: where it ends.
        length: of the slice, in samples at ``sample_rate``.
        sample_rate: in Hz, of the result.
        generator: of place and channel.

    Returns:
        ``(1, length)`` float32.

    Raises:
        DataError: the part holds not one sample.
    """
    from bcfusion import audio

    header = audio.info(path)
    frames = -(-header.frames * sample_rate // header.sample_rate)
    first, last = int(low * frames), int(high * frames)
    available = last - first
    if available < 1:
        raise DataError(f"{path} holds only {frames} samples of noise: remove it from the noise folder")
    if available >= length:
        start = first + choice(available - length + 1, generator)
        samples = audio.read_span(path, start, length, sample_rate)
    else:
        samples = audio.read_span(path, first, available, sample_rate)
    channel = torch.from_numpy(samples[choice(header.channels, generator)])
    if available < length:
        place = choice(available, generator) + torch.arange(length)
        channel = channel[place.remainder(available)]
    return channel[None]


def _level(signal: Tensor) -> float:
    """Root mean square, summed in double precision: a quiet slice squared is near the floor of single."""
    return float(signal.to(torch.float64).square().mean().sqrt())
