"""The demo corpus: a few minutes of synthetic speech, made once into the user's cache directory.

A small lexicon of syllables spoken by a few voices: the wide-band content follows from what a body-conduction sensor
leaves (F0, F1, voicing, durations), so that a network improves on it within minutes, and so that the whole of bcfusion
runs without a recording or a download. Results on it say that training works, nothing of how good a network is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soundfile

from bcfusion.contracts import Row
from bcfusion.data.corpora.synthesis import (
    PHONES,
    SPECTRA,
    SYNTHESISER_VERSION,
    Array,
    Segment,
    Voice,
    room_noise,
    synthesise,
)
from bcfusion.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
SPEAKERS: Mapping[str, int] = MappingProxyType({"train": 10, "valid": 3, "test": 3})
UTTERANCES: Mapping[str, int] = MappingProxyType({"train": 8, "valid": 3, "test": 3})

#: Every word of the language, as phones. A vowel has few consonants for neighbours: that makes them predictable.
LEXICON = (
    "s aa d ow", "sh iy l", "f ey n uw", "k ae t", "z ao m er", "th ah v iy", "b eh s", "m uw sh", "t iy z ah",
    "d aa s", "g ow f", "p ae sh iy", "w er th", "l ao k aa", "hh ey s", "y uw n", "n eh f ow", "s iy b ae",
    "sh aa m", "v ow z ey", "d er sh", "f ae s ow", "b ao th", "t ey sh uw",
)  # fmt: skip

SPEECH_LEVEL = -23.0  # dBFS, RMS of what is not a pause
ROOM_LEVEL = -65.0  # dB re speech: PESQ and STOI meet no digital silence
PEAK = 0.89


class DemoCorpus:
    """Synthetic speech as a corpus (:class:`bcfusion.contracts.Corpus`), of speakers that differ from split to split.

    ``<root>/{train,valid,test}/<speaker>/<utterance>.flac``, 16 bit, mono. Rows have the sensor ``air`` alone, and in
    ``extra`` the words spoken (``text``) and the median F0 of the voice (``f0``, Hz).

    Args:
        sample_rate: Hz, at least 8000.
        cache_dir: where to keep it; else ``$BCFUSION_CACHE``, ``$XDG_CACHE_HOME/bcfusion`` or ``~/.cache/bcfusion``.
        speakers, utterances_per_speaker: a number for each split.
        seconds: shortest and longest utterance, at least 2.5 (PESQ and STOI want 30 frames of active speech).
        seed: of everything random; the same arguments give the same files.

    Raises:
        ConfigError: an argument is out of range.
    """

    recorded_sensors: tuple[str, ...] = ()  #: besides air

    def __init__(
        self,
        sample_rate: int = 16000,
        cache_dir: str | None = None,
        speakers: Mapping[str, int] = SPEAKERS,
        utterances_per_speaker: Mapping[str, int] = UTTERANCES,
        seconds: Sequence[float] = (3.0, 4.0),
        seed: int = 0,
    ) -> None:
        problems = check_common(sample_rate, seed)
        problems += check_counts("speakers", speakers) + check_counts("utterances_per_speaker", utterances_per_speaker)
        if len(seconds) != 2 or not 2.5 <= seconds[0] <= seconds[1]:
            problems.append(f"demo corpus: seconds={list(seconds)} must be [shortest, longest], shortest at least 2.5")
        if problems:
            raise ConfigError(problems)
        self.sample_rate = sample_rate
        self.speakers = {split: int(speakers[split]) for split in SPLITS}
        self.utterances_per_speaker = {split: int(utterances_per_speaker[split]) for split in SPLITS}
        self.seconds = (float(seconds[0]), float(seconds[1]))
        self.seed = seed
        recipe = [sample_rate, self.speakers, self.utterances_per_speaker, self.seconds, seed]
        self._root = cache_directory(cache_dir) / f"demo_{sample_rate}_{fingerprint(recipe)}"

    @property
    def root(self) -> str:
        """The corpus's folder, absolute; it exists once :meth:`rows` was called."""
        return str(self._root)

    def rows(self, split: str) -> list[Row]:
        """The utterances of ``train``, ``valid`` or ``test``; the first call ever synthesises all three.

        Raises:
            DataError: there is no such split, or the cache directory cannot be written.
        """
        check_split(split, "demo corpus")
        return [
            Row(
                id=f"demo/{entry['file'].removesuffix('.flac')}",
                paths={"air": str(self._root / entry["file"])},
                speaker=entry["speaker"],
                split=split,
                sample_rate=self.sample_rate,
                duration=entry["duration"],
                extra={"text": entry["text"], "f0": entry["f0"]},
            )
            for entry in made_once(self._root, self._make)
            if entry["split"] == split
        ]

    def _make(self, folder: Path) -> list[dict[str, Any]]:
        index: list[dict[str, Any]] = []
        first = 0  # speakers are numbered through, so that a name is never in two splits
        for s, split in enumerate(SPLITS):
            count = self.speakers[split]
            for k in range(count):
                rng = np.random.default_rng([self.seed, s, k])
                voice = draw_voice((k + rng.uniform(0.2, 0.8)) / count, rng)
                speaker = f"s{first + k:02d}"
                for u in range(self.utterances_per_speaker[split]):
                    rng = np.random.default_rng([self.seed, s, k, u])
                    samples, words = utterance(voice, rng.uniform(*self.seconds), self.sample_rate, rng)
                    file = f"{split}/{speaker}/{speaker}_{u:03d}.flac"
                    write_flac(folder / file, samples, self.sample_rate)
                    index.append(
                        {
                            "file": file,
                            "split": split,
                            "speaker": speaker,
                            "duration": len(samples) / self.sample_rate,
                            "text": " | ".join(words),
                            "f0": round(voice.f0, 1),
                        }
                    )
            first += count
        return index


def draw_voice(position: float, rng: np.random.Generator) -> Voice:
    """A voice between a deep one (``position`` 0: 90 Hz, long tract) and a high one (1: 250 Hz, short tract)."""
    return Voice(
        f0=90.0 * (250.0 / 90.0) ** position,
        tract=0.98 + 0.19 * position + rng.uniform(-0.02, 0.02),
        rate=rng.uniform(0.92, 1.1),
        jitter=rng.uniform(0.004, 0.01),
        shimmer=rng.uniform(0.02, 0.06),
        open_quotient=0.52 + 0.16 * position + rng.uniform(-0.03, 0.03),
        tilt=3200.0 - 1000.0 * position + rng.uniform(-300.0, 300.0),
        breath=rng.uniform(-30.0, -23.0),
        melody=rng.uniform(0.1, 0.2),
    )


def utterance(voice: Voice, seconds: float, sample_rate: int, rng: np.random.Generator) -> tuple[Array, list[str]]:
    """Random words in a quiet room.

    Args:
        seconds: length of the clip, silence at both ends included; at least 1.

    Returns:
        ``(T,)`` with speech at -23 dBFS and its peak below 0.9, and the words.
    """
    script, words = draw_script(voice, seconds, rng)
    speech = synthesise(script, voice, sample_rate, rng)
    edges = np.rint(np.cumsum([0.0] + [segment.seconds for segment in script]) * sample_rate).astype(int)
    speaking = np.repeat([segment.phone != "_" for segment in script], np.diff(edges))
    speech /= np.sqrt(np.mean(np.square(speech[speaking])))
    speech += 10 ** (ROOM_LEVEL / 20) * room_noise(len(speech), sample_rate, rng)
    return speech * min(10 ** (SPEECH_LEVEL / 20), PEAK / float(np.max(np.abs(speech)))), words


def draw_script(voice: Voice, seconds: float, rng: np.random.Generator) -> tuple[list[Segment], list[str]]:
    """Words with pauses between them, as many as fit into ``seconds``; the last pause fills the rest."""
    spoken = {word: [_spoken(phone, voice) for phone in word.split()] for word in LEXICON}
    length = {word: sum(segment.seconds for segment in segments) for word, segments in spoken.items()}
    script, words = [Segment("_", rng.uniform(0.12, 0.2))], list[str]()
    left = seconds - script[0].seconds
    while fitting := [word for word in LEXICON if length[word] + 0.15 <= left]:
        word = fitting[rng.integers(len(fitting))]
        stressed = next(i for i, segment in enumerate(spoken[word]) if PHONES[segment.phone].is_vowel)
        accent = rng.uniform(0.4, 1.0)
        script += [
            Segment(s.phone, s.seconds * (1.12 if i == stressed else 1.0), accent if i == stressed else 0.0)
            for i, s in enumerate(spoken[word])
        ]
        words.append(word)
        # most words follow closely, every fourth ends a phrase
        pause = rng.uniform(0.25, 0.4) if rng.uniform() < 0.25 else rng.uniform(0.05, 0.14)
        script.append(Segment("_", pause))
        left = seconds - sum(segment.seconds for segment in script)
    rest = seconds - sum(segment.seconds for segment in script[:-1])
    return [*script[:-1], Segment("_", rest)], words


def _spoken(phone: str, voice: Voice) -> Segment:
    return Segment(phone, PHONES[phone].duration / voice.rate)


def cache_directory(cache_dir: str | None) -> Path:
    """The first that is set: the argument, ``$BCFUSION_CACHE``, ``$XDG_CACHE_HOME/bcfusion``, ``~/.cache/bcfusion``."""
    if chosen := cache_dir or os.environ.get("BCFUSION_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "bcfusion"


def fingerprint(recipe: Sequence[Any]) -> str:
    """Twelve hexadecimal digits that change with the arguments, the language and the synthesiser."""
    text = json.dumps([SYNTHESISER_VERSION, repr(PHONES), repr(SPECTRA), LEXICON, *recipe])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_flac(path: Path, samples: Array, sample_rate: int) -> None:
    """Write ``samples (T,)`` in [-1, 1] as 16-bit mono FLAC, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate, subtype="PCM_16", format="FLAC")


def made_once(root: Path, make: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The index of a made folder, making the folder first where it is missing or incomplete.

    ``make(folder)`` writes files and returns one entry for each, with its relative path as ``file``. It works in a
    temporary sibling, which is then renamed: whoever sees ``root`` sees all of it, and of two processes that make it
    at the same time one wins and the other takes the winner's.

    Raises:
        DataError: the folder cannot be written.
    """
    if (index := _read_index(root)) is not None:
        return index
    started = time.perf_counter()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent, ignore_cleanup_errors=True) as work:
            folder = Path(work) / "new"
            folder.mkdir()
            index = make(folder)
            (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
            _put_in_place(folder, root, aside=Path(work) / "damaged")
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(
            f"cannot write {root}: {error}\nset BCFUSION_CACHE (or cache_dir) to a folder with space"
        ) from error
    log.info("synthesised %d files into %s in %.1f s", len(index), root, time.perf_counter() - started)
    return index


def _read_index(root: Path) -> list[dict[str, Any]] | None:
    """The index, or None where it or one of its files is missing."""
    try:
        index: list[dict[str, Any]] = json.loads((root / "index.json").read_text(encoding="utf-8"))
        return index if all((root / entry["file"]).is_file() for entry in index) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _put_in_place(folder: Path, root: Path, aside: Path) -> None:
    try:
        os.replace(folder, root)
    except OSError:
        if _read_index(root) is not None:
            return  # another process was faster; its files are the same
        if not root.exists():
            raise
        os.replace(root, aside)
        os.replace(folder, root)


def check_split(split: str, where: str) -> None:
    """Raise DataError unless ``split`` is train, valid or test."""
    if split not in SPLITS:
        raise DataError(f"{where}: no split '{split}'; there are {', '.join(SPLITS)}")


def check_common(sample_rate: int, seed: int) -> list[str]:
    """Problems with the sample rate and the seed, a line each."""
    problems = []
    if sample_rate < 8000:
        problems.append(f"demo data: sample_rate={sample_rate} Hz is too low for speech; take at least 8000")
    if seed < 0:
        problems.append(f"demo data: seed={seed} must not be negative")
    return problems


def check_counts(name: str, counts: Mapping[str, int]) -> list[str]:
    """Problems with a number for each split, a line each."""
    if set(counts) != set(SPLITS):
        return [f"demo data: {name} needs a number for each of {', '.join(SPLITS)}, got {', '.join(map(str, counts))}"]
    return [f"demo data: {name}.{split}={n} must be at least 1" for split, n in counts.items() if n < 1]
