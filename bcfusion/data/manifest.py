"""Manifests: a corpus written down as a table, one utterance a line.

JSONL (one object a line) or CSV (with a header line), by the file's suffix. UTF-8. Columns:

============  ========  ==============================================================================================
column        needed    meaning
============  ========  ==============================================================================================
air           yes       file of the clean air-conducted speech, the target
split         yes       ``train``, ``valid`` or ``test``
speaker       no        who speaks; speakers should not be in two splits
id            no        unique; without it: the path of air without its suffix (and ``@offset``), if that is relative
body          no        file of the body sensor. So any other column whose values end in an audio suffix: the column's
                        name is the sensor's (``noisy``, ``throat``)
paths         no        JSONL only, in place of the columns above: ``{"air": FILE, "body": FILE}``
offset        no        where the utterance begins in its files, seconds; 0
duration      no        how long it is, seconds; to the end of the shortest file
lag           no        seconds by which body comes later than air; 0
polarity      no        -1 where body is inverted, else 1
sample_rate   no        of air, Hz; read from the file
others        no        kept as they are in ``Row.extra``
============  ========  ==============================================================================================

Relative paths start at the manifest's own folder. An empty CSV cell is as good as no column.
"""

from __future__ import annotations

import csv
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TextIO

from bcfusion.audio import EXTENSIONS
from bcfusion.contracts import Row
from bcfusion.errors import DataError

SPLITS = ("train", "valid", "test")
_NUMBERS = ("offset", "duration", "lag", "polarity", "sample_rate")
_KNOWN = ("id", "split", "speaker", "paths", *_NUMBERS)
_PROBLEMS_SHOWN = 10
ROUNDING_SECONDS = 0.05  #: durations in manifests are rounded: one may say this much more than the file has


@dataclass(frozen=True)
class ManifestEntry:
    """One line of a manifest, checked. ``duration`` and ``sample_rate`` are None where it leaves them open."""

    id: str
    paths: Mapping[str, str]
    speaker: str
    split: str
    sample_rate: int | None
    duration: float | None
    offset: float
    lag: float
    polarity: int
    extra: Mapping[str, Any]

    def row(self, duration: float, sample_rate: int) -> Row:
        """Complete it to a row of a corpus: ``duration`` in seconds, ``sample_rate`` of air in Hz."""
        return Row(
            id=self.id,
            paths=self.paths,
            speaker=self.speaker,
            split=self.split,
            sample_rate=sample_rate,
            duration=duration,
            offset=self.offset,
            lag=self.lag,
            polarity=self.polarity,
            extra=self.extra,
        )


def read_manifest(path: str | os.PathLike[str]) -> list[ManifestEntry]:
    """Read and check a manifest. Whether the sound files are there is not looked at.

    Raises:
        DataError: the manifest is missing, of another kind, or empty; or its lines have problems: all are reported at
            once, each with its line number, ten in full and the rest as a number.
    """
    source = Path(path).expanduser()
    if source.suffix not in (".jsonl", ".csv"):
        raise DataError(f"{source}: a manifest ends in .jsonl or .csv")
    entries: list[ManifestEntry] = []
    problems: list[str] = []
    line_of: dict[str, int] = {}
    try:
        with source.open(encoding="utf-8-sig", newline="") as text:
            for line, record in _records(text, source.suffix):
                found = [record] if isinstance(record, str) else _problems(record)
                if not found and not isinstance(record, str):
                    entry = _entry(record, source.parent)
                    if not entry.id:
                        found = ["id: missing, and air has an absolute path, which is no name on another machine"]
                    elif entry.id in line_of:
                        found = [f"id: {entry.id!r} is that of line {line_of[entry.id]} too"]
                    else:
                        line_of[entry.id] = line
                        entries.append(entry)
                problems.extend(f"line {line}: {problem}" for problem in found)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read manifest {source}: {error}") from error
    if problems:
        raise DataError(listed(source, problems))
    if not entries:
        raise DataError(f"manifest {source} holds no utterance")
    return entries


def listed(path: Path, problems: Sequence[str]) -> str:
    """The problems of a manifest as one message: ten in full, the rest as a number."""
    shown = list(problems[:_PROBLEMS_SHOWN])
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    return "\n".join([f"manifest {path} has {len(problems)} problem(s):", *shown])


def write_manifest(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write rows as JSONL or CSV, by the suffix; it appears whole or not at all.

    Files beneath the manifest's folder are written relative to it, so that the folder can be moved; others absolute.

    Raises:
        DataError: another suffix, or a place that cannot be written to.
    """
    target = Path(path).expanduser()
    if target.suffix not in (".jsonl", ".csv"):
        raise DataError(f"{target}: a manifest ends in .jsonl or .csv")
    records = [_record(row, target.parent.resolve()) for row in rows]
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="") as text:
            if target.suffix == ".jsonl":
                text.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            else:
                columns = list(dict.fromkeys(column for record in records for column in record))
                table = csv.DictWriter(text, columns, lineterminator="\n")
                table.writeheader()
                table.writerows(records)
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write manifest {target}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _records(text: TextIO, suffix: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line number and record, or what is wrong with the line."""
    if suffix == ".csv":
        table = csv.DictReader(text)
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
            yield line, f"not JSON: {error.msg} at column {error.colno}"
            continue
        if isinstance(record, dict):
            yield line, {name: value for name, value in record.items() if value is not None}
        else:
            yield line, "not an object {...}"


def _paths(record: Mapping[str, Any]) -> dict[str, str]:
    """Sensor to file, as written: from ``paths``, or from the columns that are files."""
    if "paths" in record:
        return dict(record["paths"])
    return {
        column: value
        for column, value in record.items()
        if column not in _KNOWN
        and isinstance(value, str)
        and (column in ("air", "body") or value.lower().endswith(EXTENSIONS))
    }


def _problems(record: Mapping[str, Any]) -> list[str]:
    found = []
    if "paths" in record and not (
        isinstance(record["paths"], Mapping) and all(isinstance(value, str) for value in record["paths"].values())
    ):
        found.append(f"paths: {record['paths']!r} is not an object of sensor names and files")
    elif "air" not in _paths(record):
        found.append("air: missing, the file of the clean speech")
    if record.get("split") not in SPLITS:
        found.append(f"split: {record.get('split')!r} is none of {', '.join(SPLITS)}")
    for name in _NUMBERS:
        if name in record and _number(record[name]) is None:
            found.append(f"{name}: {record[name]!r} is not a number")
    values = {name: _number(record[name]) for name in _NUMBERS if name in record}
    if (offset := values.get("offset")) is not None and offset < 0:
        found.append(f"offset: {offset:g} s is negative")
    if (duration := values.get("duration")) is not None and duration <= 0:
        found.append(f"duration: {duration:g} s is not positive")
    if (polarity := values.get("polarity")) is not None and polarity not in (-1, 1):
        found.append(f"polarity: {polarity:g} is neither 1 nor -1")
    if (rate := values.get("sample_rate")) is not None and (rate < 1 or rate != int(rate)):
        found.append(f"sample_rate: {rate:g} is not a positive number of Hz")
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _entry(record: Mapping[str, Any], folder: Path) -> ManifestEntry:
    written = _paths(record)
    number = {name: float(record[name]) for name in _NUMBERS if name in record}
    offset = number.get("offset", 0.0)
    identity = str(record.get("id", ""))
    air = PurePath(written["air"])
    if not identity and not air.is_absolute():
        identity = air.with_suffix("").as_posix() + (f"@{offset:g}" if offset else "")
    return ManifestEntry(
        id=identity,
        paths={sensor: os.fspath(folder / Path(file).expanduser()) for sensor, file in written.items()},
        speaker=str(record.get("speaker", "unknown")),
        split=record["split"],
        sample_rate=int(number["sample_rate"]) if "sample_rate" in number else None,
        duration=number.get("duration"),
        offset=offset,
        lag=number.get("lag", 0.0),
        polarity=int(number.get("polarity", 1)),
        extra={name: value for name, value in record.items() if name not in _KNOWN and name not in written},
    )


def _record(row: Row, folder: Path) -> dict[str, Any]:
    files = {}
    for sensor, file in row.paths.items():
        absolute = Path(os.path.abspath(file))
        resolved = absolute.resolve()
        files[sensor] = resolved.relative_to(folder).as_posix() if resolved.is_relative_to(folder) else str(absolute)
    return {
        "id": row.id,
        "split": row.split,
        "speaker": row.speaker,
        **files,
        "offset": row.offset,
        "duration": row.duration,
        "lag": row.lag,
        "polarity": row.polarity,
        "sample_rate": row.sample_rate,
        **row.extra,
    }
