"""A corpus that is written down in a manifest, JSONL or CSV."""

from __future__ import annotations

import os
from pathlib import Path

from bcfusion.contracts import Row
from bcfusion.data.corpora.folder import read_headers
from bcfusion.data.manifest import ROUNDING_SECONDS, ManifestEntry, listed, read_manifest
from bcfusion.errors import DataError


class ManifestCorpus:
    """Utterances listed in a manifest (columns in :mod:`bcfusion.data.manifest`).

    The manifest is checked, against itself and against the headers of its files, at the first call of :meth:`rows`. A
    duration left open reaches to the end of the shortest file of the line.

    Args:
        path: the manifest.
        max_unreadable_share: of its files, in [0, 1], that may be unreadable; they are named in a warning.
    """

    def __init__(self, path: str, max_unreadable_share: float = 0.05) -> None:
        self.path = Path(path).expanduser()
        self.max_unreadable_share = max_unreadable_share
        self._rows: list[Row] | None = None

    def rows(self, split: str) -> list[Row]:
        """The utterances of a split, in the order of the manifest.

        Raises:
            DataError: the manifest has problems, or it says other things than the headers of its files (all of them are
                told), or too many files are unreadable.
            bcfusion.audio.AudioFormatError: a file has several channels.
        """
        if self._rows is None:
            self._rows = self._complete(read_manifest(self.path))
        return [row for row in self._rows if row.split == split]

    def _complete(self, entries: list[ManifestEntry]) -> list[Row]:
        files = dict.fromkeys(Path(file) for entry in entries for file in entry.paths.values())
        headers = read_headers(files, self.max_unreadable_share, os.fspath(self.path))
        rows: list[Row] = []
        problems: list[str] = []
        for entry in entries:
            known = [headers[Path(file)] for file in entry.paths.values() if Path(file) in headers]
            if len(known) < len(entry.paths):
                continue
            left = min(header.duration for header in known) - entry.offset
            duration = left if entry.duration is None else entry.duration
            sample_rate = headers[Path(entry.paths["air"])].sample_rate
            if left <= 0 or duration > left + ROUNDING_SECONDS:
                problems.append(
                    f"{entry.id}: {entry.offset:g} s + {max(duration, 0):g} s is behind the end of the shortest file, "
                    f"at {left + entry.offset:.3f} s"
                )
            elif entry.sample_rate not in (None, sample_rate):
                problems.append(f"{entry.id}: sample_rate is {entry.sample_rate}, but the file has {sample_rate} Hz")
            else:
                rows.append(entry.row(min(duration, left), sample_rate))
        if problems:
            raise DataError(listed(self.path, problems))
        return rows
