"""Manifests: a corpus as a table, one utterance per line.

JSONL (one object per line) or CSV (with a header line), by the file's suffix. UTF-8. Columns:

================  ========  ==========================================================================================
column            needed    meaning
================  ========  ==========================================================================================
air               yes       file of the clean air-conducted speech, the target
split             yes       ``train``, ``valid`` or ``test``
speaker           no        who speaks; speakers should not be in two splits
id                no        unique; without it: the path of air without its suffix (and ``@offset``), if it is relative
body              no        file of the body sensor. Likewise any other column most of whose values end in an audio
                            suffix, except ``text``: the column's name is the sensor's (``noisy``, ``throat``)
paths             no        JSONL only, instead of the columns above: ``{"air": FILE, "body": FILE}``
<sensor>_channel  no        channel of the sensor's file, from 0 (``air_channel``); without it the file is mono
offset            no        where the utterance starts in its files, seconds; 0
duration          no        its length, seconds; to the end of the shortest file
lag               no        seconds by which body comes later than air; 0
polarity          no        -1 if body is inverted, otherwise 1
gain              no        dB by which body is amplified when it is read; 0
sample_rate       no        of air, Hz; read from the file
bandwidth         no        Hz up to which air holds speech, as measured
weight            no        how often training visits the utterance, relative to others of the same length; 1
corpus, snr       no        name, and dB of a recorded noisy sensor: what evaluations group by (kept in ``Row.extra``)
others            no        kept unchanged in ``Row.extra``
================  ========  ==========================================================================================

A manifest of noise has its files in the column ``noise`` instead of ``air``, one of room responses in ``rir``. Relative
paths start at the manifest's own folder. An empty CSV cell means the same as no column. docs/manifests.md shows
examples.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from bcfusion.contracts import Row
from bcfusion.data.corpora.manifest_columns import Entries, Misfit, csv_table, read_columns
from bcfusion.data.corpora.manifest_line import entry_of, faults, file_columns, record_of
from bcfusion.errors import DataError
from bcfusion.files import NamesOnDisk, appearing, from_json, normal_name, on_disk
from bcfusion.nearest import nearest_path

SUFFIXES = (".jsonl", ".csv")
_PROBLEMS_SHOWN = 10


def read_manifest(path: str | os.PathLike[str], needed: str = "air") -> Entries:
    """Read and check a manifest; whether the sound files exist is not checked.

    Args:
        path: the manifest.
        needed: the column whose file every line must have: ``air``, or ``noise`` or ``rir`` for corpora without speech.

    Returns:
        The lines, as columns; an entry is made when it is asked for.

    Raises:
        DataError: the manifest is missing, of another kind, or empty; or its lines have problems: all are reported at
            once, each with its line number, ten in full and the rest as a number.
    """
    source = _manifest_path(path)
    try:
        return read_columns(source, needed)
    except (OSError, Misfit) as error:
        raise _refusal(source, needed) from (error if isinstance(error, OSError) else None)


def _refusal(source: Path, needed: str) -> DataError:
    """Return what is wrong with a manifest that cannot be used."""
    problems: list[str] = []
    line_of: dict[str, int] = {}
    columns: dict[str, None] = {}
    names = NamesOnDisk()
    try:
        # read twice instead of kept: what a column holds is known at the end, and a manifest may have millions of lines
        files = file_columns(_noted(_read_lines(source), columns), needed)
        for line, record in _read_lines(source):
            found = [record] if isinstance(record, str) else faults(record, needed, files)
            if not found and not isinstance(record, str):
                name = entry_of(record, source.parent, needed, files, names).id
                if not name:
                    found = [f"id: missing, and the absolute path of {needed} is no name: give the line an id"]
                elif name in line_of:
                    found = [f"id: {name!r} is also the id of line {line_of[name]}"]
                else:
                    line_of[name] = line
            problems.extend(f"line {line}: {problem}" for problem in found)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return DataError(f"cannot read manifest {source.absolute()}: {_reason(error)}")
    absent = [] if "paths" in columns else [name for name in (needed, "split") if name not in columns]
    if absent and columns:  # reported once, not for each of a million lines
        separated = "; cells are separated by commas" if len(columns) == 1 and source.suffix == ".csv" else ""
        return DataError(
            f"manifest {source} has no column {' and no column '.join(map(repr, absent))}; its columns: "
            f"{', '.join(map(repr, columns))}{separated}"
        )
    if problems:
        return DataError(listed(source, problems))
    return DataError(f"manifest {source} holds no utterance: each is a line with {needed} and split")


def _read_lines(source: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with source.open(encoding="utf-8-sig", newline="") as text:
        yield from _records(text, source.suffix)


def _noted(lines: Iterable[tuple[int, dict[str, Any] | str]], columns: dict[str, None]) -> Iterator[Mapping[str, Any]]:
    """Yield the records of lines, and note the names of their columns."""
    for _, record in lines:
        if not isinstance(record, str):
            columns.update(dict.fromkeys(record))
            yield record


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"it does not exist{nearest_path(error.filename)}" if error.filename else "it does not exist"
    if isinstance(error, IsADirectoryError):
        return "it is a folder; is the manifest a file in it?"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8 text; save the file as UTF-8"
    return str(error)


def listed(path: Path, problems: Sequence[str]) -> str:
    """Return the problems of a manifest as one message: ten in full, the rest as a number."""
    shown = list(problems[:_PROBLEMS_SHOWN])
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    return "\n".join([f"manifest {path} has {len(problems)} problem(s):", *shown])


def write_manifest(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write rows as JSONL or CSV, by the suffix; the manifest appears whole or not at all.

    Files below the manifest's folder are written relative to it, so that the folder can be moved; others absolute.

    Raises:
        DataError: another suffix, a place that cannot be written to, or a column of ``extra`` that would be read as a
            sensor.
    """
    target = _manifest_path(path)
    records = [record_of(row, target.parent.resolve()) for row in rows]
    texts = (value for record in records for value in record.values() if isinstance(value, str))
    foreign = next((text for text in texts if not _is_utf8(text)), None) if target.suffix == ".csv" else None
    if foreign is not None:
        raise DataError(
            f"cannot write manifest {target}: {normal_name(foreign)} is not UTF-8; rename the file, or write a .jsonl"
        )
    try:
        with appearing(target) as part, part.open("w", encoding="utf-8", newline="") as text:
            if target.suffix == ".jsonl":
                text.writelines(map(_json_line, records))
            else:
                columns = list(dict.fromkeys(column for record in records for column in record))
                table = csv.DictWriter(text, columns, lineterminator="\n")
                table.writeheader()
                table.writerows(records)
    except OSError as error:
        raise DataError(f"cannot write manifest {target}: {error.strerror}") from error


def _manifest_path(path: str | os.PathLike[str]) -> Path:
    manifest = on_disk(path)
    if manifest.suffix not in SUFFIXES:
        raise DataError(f"{manifest}: a manifest ends in {' or '.join(SUFFIXES)}")
    return manifest


def _json_line(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    # a name that is not UTF-8 is written as an escape, which is read back as the same name
    return (text if _is_utf8(text) else json.dumps(record)) + "\n"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _records(text: TextIO, suffix: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the number of each line and its record, or what is wrong with it."""
    if suffix == ".csv":
        header, rows = csv_table(text)
        if twice := sorted({name for name in header if name and header.count(name) > 1}):
            yield 1, f"the header names {', '.join(map(repr, twice))} twice"
        for line, cells in rows:
            if extra := sum(map(bool, cells[len(header) :])):
                yield line, f"{extra} cell(s) more than the header names"
            elif nameless := [cell for name, cell in zip(header, cells, strict=False) if cell and not name]:
                yield line, f"{nameless[0]!r} is in a column without a name"
            else:
                yield line, {name: cell for name, cell in zip(header, cells, strict=False) if cell}
        return
    for line, content in enumerate(text, start=1):
        if not content.strip():
            continue
        try:
            record = from_json(content)
        except json.JSONDecodeError as error:
            yield line, f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
            continue
        except ValueError as error:
            yield line, f"not JSON that can be read: {error}"
            continue
        if isinstance(record, dict):
            yield line, {name: value for name, value in record.items() if value is not None}
        else:
            yield line, "not an object {...}"
