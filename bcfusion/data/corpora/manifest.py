"""Manifests: a corpus written down as a table, one utterance a line.

JSONL (one object a line) or CSV (with a header line), by the file's suffix. UTF-8. Columns:

================  ========  ==========================================================================================
column            needed    meaning
================  ========  ==========================================================================================
air               yes       file of the clean air-conducted speech, the target
split             yes       ``train``, ``valid`` or ``test``
speaker           no        who speaks; speakers should not be in two splits
id                no        unique; without it: the path of air without its suffix (and ``@offset``), if it is relative
body              no        file of the body sensor. So any other column whose values end in an audio suffix: the
                            column's name is the sensor's (``noisy``, ``throat``)
paths             no        JSONL only, in place of the columns above: ``{"air": FILE, "body": FILE}``
<sensor>_channel  no        channel of the sensor's file, from 0 (``air_channel``); without it the file is mono
offset            no        where the utterance begins in its files, seconds; 0
duration          no        how long it is, seconds; to the end of the shortest file
lag               no        seconds by which body comes later than air; 0
polarity          no        -1 where body is inverted, else 1
gain              no        dB by which body is amplified when it is read; 0
sample_rate       no        of air, Hz; read from the file
bandwidth         no        Hz up to which air holds speech, as measured
corpus, snr       no        name, and dB of a recorded noisy sensor: what evaluations group by (kept in ``Row.extra``)
others            no        kept as they are in ``Row.extra``
================  ========  ==========================================================================================

In a manifest of noise the file is in the column ``noise``, in one of room responses in ``rir``, in place of ``air``.
Relative paths start at the manifest's own folder. An empty CSV cell is as good as no column.
docs/manifests.md shows examples.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TextIO

from bcfusion.audio import EXTENSIONS
from bcfusion.contracts import UNKNOWN_SPEAKER, Row
from bcfusion.data.corpora.manifest_line import CHANNEL, KNOWN, NUMBERS, faults, sensor_files
from bcfusion.errors import DataError

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
    channels: Mapping[str, int]
    gain: float
    bandwidth: float | None

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
            channels=self.channels,
            gain=self.gain,
            bandwidth=self.bandwidth,
        )


def read_manifest(path: str | os.PathLike[str], needed: str = "air") -> list[ManifestEntry]:
    """Read and check a manifest. Whether the sound files are there is not looked at.

    Args:
        path: the manifest.
        needed: the column whose file every line must have: ``air``, or ``noise`` or ``rir`` for corpora without speech.

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
    columns: dict[str, None] = {}
    try:
        with source.open(encoding="utf-8-sig", newline="") as text:
            for line, record in _records(text, source.suffix):
                if not isinstance(record, str):
                    columns.update(dict.fromkeys(record))
                found = [record] if isinstance(record, str) else faults(record, needed)
                if not found and not isinstance(record, str):
                    entry = _entry(record, source.parent, needed)
                    if not entry.id:
                        found = [f"id: missing, and the absolute path of {needed} is no name: give the line an id"]
                    elif entry.id in line_of:
                        found = [f"id: {entry.id!r} is that of line {line_of[entry.id]} too"]
                    else:
                        line_of[entry.id] = line
                        entries.append(entry)
                problems.extend(f"line {line}: {problem}" for problem in found)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read manifest {source.absolute()}: {_reason(error)}") from error
    absent = [] if "paths" in columns else [name for name in (needed, "split") if name not in columns]
    if absent and columns:  # told once, not for each of a million lines
        separated = "; cells are separated by commas" if len(columns) == 1 and source.suffix == ".csv" else ""
        raise DataError(
            f"manifest {source} has no column {' and no column '.join(map(repr, absent))}; its columns: "
            f"{', '.join(map(repr, columns))}{separated}"
        )
    if problems:
        raise DataError(listed(source, problems))
    if not entries:
        raise DataError(f"manifest {source} holds no utterance: each is a line that has {needed} and split")
    return entries


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, IsADirectoryError):
        return "it is a folder; the manifest is a file in it?"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not text in UTF-8; save it as such"
    return str(error)


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
        DataError: another suffix, a place that cannot be written to, or a column of ``extra`` that would be read as a
            sensor.
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


def _entry(record: Mapping[str, Any], folder: Path, needed: str) -> ManifestEntry:
    written = sensor_files(record, needed)
    channel_columns = {sensor: sensor + CHANNEL for sensor in written if sensor + CHANNEL in record}
    number = {name: float(record[name]) for name in NUMBERS if name in record}
    offset = number.get("offset", 0.0)
    identity = str(record.get("id", ""))
    main = PurePath(written[needed])
    if not identity and not main.is_absolute():
        identity = main.with_suffix("").as_posix() + (f"@{offset:g}" if offset else "")
    return ManifestEntry(
        id=identity,
        paths={sensor: os.fspath(folder / Path(file).expanduser()) for sensor, file in written.items()},
        speaker=str(record.get("speaker", UNKNOWN_SPEAKER)),
        split=record["split"],
        sample_rate=int(number["sample_rate"]) if "sample_rate" in number else None,
        duration=number.get("duration"),
        offset=offset,
        lag=number.get("lag", 0.0),
        polarity=int(number.get("polarity", 1)),
        extra={
            name: value
            for name, value in record.items()
            if name not in KNOWN and name not in written and name not in channel_columns.values()
        },
        channels={sensor: int(float(record[column])) for sensor, column in channel_columns.items()},
        gain=number.get("gain", 0.0),
        bandwidth=number.get("bandwidth"),
    )


def _record(row: Row, folder: Path) -> dict[str, Any]:
    files = {}
    for sensor, file in row.paths.items():
        absolute = Path(os.path.abspath(file))
        resolved = absolute.resolve()
        files[sensor] = resolved.relative_to(folder).as_posix() if resolved.is_relative_to(folder) else str(absolute)
    record: dict[str, Any] = {
        "id": row.id,
        "split": row.split,
        "speaker": row.speaker,
        **files,
        **{sensor + CHANNEL: channel for sensor, channel in row.channels.items()},
        "offset": row.offset,
        "duration": row.duration,
        "lag": row.lag,
        "polarity": row.polarity,
        "gain": row.gain,
        "sample_rate": row.sample_rate,
    }
    if row.bandwidth is not None:
        record["bandwidth"] = row.bandwidth
    for name, value in row.extra.items():
        if name in record or name in KNOWN or (isinstance(value, str) and value.lower().endswith(EXTENSIONS)):
            raise DataError(f"{row.id}: the extra column {name!r} = {value!r} would be read as something else")
        record[name] = value
    return record
