"""A corpus that is written down in a manifest, JSONL or CSV."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from bcfusion.audio import AudioInfo
from bcfusion.contracts import UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.folder import read_headers
from bcfusion.data.corpora.manifest import ROUNDING_SECONDS, ManifestEntry, listed, read_manifest
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

_NAMED = 3


class ManifestCorpus:
    """Utterances listed in a manifest (columns in :mod:`bcfusion.data.corpora.manifest`).

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
                told; so are files of several channels of which none is named), or too many files are unreadable.
        """
        if self._rows is None:
            self._rows = self._complete(read_manifest(self.path))
        return [row for row in self._rows if row.split == split]

    def _complete(self, entries: list[ManifestEntry]) -> list[Row]:
        files = dict.fromkeys(Path(file) for entry in entries for file in entry.paths.values())
        headers = read_headers(files, self.max_unreadable_share, os.fspath(self.path), mono=False)
        rows: list[Row] = []
        problems: list[str] = []
        for entry in entries:
            known = {sensor: headers[Path(file)] for sensor, file in entry.paths.items() if Path(file) in headers}
            if len(known) < len(entry.paths):
                continue
            end = min(known.values(), key=lambda header: header.duration).duration
            left = end - entry.offset
            duration = left if entry.duration is None else entry.duration
            sample_rate = known["air"].sample_rate
            if wrong := wrong_channels(known, entry.channels):
                problems.append(f"{entry.id}: {wrong}")
            elif left <= 0 or duration > left + ROUNDING_SECONDS:
                problems.append(
                    f"{entry.id}: {entry.offset:g} s + {max(duration, 0):g} s is behind the end of the shortest file, "
                    f"at {end:.3f} s"
                )
            elif entry.sample_rate not in (None, sample_rate):
                problems.append(f"{entry.id}: sample_rate is {entry.sample_rate}, but the file has {sample_rate} Hz")
            else:
                rows.append(entry.row(min(duration, left), sample_rate))
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
            first = ", ".join(f"{speaker} in {' and '.join(sorted(splits[speaker]))}" for speaker in shared[:_NAMED])
            message = "%s: %d speaker(s) are in several splits (%s): scores will be too good"
            logger.warning(message, self.path, len(shared), first)


def wrong_channels(headers: Mapping[str, AudioInfo], channels: Mapping[str, int]) -> str:
    """What is wrong with the channels that are read of an utterance's files; empty where nothing is.

    Args:
        headers: sensor to header of its file. channels: sensor to channel; a sensor not in it needs a mono file.
    """
    for sensor, header in headers.items():
        channel = channels.get(sensor)
        if channel is None and header.channels != 1:
            return f"{header.path} has {header.channels} channels: name one in the column {sensor}_channel, from 0"
        if channel is not None and channel >= header.channels:
            return f"{header.path} has {header.channels} channel(s), but {sensor}_channel is {channel}, counted from 0"
    return ""
