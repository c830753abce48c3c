"""A corpus that is listed in a manifest, JSONL or CSV."""

from __future__ import annotations

import logging
import math
import os
import shlex
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bcfusion.contracts import SPLITS, UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.headers import NAMED, past_the_end, read_headers, usable_duration, wrong_channels
from bcfusion.data.corpora.manifest import listed, read_manifest
from bcfusion.data.corpora.manifest_columns import Entries, LineEntries
from bcfusion.data.corpora.table import Codes, Columns, RowTable, present, slim
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
        self._rows: RowTable | None = None
        self._split: NDArray[np.int8]

    def rows(self, split: str) -> Sequence[Row]:
        """Return the utterances of a split, in the order of the manifest; each is made when it is asked for.

        Raises:
            DataError: the manifest has problems, contradicts the headers of its files, or names no channel of a file
                that has several (all problems are reported at once); or too many files are unreadable.
        """
        if self._rows is None:
            self._rows = self._complete(read_manifest(self.path))
        return self._rows.at(self._split == (SPLITS.index(split) if split in SPLITS else -1))

    def alignment_advice(self, lag: float | None, polarity: int | None) -> list[str]:
        """Return what to type so that body is read aligned with air: the manifest gives lag and polarity of each line.

        Args:
            lag: seconds, if it is the same in all recordings, else None.
            polarity: 1 or -1, if it is the same in all recordings, else None.
        """
        return [f"measured for each line: bcfusion inspect {shlex.quote(os.fspath(self.path))} --fix"]

    def _complete(self, entries: Entries) -> RowTable:
        facts = _Facts(entries, self.max_unreadable_share, os.fspath(self.path))
        if problems := facts.problems():
            raise DataError(listed(self.path, problems))
        self._warn_of_shared_speakers(entries, facts.usable)
        rate = facts.of("air", facts.sample_rate)
        columns = Columns(
            speaker=entries.speaker,
            speakers=entries.speakers,
            sensors=facts.sensors,
            sensor_sets=facts.sensor_sets,
            sample_rate=rate,
            duration=facts.duration,
            weight=entries.weight,
            bandwidth=entries.bandwidth,
            distinct=True,
        )
        self._split = entries.split[facts.usable]
        return RowTable(_Listed(entries.alone(), facts.duration, rate), columns).at(facts.usable)

    def _warn_of_shared_speakers(self, entries: Entries, usable: NDArray[np.bool_]) -> None:
        splits: dict[str, set[str]] = {}
        pairs = entries.speaker[usable].astype(np.int64) * len(SPLITS) + entries.split[usable]
        for pair in present(pairs, len(entries.speakers) * len(SPLITS)):
            speaker, split = divmod(pair, len(SPLITS))
            if entries.speakers[speaker] != UNKNOWN_SPEAKER:
                splits.setdefault(entries.speakers[speaker], set()).add(SPLITS[split])
        shared = sorted(speaker for speaker, found in splits.items() if len(found) > 1)
        if shared:
            first = ", ".join(f"{speaker} in {' and '.join(sorted(splits[speaker]))}" for speaker in shared[:NAMED])
            message = "%s: %d speaker(s) are in several splits (%s): scores will be too good"
            logger.warning(message, self.path, len(shared), first)


class _Listed:
    """Makes rows from the lines of a manifest, with what the headers of their files say."""

    def __init__(self, entries: LineEntries, duration: NDArray[np.float64], sample_rate: NDArray[np.int64]) -> None:
        self.entries = entries
        self.duration = duration
        self.sample_rate = sample_rate

    def row(self, place: int) -> Row:
        return self.entries[place].row(float(self.duration[place]), int(self.sample_rate[place]))


class _Facts:
    """What the headers of a manifest's files say about its lines.

    Attributes:
        usable: whether all files of a line are readable.
        duration: seconds of each line that its files hold; of one that is not usable, or has a problem, any number.
        sample_rate: of each file, in Hz.
        sensors: number of each line's set of sensors in ``sensor_sets``.
        sensor_sets: the sets.
    """

    def __init__(self, entries: Entries, max_unreadable_share: float, where: str) -> None:
        self._entries = entries
        paths = [entries.path(written) for written in entries.written]
        self._headers = read_headers(dict.fromkeys(paths), max_unreadable_share, where, mono=False)
        found = [self._headers.get(path) for path in paths]
        readable = np.array([each is not None for each in found], bool)
        lengths = np.array([math.nan if each is None else each.duration for each in found])
        self._channels = np.array([0 if each is None else each.channels for each in found], np.int64)
        self.sample_rate = np.array([0 if each is None else each.sample_rate for each in found], np.int64)
        self.usable = np.ones(len(entries), bool)
        end = np.full(len(entries), math.inf)
        number = np.zeros(len(entries), np.int64)
        for place, codes in enumerate(entries.files.values()):
            there = codes >= 0
            self.usable &= readable[codes] | ~there
            end = np.minimum(end, np.where(there, lengths[codes], math.inf))
            number |= there.astype(np.int64) << place
        self._left = end - entries.offset
        self._wanted = np.where(np.isnan(entries.duration), self._left, entries.duration)
        self.duration = slim(np.minimum(self._wanted, self._left))
        kinds = Codes()
        self.sensors = slim(kinds.of(number.tolist()))
        names = list(entries.files)
        self.sensor_sets = tuple(
            frozenset(name for place, name in enumerate(names) if kind >> place & 1) for kind in kinds.numbers
        )

    def of(self, sensor: str, facts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a fact of the file of a sensor, for each line."""
        return slim(facts[self._entries.files[sensor]])

    def problems(self) -> list[str]:
        """Return what contradicts the headers, one text for each line."""
        entries = self._entries
        wrong = past_the_end(self._left, self._wanted)
        rates = self.of("air", self.sample_rate)
        wrong |= (entries.sample_rate != 0) & (entries.sample_rate != rates)
        for sensor, codes in entries.files.items():
            held = self._channels[codes]
            named = entries.channels.get(sensor, np.broadcast_to(np.int64(-1), len(entries)))
            wrong |= (codes >= 0) & np.where(named < 0, held != 1, named >= held)
        return list(map(self._problem, np.flatnonzero(wrong & self.usable).tolist()))

    def _problem(self, place: int) -> str:
        entry = self._entries[place]
        known = {sensor: self._headers[file] for sensor, file in entry.paths.items()}
        _, too_long = usable_duration(known.values(), entry.offset, entry.duration)
        if wrong := wrong_channels(known, entry.channels) or too_long:
            return f"{entry.id}: {wrong}"
        rate = known["air"].sample_rate
        return f"{entry.id}: sample_rate is {entry.sample_rate}, but the file has {rate} Hz"
