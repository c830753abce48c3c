"""The lines of a manifest as columns: read and checked many at a time, without an object for each line.

What is checked is what :func:`~bcfusion.data.corpora.manifest_line.faults` checks; it then says what is wrong.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from bcfusion.contracts import SPLITS, UNKNOWN_SPEAKER
from bcfusion.data.corpora.json_lines import Lines, parsed, text_blocks
from bcfusion.data.corpora.manifest_line import (
    CHANNEL,
    KNOWN,
    NUMBERS,
    TEXTS,
    ManifestEntry,
    derived_id,
    entry_of,
    is_sound,
    number_of,
    path_of,
)
from bcfusion.data.corpora.table import Codes, slim
from bcfusion.files import NamesOnDisk, from_json, normal_name

__all__ = ["Entries", "LineEntries", "Misfit", "csv_table", "read_columns"]

_TYPES = {int, float, str}
_MOST = 1 << 30  # no file has so many channels


class Misfit(Exception):
    """Something in a file is not as it has to be; another pass over it says what."""


class LineEntries(Sequence[ManifestEntry]):
    """Makes the entries of checked lines, each time anew.

    Args:
        lines: of the manifest.
        folder: of the manifest, from which relative paths start.
        needed: the sensor that each line must have.
        sensors: the columns that hold files.
    """

    def __init__(self, lines: Lines, folder: Path, needed: str, sensors: frozenset[str]) -> None:
        self._lines = lines
        self._folder = folder
        self._needed = needed
        self._sensors = sensors
        self._names = NamesOnDisk()

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> ManifestEntry: ...

    @overload
    def __getitem__(self, index: slice) -> list[ManifestEntry]: ...

    def __getitem__(self, index: int | slice) -> ManifestEntry | list[ManifestEntry]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        record = {name: value for name, value in self._lines.record(index).items() if value is not None}
        return entry_of(record, self._folder, self._needed, self._sensors, self._names)

    def __iter__(self) -> Iterator[ManifestEntry]:
        return map(self.__getitem__, range(len(self)))

    def path(self, written: str) -> str:
        """Return the path of a file that the manifest names."""
        return path_of(written, self._folder, self._names)


class Entries(LineEntries):
    """The checked lines of a manifest as columns; an entry is made when it is asked for, each time anew.

    Attributes:
        split: number of each line's split in :data:`~bcfusion.contracts.SPLITS`.
        speaker: number of its speaker in ``speakers``.
        speakers: their names.
        offset: seconds.
        duration: seconds; NaN: not given.
        sample_rate: Hz; 0: not given.
        bandwidth: Hz; NaN: not given.
        weight: see :class:`~bcfusion.contracts.Row`.
        files: of each sensor the number of the line's file in ``written``; -1: it has none.
        written: names of files, as the manifest gives them.
        channels: of each sensor the channel of its file; -1: not given.
    """

    split: NDArray[np.int8]
    speaker: NDArray[np.int32]
    speakers: tuple[str, ...]
    offset: NDArray[np.float64]
    duration: NDArray[np.float64]
    sample_rate: NDArray[np.int64]
    bandwidth: NDArray[np.float64]
    weight: NDArray[np.float64]
    files: dict[str, NDArray[np.int32]]
    written: list[str]
    channels: dict[str, NDArray[np.int64]]

    def __init__(
        self, lines: Lines, folder: Path, needed: str, sensors: frozenset[str], columns: Mapping[str, Any]
    ) -> None:
        super().__init__(lines, folder, needed, sensors)
        vars(self).update(columns)

    def alone(self) -> LineEntries:
        """Return the entries without the columns."""
        return LineEntries(self._lines, self._folder, self._needed, self._sensors)


def read_columns(source: Path, needed: str) -> Entries:
    """Read and check the lines of a manifest.

    Args:
        source: its path.
        needed: the sensor that each line must have.

    Raises:
        Misfit: there are none, or something is wrong with them.
        OSError: it cannot be read.
    """
    found = _Reading(needed)
    try:
        if source.suffix == ".csv":
            with source.open(encoding="utf-8-sig", newline="") as text:
                lines = found.table(text)
        else:
            lines = found.objects(source.read_bytes())
    except (UnicodeDecodeError, csv.Error, OverflowError) as error:
        raise Misfit from error
    sensors, columns = found.columns()
    entries = Entries(lines, source.parent, needed, sensors, columns)
    if not len(entries) or not _distinct(found.ids(), lambda place: entries[place].id):
        raise Misfit
    return entries


def _distinct(hashes: NDArray[np.int64], name: Callable[[int], str]) -> bool:
    """Return whether no two names are equal, by their hashes; only names whose hashes are equal are made."""
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return True
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    names: dict[int, set[str]] = defaultdict(set)
    for place in {int(each) for found in same for each in order[found : found + 2]}:
        known = names[int(hashes[place])]
        if (text := name(place)) in known:
            return False
        known.add(text)
    return True


def csv_table(text: Iterable[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the names of the columns, and the number and cells of each line that has any.

    Spreadsheets write empty lines, and empty cells after the last column: an empty name is a column without one.
    """
    table = csv.reader(text)
    header = [name.strip() for name in next(table, [])]
    while header and not header[-1]:
        header.pop()
    filled = ((table.line_num, [cell if cell.strip() else "" for cell in cells]) for cells in table)
    return header, ((line, cells) for line, cells in filled if any(cells))


class _Block:
    """The columns of some lines; a column that none of them has is None."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.columns: dict[str, NDArray[Any]] = {}

    def set(self, name: str, places: slice | list[int], values: NDArray[Any], default: float) -> None:
        if isinstance(places, slice):
            self.columns[name] = values
            return
        if name not in self.columns:
            self.columns[name] = np.full(self.size, default, values.dtype)
        self.columns[name][places] = values


class _Reading:
    """Collects the columns of a manifest, block after block."""

    def __init__(self, needed: str) -> None:
        self._needed = needed
        self._main = {needed, "air", "body"}
        self._blocks: list[_Block] = []
        self._speakers = Codes()
        self._files = Codes()
        self._sounds: Counter[str] = Counter()
        self._filled: Counter[str] = Counter()

    def objects(self, data: bytes) -> Lines:
        """Read JSON objects, one per line."""
        data = data.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in data:  # no JSON text holds one, so it ends a line
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        starts = []
        for text, texts, first in text_blocks(data):
            try:
                records = parsed(texts)
            except ValueError:  # an empty line, or a fault
                filled = [place for place, line in enumerate(texts) if line.strip()]
                first = first[filled]
                try:
                    records = [from_json(texts[place]) for place in filled]
                except ValueError as error:
                    raise Misfit from error
            if set(map(type, records)) - {dict}:
                raise Misfit
            if "null" in text:  # means the same as no column
                records = [{name: value for name, value in each.items() if value is not None} for each in records]
            self._add(records)
            starts.append(first)
        return Lines(data, np.concatenate(starts) if starts else np.zeros(0, np.int64))

    def table(self, text: Iterable[str]) -> Lines:
        """Read CSV. The lines are kept as JSON."""
        header, rows = csv_table(text)
        named = [name for name in header if name]
        if len(set(named)) < len(named):
            raise Misfit
        kept = io.BytesIO()
        starts: list[int] = []
        while block := [cells for _, cells in islice(rows, 4096)]:
            records = []
            for line in block:
                if any(line[len(header) :]):
                    raise Misfit
                record = {name: cell for name, cell in zip(header, line, strict=False) if cell}
                if "" in record:
                    raise Misfit
                records.append(record)
                starts.append(kept.tell())
                kept.write(json.dumps(record).encode() + b"\n")
            self._add(records)
        return Lines(kept.getvalue(), np.array(starts, np.int64))

    def _add(self, records: list[dict[str, Any]]) -> None:
        """Check records, and add their columns."""
        if not records:
            return
        block = _Block(len(records))
        shapes = list(map(tuple, records))
        if len(set(shapes)) == 1:
            self._same(block, slice(None), shapes[0], records)
        else:
            groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for place, shape in enumerate(shapes):
                groups[shape].append(place)
            for shape, places in groups.items():
                self._same(block, places, shape, [records[place] for place in places])
        self._blocks.append(block)

    def _same(
        self, block: _Block, places: slice | list[int], shape: tuple[str, ...], records: list[dict[str, Any]]
    ) -> None:
        """Check records with the same columns, and add these to the block."""
        count = len(records)
        columns = {name: [record[name] for record in records] for name in shape}
        nested = self._nested(columns.get("paths", ()))
        for name in shape:
            values = columns[name]
            if name in NUMBERS:
                numbers = _numbers(values)
                if numbers is None or not np.all(NUMBERS[name][0](numbers)):
                    raise Misfit
                if name in _KEPT:
                    block.set(name, places, numbers, _KEPT[name])
            elif name in self._main:
                over = nested.get(name)
                _require_names(values if over is None else [v for v, o in zip(values, over, strict=True) if o is None])
                block.set(f"file {name}", places, self._files.of(_texts(values, "")), -1)
            elif name not in KNOWN and name not in TEXTS:
                self._other(block, places, name, values)
        for sensor, files in nested.items():
            if sensor in self._main:
                _require_names([file for file in files if file is not None])
            block.set(f"path {sensor}", places, self._codes(files), -1)
        if self._needed not in shape and (self._needed not in nested or None in nested[self._needed]):
            raise Misfit
        splits = columns.get("split", [None])
        if set(map(type, splits)) != {str} or set(splits) - set(SPLITS):
            raise Misfit
        block.set("split", places, np.fromiter(map(SPLITS.index, splits), np.int8, count), 0)
        speakers = _named(columns.get("speaker", [UNKNOWN_SPEAKER] * count))
        block.set("speaker", places, self._speakers.of(speakers), 0)
        ids = _named(columns.get("id", [""] * count))
        if not all(ids):
            written = columns.get(self._needed, [""] * count)
            if self._needed in nested:
                written = [b if a is None else a for a, b in zip(nested[self._needed], written, strict=True)]
            offsets = _numbers(columns["offset"]) if "offset" in columns else np.zeros(count)
            ids = [
                name or derived_id(file, float(offset))
                for name, file, offset in zip(ids, written, offsets, strict=True)  # type: ignore[arg-type]
            ]
            if not all(ids):
                raise Misfit
        block.set("id", places, np.fromiter(map(hash, ids), np.int64, count), 0)

    def _other(self, block: _Block, places: slice | list[int], name: str, values: list[Any]) -> None:
        """Add a column that may be one of files, and perhaps the channel of one."""
        sounds = [is_sound(value) for value in values]
        self._filled[name] += len(values)
        if any(sounds):
            self._sounds[name] += sum(sounds)
            files = [value if sound else None for value, sound in zip(values, sounds, strict=True)]
            block.set(f"file {name}", places, self._codes(files), -1)
        if name.endswith(CHANNEL):
            channels = [number_of(value) for value in values]
            fitting = [-2 if each is None or each < 0 or each % 1 else min(each, _MOST) for each in channels]
            block.set(f"channel {name.removesuffix(CHANNEL)}", places, np.array(fitting, np.int64), -1)

    def _nested(self, paths: Sequence[Any]) -> dict[str, list[str | None]]:
        """Return the files in columns of objects, by sensor."""
        if set(map(type, paths)) - {dict}:
            raise Misfit
        sensors = dict.fromkeys(sensor for each in paths for sensor in each)
        if any(type(file) is not str for each in paths for file in each.values()):
            raise Misfit
        return {sensor: [each.get(sensor) for each in paths] for sensor in sensors}

    def _codes(self, files: Sequence[str | None]) -> NDArray[np.int32]:
        codes = np.full(len(files), -1, np.int32)
        there = [place for place, file in enumerate(files) if file is not None]
        codes[there] = self._files.of([file for file in files if file is not None])
        return codes

    def ids(self) -> NDArray[np.int64]:
        """Return the hash of the id of each line."""
        return self._column("id", np.int64, 0)

    def columns(self) -> tuple[frozenset[str], dict[str, Any]]:
        """Return the columns that hold files, and the columns of entries.

        Raises:
            Misfit: the columns of files, or channels, are not as they should be.
        """
        named = {name for name, count in self._sounds.items() if 2 * count > self._filled[name]}
        if any(self._sounds[name] < self._filled[name] for name in named):
            raise Misfit
        sensors = frozenset(named | self._main)
        kinds = dict.fromkeys(name for block in self._blocks for name in block.columns)
        files: dict[str, NDArray[np.int32]] = {}
        channels: dict[str, NDArray[np.int64]] = {}
        for sensor in dict.fromkeys(kind[5:] for kind in kinds if kind.startswith(("file ", "path "))):
            codes = self._column(f"path {sensor}", np.int32, -1)
            if sensor in sensors:
                codes = np.where(codes >= 0, codes, self._column(f"file {sensor}", np.int32, -1))
            if not (codes >= 0).any():
                continue
            files[sensor] = codes
            if f"channel {sensor}" in kinds:
                given = self._column(f"channel {sensor}", np.int64, -1)
                if ((given == -2) & (codes >= 0)).any():
                    raise Misfit
                channels[sensor] = given
        written = self._in_use(files)
        columns: dict[str, Any] = {name: self._column(name, np.float64, default) for name, default in _KEPT.items()}
        columns["sample_rate"] = slim(columns["sample_rate"].astype(np.int64))
        columns["split"] = self._column("split", np.int8, 0)
        columns["speaker"] = self._column("speaker", np.int32, 0)
        columns["speakers"] = tuple(self._speakers.numbers)
        columns["written"] = written
        return sensors, {**columns, "files": files, "channels": channels}

    def _in_use(self, files: dict[str, NDArray[np.int32]]) -> list[str]:
        """Return the names of the files, line by line, and number the files accordingly."""
        names = list(self._files.numbers)
        if not files:
            return names
        used = np.stack(list(files.values()), axis=1).ravel()
        used = used[used >= 0]
        first = np.full(len(names), len(used), np.int64)
        first[used[::-1]] = np.arange(len(used))[::-1]  # of several places of one file the last that is written stays
        order = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(used))]
        number = np.full(len(names) + 1, -1, np.int32)  # the last entry is that of -1: no file
        number[order] = np.arange(len(order))
        for sensor, codes in files.items():
            files[sensor] = number[codes]
        return [names[place] for place in order.tolist()]

    def _column(self, name: str, kind: Any, default: float) -> NDArray[Any]:
        """Return a column of all blocks; one that is nowhere given takes no memory."""
        if not any(name in block.columns for block in self._blocks):
            return np.broadcast_to(np.array(default, kind), sum(block.size for block in self._blocks))
        parts = [block.columns.pop(name, np.full(block.size, default, kind)) for block in self._blocks]
        return slim(np.concatenate(parts).astype(kind, copy=False))


# Columns of numbers that entries have in arrays, and what they hold where a line does not give one.
_KEPT: Mapping[str, float] = {
    "offset": 0.0,
    "duration": math.nan,
    "sample_rate": 0.0,
    "bandwidth": math.nan,
    "weight": 1.0,
}


def _numbers(values: list[Any]) -> NDArray[np.float64] | None:
    """Return what :func:`~bcfusion.data.corpora.manifest_line.number_of` gives for each value; None if that is None."""
    if set(map(type, values)) - _TYPES:
        return None
    try:
        numbers = np.fromiter(map(float, values), np.float64, len(values))
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _named(values: list[Any]) -> list[str]:
    """Return the names that texts and numbers are."""
    types = set(map(type, values))
    if types - _TYPES:
        raise Misfit
    names = values if types == {str} else list(map(str, values))
    return names if all(map(str.isascii, names)) else list(map(normal_name, names))


def _texts(values: list[Any], otherwise: str) -> list[str]:
    return values if set(map(type, values)) == {str} else [v if type(v) is str else otherwise for v in values]


def _require_names(values: Iterable[Any]) -> None:
    """Check that values are names of files."""
    known = list(values)
    if set(map(type, known)) - {str} or not all(map(str.strip, dict.fromkeys(known))):
        raise Misfit
