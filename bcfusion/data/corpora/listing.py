"""A corpus that is listed in a manifest, JSONL or CSV."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path

from bcfusion.contracts import UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.headers import NAMED, read_headers, usable_duration, wrong_channels
from bcfusion.data.corpora.manifest import listed, read_manifest
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.errors import DataError
from bcfusion.files import on_disk
from bcfusion.requirements import require, within

logger = logging.getLogger(__name__)


class ManifestCorpus:
    """Utterances listed in a manifest (columns in :mod:`bcfusion.data.corpora.manifest`).

    The manifest is checked, by itself and against the headers of its files, at the first call of :meth:`rows`. A line
    without a duration reaches to the end of its shortest file.

    Args:
        path: the manifest.
        max_unreadable_share: share of its files, in [0, 1], that may be unreadable; a warning names them.

    Raises:
        ConfigError: ``max_unreadable_share`` is out of range.
    """

    def __init__(self, path: str, max_unreadable_share: float = 0.05) -> None:
        require(self, within(0, 1, max_unreadable_share=max_unreadable_share))
        self.path = on_disk(path)
        self.max_unreadable_share = max_unreadable_share
        self._rows: list[Row] | None = None

    def rows(self, split: str) -> list[Row]:
        """Return the utterances of a split, in the order of the manifest.

        Raises:
            DataError: the manifest has problems, contradicts the headers of its files, or names no channel of a file
                that has several (all problems are reported at once); or too many files are unreadable.
        """
        if self._rows is None:
            self._rows = self._complete(read_manifest(self.path))
        return [row for row in self._rows if row.split == split]

    def alignment_advice(self, lag: float | None, polarity: int | None) -> list[str]:
        """Return what to type so that body is read aligned with air: the manifest gives lag and polarity of each line.

        Args:
            lag: seconds, if it is the same in all recordings, else None.
            polarity: 1 or -1, if it is the same in all recordings, else None.
        """
        return [f"measured for each line: bcfusion inspect {shlex.quote(os.fspath(self.path))} --fix"]

    def _complete(self, entries: list[ManifestEntry]) -> list[Row]:
        files = dict.fromkeys(Path(file) for entry in entries for file in entry.paths.values())
        headers = read_headers(files, self.max_unreadable_share, os.fspath(self.path), mono=False)
        rows: list[Row] = []
        problems: list[str] = []
        for entry in entries:
            known = {sensor: headers[Path(file)] for sensor, file in entry.paths.items() if Path(file) in headers}
            if len(known) < len(entry.paths):
                continue
            duration, too_long = usable_duration(known.values(), entry.offset, entry.duration)
            sample_rate = known["air"].sample_rate
            if wrong := wrong_channels(known, entry.channels) or too_long:
                problems.append(f"{entry.id}: {wrong}")
            elif entry.sample_rate not in (None, sample_rate):
                problems.append(f"{entry.id}: sample_rate is {entry.sample_rate}, but the file has {sample_rate} Hz")
            else:
                rows.append(entry.row(duration, sample_rate))
        if problems:
            raise DataError(listed(self.path, problems))
        self._warn_of_shared_speakers(rows)
        return rows

    def _warn_of_shared_speakers(self, rows: list[Row]) -> None:
        splits: dict[str, set[str]] = {}
        for row in rows:
            if row.speaker != UNKNOWN_SPEAKER:
                splits.setdefault(row.speaker, set()).add(row.split)
        shared = sorted(speaker for speaker, found in splits.items() if len(found) > 1)
        if shared:
            first = ", ".join(f"{speaker} in {' and '.join(sorted(splits[speaker]))}" for speaker in shared[:NAMED])
            message = "%s: %d speaker(s) are in several splits (%s): scores will be too good"
            logger.warning(message, self.path, len(shared), first)
