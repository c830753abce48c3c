"""The demo corpus: a few minutes of synthetic speech, made once into the user's cache directory.

A small lexicon of syllables spoken by a few voices: the wide-band content follows from what a body-conduction sensor
leaves (F0, F1, voicing, durations), so that a network improves on it within minutes, and so that the whole of bcfusion
runs without a recording or a download. Results on it show that training works, not how good a network is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bcfusion.contracts import SPLITS, Row
from bcfusion.data.corpora.demo_speech import draw_voice, utterance
from bcfusion.data.corpora.made_once import MadeOnce, per_split, write_flac
from bcfusion.requirements import at_least, require

SPEAKERS: Mapping[str, int] = MappingProxyType({"train": 10, "valid": 3, "test": 3})
UTTERANCES: Mapping[str, int] = MappingProxyType({"train": 8, "valid": 3, "test": 3})


class DemoCorpus(MadeOnce):
    """Synthetic speech as a corpus (:class:`bcfusion.contracts.Corpus`); each split has its own speakers.

    ``<root>/{train,valid,test}/<speaker>/<utterance>.flac``, 16 bit, mono. Rows have the sensor ``air`` only, and in
    ``extra`` the words spoken (``text``) and the median F0 of the voice (``f0``, Hz).

    Args:
        sample_rate: Hz, at least 8000.
        cache_dir: where to keep it; None: ``$BCFUSION_CACHE``, ``$XDG_CACHE_HOME/bcfusion`` or ``~/.cache/bcfusion``.
        speakers: their number in each split.
        utterances_per_speaker: their number in each split.
        seconds: shortest and longest utterance, at least 2.5 (PESQ and STOI need 30 frames of active speech).
        seed: of everything random; the same arguments give the same files.

    Raises:
        ConfigError: an argument is out of range.
    """

    recorded_sensors: tuple[str, ...] = ()  #: in addition to air

    def __init__(
        self,
        sample_rate: int = 16000,
        cache_dir: str | None = None,
        speakers: Mapping[str, int] = SPEAKERS,
        utterances_per_speaker: Mapping[str, int] = UTTERANCES,
        seconds: Sequence[float] = (3.0, 4.0),
        seed: int = 0,
    ) -> None:
        require(
            self,
            at_least(8000, sample_rate=sample_rate),
            at_least(0, seed=seed),
            per_split(speakers=speakers, utterances_per_speaker=utterances_per_speaker),
            (
                len(seconds) == 2 and 2.5 <= seconds[0] <= seconds[1],
                f"seconds={list(seconds)} must be [shortest, longest], shortest at least 2.5",
            ),
        )
        self.sample_rate = sample_rate
        self.speakers = {split: int(speakers[split]) for split in SPLITS}
        self.utterances_per_speaker = {split: int(utterances_per_speaker[split]) for split in SPLITS}
        self.seconds = (float(seconds[0]), float(seconds[1]))
        self.seed = seed
        recipe = [sample_rate, self.speakers, self.utterances_per_speaker, self.seconds, seed]
        super().__init__(f"demo_{sample_rate}", cache_dir, recipe)

    def rows(self, split: str) -> list[Row]:
        """Return the utterances of ``train``, ``valid`` or ``test``; the first call ever synthesises all three.

        Raises:
            DataError: there is no such split, or the cache directory cannot be written.
        """
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
            for entry in self._entries(split)
        ]

    def _make(self, folder: Path) -> list[dict[str, Any]]:
        index: list[dict[str, Any]] = []
        first = 0  # speakers are numbered across splits, so that no name is in two of them
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
