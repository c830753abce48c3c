"""What a shard holds and where: read from its index, or from the shard itself if the index is missing or outdated."""

from __future__ import annotations

import json
import logging
import math
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from bcfusion import audio
from bcfusion.contracts import Row
from bcfusion.data.corpora.json_lines import Lines, parsed, text_blocks
from bcfusion.data.corpora.table import Codes, Columns, joined
from bcfusion.errors import DataError
from bcfusion.files import appearing, from_json

logger = logging.getLogger(__name__)

HEADER = "__shard__"  #: first member of a shard; WebDataset skips such names
HEADER_BYTES = 256  #: of its content, padded with spaces
VERSION = 1
LARGEST_JSON = 1_000_000  #: bytes of the description of an utterance
_DEFAULTS = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory() for field in fields(Row)
}


class ShardError(DataError):
    """A file is not a shard, or one that this version cannot read."""


class Header(NamedTuple):
    """The first member of a shard, which identifies it.

    Attributes:
        split: of its utterances.
        number: of the shard within the split, from 0.
        shards: number of shards of the split.
        rows: number of utterances in the shard.
        corpus: fingerprint of the whole split, the same in all its shards.
    """

    split: str
    number: int
    shards: int
    rows: int
    corpus: str


class Entry(NamedTuple):
    """One utterance in a shard: its row as :func:`record` writes it, and offset and size of each sensor's file."""

    row: dict[str, Any]
    files: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Shard:
    """A shard and its content.

    Attributes:
        tar: its path.
        header: its first member.
        entries: the utterances that can be read.
        problem: why entries are missing, or None.
    """

    tar: Path
    header: Header
    entries: Sequence[Entry]
    problem: str | None = None

    def row(self, place: int) -> Row:
        """Return an utterance as a row of a corpus, whose paths are parts of the shard."""
        archive = os.fspath(self.tar)
        row, files = self.entries[place]
        return row_of(row, {name: audio.part(archive, *where) for name, where in files.items()})

    def columns(self) -> ShardColumns:
        """Return the columns of its utterances.

        Raises:
            ShardError: a row has unknown fields, or lacks some.
        """
        entries = self.entries
        kinds = entries.kinds if isinstance(entries, _Indexed) else _kinds(entry.row for entry in entries)
        for row in kinds.values():
            row_of(row, {})
        if isinstance(entries, _Indexed):
            return entries.columns
        return ShardColumns.of([entry.row for entry in entries], [entry.files for entry in entries])


class ShardColumns(NamedTuple):
    """What checks and samplers need of the utterances of a shard, and the hash of the id of each."""

    columns: Columns
    ids: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], files: Sequence[Mapping[str, Any]]) -> ShardColumns:
        """Collect the columns of rows, as :func:`record` writes them, and of their files by sensor."""
        count = len(rows)
        speakers, sets = Codes(), Codes()
        sensors = sets.of(list(map(tuple, files)))
        bandwidth = [row.get("bandwidth") for row in rows]
        columns = Columns(
            speaker=speakers.of([row["speaker"] for row in rows]),
            speakers=tuple(speakers.numbers),
            sensors=sensors,
            sensor_sets=tuple(map(frozenset, sets.numbers)),
            sample_rate=np.array([row["sample_rate"] for row in rows], np.int64),
            duration=np.array([row["duration"] for row in rows], np.float64),
            weight=np.array([row.get("weight", 1.0) for row in rows], np.float64),
            bandwidth=np.array([math.nan if each is None else each for each in bandwidth], np.float64),
            distinct=False,  # not known
        )
        return cls(columns, np.fromiter(map(hash, [row["id"] for row in rows]), np.int64, count))

    @classmethod
    def together(cls, parts: Sequence[ShardColumns]) -> ShardColumns:
        """Return the columns of several parts, one after the other.

        Args:
            parts: at least one.
        """
        ids = np.concatenate([part.ids for part in parts])
        return cls(joined([part.columns for part in parts], distinct=len(np.unique(ids)) == len(ids)), ids)


def _has_id(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("id"), str) and bool(row["id"])


def _kinds(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return one row for each set of fields that rows have."""
    return {tuple(row): row for row in rows}


class _Indexed(Sequence[Entry]):
    """The entries of an index, as columns; an entry is made when it is asked for.

    Args:
        data: the index.
        begin: where its first entry begins.

    Attributes:
        columns: of the entries.
        kinds: one row for each set of fields that rows have.
    """

    def __init__(self, data: bytes, begin: int) -> None:
        self.kinds: dict[tuple[str, ...], dict[str, Any]] = {}
        starts, parts = [np.zeros(0, np.int64)], [ShardColumns.of([], [])]
        for _, texts, first in text_blocks(data, begin):
            lines = parsed(texts)
            rows, files = [line["row"] for line in lines], [line["files"] for line in lines]
            if any(len(place) != 2 for each in files for place in each.values()):
                raise ValueError("a file has no place in the shard")
            if not all(map(_has_id, rows)):
                raise ValueError("a row has no id")
            self.kinds |= _kinds(rows)
            starts.append(first)
            parts.append(ShardColumns.of(rows, files))
        self._lines = Lines(data, np.concatenate(starts))
        self.columns = ShardColumns.together(parts)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return _entry(self._lines.record(index))


def _entry(line: Mapping[str, Any]) -> Entry:
    return Entry(line["row"], {name: (place[0], place[1]) for name, place in line["files"].items()})


def record(row: Row) -> dict[str, Any]:
    """Return a row as JSON values, without paths and without default values."""
    values = {field.name: getattr(row, field.name) for field in fields(Row) if field.name != "paths"}
    return {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value != _DEFAULTS[name]
    }


def row_of(values: Mapping[str, Any], paths: Mapping[str, str]) -> Row:
    """Return the row of a :func:`record`.

    Raises:
        ShardError: it has unknown fields, or lacks some.
    """
    try:
        return Row(paths=paths, **{name: value for name, value in values.items() if name != "files"})
    except TypeError as error:
        raise ShardError(f"a row of another version of bcfusion: {error}") from error


def index_path(tar: Path) -> Path:
    """Return the path of a shard's index."""
    return tar.with_name(tar.name.removesuffix(".tar") + ".index.jsonl")


def load(tar: Path) -> Shard:
    """Read what a shard holds: from its index or, if that is missing, damaged or older than the shard, by :func:`scan`.

    In the latter case the index is written again if possible.

    Raises:
        ShardError: the file is not a shard, or nothing in it can be read.
    """
    path = index_path(tar)
    try:
        stat = tar.stat()
        written = path.stat().st_mtime_ns if path.exists() else None
    except OSError as error:
        raise ShardError(f"cannot read {tar}: {error.strerror}") from error
    if written is not None and written >= stat.st_mtime_ns:
        known = _read(path, tar, stat.st_size)
        if known is not None:
            return known
    shard = scan(tar)
    if shard.problem is None:
        try:
            write(shard)
            logger.info("%s: index written (%s)", tar, "there was none" if written is None else "it was not up to date")
        except OSError as error:
            logger.warning("%s: scanned, since its index cannot be written: %s", tar, error.strerror)
    return shard


def scan(tar: Path) -> Shard:
    """Read what a shard holds, without its index. Of a truncated shard, everything before the cut is used.

    Raises:
        ShardError: the file is not a shard, or nothing in it can be read.
    """
    header: Header | None = None
    problem: str | None = None
    rows: dict[str, dict[str, Any]] = {}
    files: dict[str, dict[str, tuple[int, int]]] = {}
    size = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as archive:
            names: set[str] = set()
            for member in archive:
                check_member(member)
                if member.offset_data + member.size > size:
                    problem = "it is truncated"
                    break
                if member.isdir():
                    continue
                if member.name in names:
                    raise ValueError(f"it holds {member.name} twice")
                names.add(member.name)
                if member.name == HEADER:
                    header = _header(_json(archive, member), tar)
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}"
                if suffix == "json":
                    rows[key] = _json(archive, member)
                    if not isinstance(rows[key].get("files"), dict):
                        raise ValueError(f"{member.name} names no files")
                    if not _has_id(rows[key]):
                        raise ValueError(f"{member.name} names no id")
                else:
                    files.setdefault(key, {})[suffix] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError, ValueError, LookupError, RecursionError) as error:
        problem = f"it is damaged or truncated ({error})"
    if header is None:
        raise ShardError(f"{tar} is not a shard of bcfusion prepare" + (f": {problem}" if problem else ""))
    entries = []
    for key, row in rows.items():
        there = files.get(key, {})
        if all(suffix in there for suffix in row["files"].values()):
            entries.append(Entry(row, {sensor: there[suffix] for sensor, suffix in row["files"].items()}))
    if problem is None and len(entries) < header.rows:
        problem = "it is truncated"
    return Shard(tar, header, entries, problem)


def write(shard: Shard) -> None:
    """Write the index of a shard; it appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    about = {"version": VERSION, "bytes": shard.tar.stat().st_size, **shard.header._asdict()}
    with appearing(index_path(shard.tar)) as part, part.open("w", encoding="utf-8") as text:
        text.write(json.dumps(about) + "\n")
        text.writelines(json.dumps(entry._asdict(), ensure_ascii=False) + "\n" for entry in shard.entries)


def _read(path: Path, tar: Path, size: int) -> Shard | None:
    """Return what an index holds; None if it does not belong to this shard or is damaged."""
    try:
        data = path.read_bytes()
        begin = data.find(b"\n") + 1
        about = from_json(data[:begin])
        if not isinstance(about, dict) or about.get("version") != VERSION or about.get("bytes") != size:
            return None
        header = Header(*(about[name] for name in Header._fields))
        with tar.open("rb") as archive:  # sizes of tars are rounded, so many shards have equal sizes
            archive.seek(tarfile.BLOCKSIZE)
            if _header(from_json(archive.read(HEADER_BYTES)), tar) != header:
                return None
        entries = _Indexed(data, begin)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ShardError):
        return None
    return Shard(tar, header, entries) if len(entries) == header.rows else None


def header_content(header: Header) -> bytes:
    """Return the content of the first member, of fixed length, since the number of rows is known only at the end."""
    return json.dumps({"version": VERSION, **header._asdict()}).ljust(HEADER_BYTES).encode()


def check_member(member: tarfile.TarInfo) -> None:
    """Raise an error unless a member of a shard is a plain file of a possible size, or a folder.

    A link or a device would be read from elsewhere. A size below zero leads Python's reader to the same member for
    ever, and one of a sparse file is not that of its data.

    Raises:
        ValueError: it is something else.
    """
    if member.size < 0 or member.issparse() or not (member.isreg() or member.isdir()):
        raise ValueError(f"{member.name} is no plain file")
    if member.name.endswith(".json") and member.size > LARGEST_JSON:
        raise ValueError(f"{member.name} is longer than {LARGEST_JSON} bytes")


def _json(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    content = archive.extractfile(member)
    values = from_json(content.read()) if content is not None else None
    if not isinstance(values, dict):
        raise ValueError(f"{member.name} is not a JSON object")
    return values


def _header(values: Mapping[str, Any], tar: Path) -> Header:
    if values.get("version") != VERSION:
        raise ShardError(f"{tar}: written by another version of bcfusion (shard version {values.get('version')})")
    return Header(*(values[name] for name in Header._fields))
