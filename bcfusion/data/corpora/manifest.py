"""Manifests: a corpus as a table, one utterance per line.

JSONL (one object per line) or CSV (with a header line), by the file's suffix. UTF-8. Columns:

================  ========  ==========================================================================================
column            needed    meaning
================  ========  ==========================================================================================
air               yes       file of the clean air-conducted speech, the target
split             yes       ``train``, ``valid`` or ``test``
speaker           no        who speaks; speakers should not be in two splits
id                no        unique; without it: the path of air without its suffix (and ``@offset``), if it is relative
body              no        file of the body sensor. Likewise any other column whose values end in an audio suffix: the
                            column's name is the sensor's (``noisy``, ``throat``)
paths             no        JSONL only, instead of the columns above: ``{"air": FILE, "body": FILE}``
<sensor>_channel  no        channel of the sensor's file, from 0 (``air_channel``); without it the file is mono
offset            no        where the utterance starts in its files, seconds; 0
duration          no        its length, seconds; to the end of the shortest file
lag               no        seconds by which body comes later than air; 0
polarity          no        -1 if body is inverted, otherwise 1
gain              no        dB by which body is amplified when it is read; 0
sample_rate       no        of air, Hz; read from the file
bandwidth         no        Hz up to which air holds speech, as measured
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from bcfusion.contracts import Row
from bcfusion.data.corpora.manifest_line import ManifestEntry, entry_of, faults, record_of
from bcfusion.errors import DataError
from bcfusion.files import appearing
from bcfusion.nearest import nearest_path

SUFFIXES = (".jsonl", ".csv")
_PROBLEMS_SHOWN = 10


def read_manifest(path: str | os.PathLike[str], needed: str = "air") -> list[ManifestEntry]:
    """Read and check a manifest; whether the sound files exist is not checked.

    Args:
        path: the manifest.
        needed: the column whose file every line must have: ``air``, or ``noise`` or ``rir`` for corpora without speech.

    Raises:
        DataError: the manifest is missing, of another kind, or empty; or its lines have problems: all are reported at
            once, each with its line number, ten in full and the rest as a number.
    """
    source = _manifest_path(path)
    entries: list[ManifestEntry] = []
    problems: list[str] = []
    line_of: dict[str, int] = {}
    columns: dict[str, None] = {}
    try:
        with source.open(encoding="utf-8-sig", newline="") as text:
            for line, record in _records(text, source.suffix):
                if not isinstance(record, str):
                    columns.update(dict.fromkeys(record))
                found = [record] if isinstance(record, str) else faults(record, needed)
                if not found and not isinstance(record, str):
                    entry = entry_of(record, source.parent, needed)
                    if not entry.id:
                        found = [f"id: missing, and the absolute path of {needed} is no name: give the line an id"]
                    elif entry.id in line_of:
                        found = [f"id: {entry.id!r} is also the id of line {line_of[entry.id]}"]
                    else:
                        line_of[entry.id] = line
                        entries.append(entry)
                problems.extend(f"line {line}: {problem}" for problem in found)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read manifest {source.absolute()}: {_reason(error)}") from error
    absent = [] if "paths" in columns else [name for name in (needed, "split") if name not in columns]
    if absent and columns:  # reported once, not for each of a million lines
        separated = "; cells are separated by commas" if len(columns) == 1 and source.suffix == ".csv" else ""
        raise DataError(
            f"manifest {source} has no column {' and no column '.join(map(repr, absent))}; its columns: "
            f"{', '.join(map(repr, columns))}{separated}"
        )
    if problems:
        raise DataError(listed(source, problems))
    if not entries:
        raise DataError(f"manifest {source} holds no utterance: each is a line with {needed} and split")
    return entries


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
    try:
        with appearing(target) as part, part.open("w", encoding="utf-8", newline="") as text:
            if target.suffix == ".jsonl":
                text.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            else:
                columns = list(dict.fromkeys(column for record in records for column in record))
                table = csv.DictWriter(text, columns, lineterminator="\n")
                table.writeheader()
                table.writerows(records)
    except OSError as error:
        raise DataError(f"cannot write manifest {target}: {error}") from error


def _manifest_path(path: str | os.PathLike[str]) -> Path:
    manifest = Path(path).expanduser()
    if manifest.suffix not in SUFFIXES:
        raise DataError(f"{manifest}: a manifest ends in {' or '.join(SUFFIXES)}")
    return manifest


def _records(text: TextIO, suffix: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the number of each line and its record, or what is wrong with it."""
    if suffix == ".csv":
        table = csv.DictReader(text)
        header = table.fieldnames or []
        if twice := sorted({name for name in header if header.count(name) > 1}):
            yield 1, f"the header names {', '.join(map(repr, twice))} twice"
        for cells in table:
            if None in cells:
                yield table.line_num, f"{len(cells[None])} cell(s) more than the header names"
            else:
                yield table.line_num, {name: cell for name, cell in cells.items() if cell not in ("", None)}
        return
    for line, content in enumerate(text, start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except json.JSONDecodeError as error:
            yield line, f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
            continue
        if isinstance(record, dict):
            yield line, {name: value for name, value in record.items() if value is not None}
        else:
            yield line, "not an object {...}"
