"""A folder of pairs that grows sentence by sentence: files, manifest, lag and polarity."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from bcfusion import audio
from bcfusion.contracts import SPLITS, Row
from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.manifest import read_manifest, write_manifest
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.alignment import ENOUGH, Alignment, session_alignment
from bcfusion.data.inspect.certainty import with_common_polarity
from bcfusion.errors import DataError
from bcfusion.live.takes import AIR, BODY, SUBTYPE, Judged

__all__ = ["MANIFEST", "RESERVED", "Session"]

MANIFEST = "pairs.jsonl"
#: columns of the manifest that cannot be the name of a sensor
RESERVED = frozenset(field.name for field in fields(ManifestEntry)) | {"text", "session", "corpus", "snr"}


class Session:
    """Recordings of one wearer at one sitting, added to a folder that may hold others.

    A sentence is ``SENSOR/SPEAKER/NUMBER.wav`` for each sensor, 24 bits, and a line of ``pairs.jsonl`` with its text.
    The manifest is written anew with each sentence, after its files, whole or not at all. Before the first sentence it
    is written empty, so that a folder can be continued wherever a process was killed.

    Args:
        folder: made with the first sentence.
        sensors: names of the channels, ``air`` among them.
        rate: of the files, in Hz.
        speaker: who speaks; a name of a folder.
        split: of the manifest's lines.

    Attributes:
        rows: the lines of the manifest.
        recorded: number of sentences of this session.
        done: sentences that this speaker has recorded, in earlier sessions too.

    Raises:
        DataError: the folder's manifest is damaged, or has other sensors or another sample rate.
    """

    def __init__(self, folder: Path, sensors: Sequence[str], rate: int, speaker: str, split: str) -> None:
        self.folder, self.sensors, self.rate = folder, tuple(sensors), rate
        self.speaker, self.split = speaker, split
        self.manifest = folder / MANIFEST
        self.rows: list[Row] = []
        self._name = time.strftime("%Y-%m-%d_%H-%M-%S")
        self._own: dict[str, Alignment] = {}
        if self.manifest.exists():
            if self.manifest.stat().st_size:
                corpus = ManifestCorpus(str(self.manifest), 1.0)
                self.rows = [row for split in SPLITS for row in corpus.rows(split)]
                readable = {row.id for row in self.rows}
                if lost := [entry.id for entry in read_manifest(self.manifest) if entry.id not in readable]:
                    raise DataError(
                        f"{self.manifest}: the recordings of {lost[0]} cannot be read ({len(lost)} in all): restore "
                        "the files, or remove their lines, before new sentences are added"
                    )
            self._require_same()
        elif folder.exists() and not (folder.is_dir() and all(map(_is_unfinished, folder.iterdir()))):
            raise DataError(f"{folder} holds something else than recordings with {MANIFEST}: give another --output")
        self.recorded = 0
        self.done = {row.extra.get("text") for row in self.rows if row.speaker == speaker}

    def _require_same(self) -> None:
        for row in self.rows:
            if set(row.paths) != set(self.sensors):
                raise DataError(
                    f"{self.manifest} has {', '.join(sorted(row.paths))}, and --channels has "
                    f"{', '.join(sorted(self.sensors))}: give the same sensors, or another --output"
                )
            if row.sample_rate != self.rate:
                raise DataError(
                    f"{self.manifest} has recordings of {row.sample_rate} Hz, the sound card has {self.rate} Hz: "
                    f"give --sample-rate {row.sample_rate}, or another --output"
                )

    @property
    def seconds(self) -> float:
        """Length of all recordings."""
        return sum(row.duration for row in self.rows)

    def add(self, text: str, signals: Mapping[str, np.ndarray], judged: Judged) -> Row:
        """Write a sentence.

        Args:
            text: what was read.
            signals: ``(T,)`` of each sensor.
            judged: what was measured on them.

        Raises:
            AudioError: a file cannot be written.
            DataError: the manifest cannot be written.
        """
        number = 1 + max((int(row.id.rpartition("/")[2]) for row in self.rows if self._counts(row)), default=0)
        name = f"{self.speaker}/{number:03d}"
        paths = {sensor: self.folder / sensor / f"{name}.wav" for sensor in self.sensors}
        if not self.manifest.exists():
            write_manifest(self.manifest, [])
        for sensor, file in paths.items():
            audio.write(file, signals[sensor], self.rate, SUBTYPE)
        row = Row(
            id=name,
            paths={sensor: str(file) for sensor, file in paths.items()},
            speaker=self.speaker,
            split=self.split,
            sample_rate=self.rate,
            duration=len(signals[AIR]) / self.rate,
            extra={"text": text, "session": self._name},
        )
        if judged.alignment is not None:
            self._own[name] = judged.alignment
        rows = self._aligned([*self.rows, row])
        write_manifest(self.manifest, rows)
        self.rows = rows
        self.recorded += 1
        self.done.add(text)
        return row

    def alignment(self) -> Alignment | None:
        """Return lag and polarity of the first sensor over the sentences of this session; None before the first one."""
        found = [own for own in with_common_polarity(list(self._own.values())) if own is not None]
        return session_alignment(found) if found else None

    def _counts(self, row: Row) -> bool:
        speaker, _, number = row.id.rpartition("/")
        return speaker == self.speaker and number.isdecimal()

    def _aligned(self, rows: list[Row]) -> list[Row]:
        """Return the rows with lag and polarity of this session, where they are certain; they are those of body."""
        found = self.alignment()
        if BODY not in self.sensors or found is None or found.confidence < ENOUGH:
            return rows
        return [
            replace(row, lag=round(found.lag_seconds, 6), polarity=found.polarity)
            if row.extra.get("session") == self._name
            else row
            for row in rows
        ]


def _is_unfinished(path: Path) -> bool:
    """Return whether a file is a manifest that a process has begun to write and was killed."""
    return path.name.startswith(f".{MANIFEST}.") and path.suffix == ".part"
