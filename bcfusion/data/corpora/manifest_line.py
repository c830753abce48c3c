"""One line of a manifest: its columns, which of them are files, what is wrong with their values, and its row."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from bcfusion.audio import EXTENSIONS
from bcfusion.contracts import SPLITS, UNKNOWN_SPEAKER, Row
from bcfusion.errors import DataError
from bcfusion.files import NamesOnDisk, normal_name

__all__ = [
    "CHANNEL",
    "KNOWN",
    "NUMBERS",
    "TEXTS",
    "ManifestEntry",
    "derived_id",
    "entry_of",
    "faults",
    "file_columns",
    "is_sound",
    "number_of",
    "path_of",
    "record_of",
]

_LOUDEST_DB = 120.0  # a larger gain is a factor or a typing error, not decibels
_LARGEST_WEIGHT = 1000.0
#: Columns of numbers: which ones each takes, of one number or of an array, and what is wrong with the others.
NUMBERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "offset": (lambda seconds: seconds >= 0, "s is negative"),
    "duration": (lambda seconds: seconds > 0, "s is not positive"),
    "lag": (lambda seconds: seconds == seconds, ""),
    "polarity": (lambda sign: abs(sign) == 1, "is neither 1 nor -1"),
    "gain": (lambda decibels: abs(decibels) <= _LOUDEST_DB, f"dB exceeds {_LOUDEST_DB:g} dB"),
    "sample_rate": (lambda hertz: (hertz >= 1) & (hertz % 1 == 0), "is not a positive whole number of Hz"),
    "bandwidth": (lambda hertz: hertz >= 0, "Hz is negative"),
    "weight": (
        lambda times: (times > 0) & (times <= _LARGEST_WEIGHT),
        f"is not above 0 and at most {_LARGEST_WEIGHT:g}",
    ),
}
#: Columns that are neither files nor kept in ``Row.extra``.
KNOWN = ("id", "split", "speaker", "paths", *NUMBERS)
TEXTS = ("text", "corpus", "session", "snr")  #: never files, whatever they say
CHANNEL = "_channel"  #: after a sensor's name: the column of its channel
_MEANING = {"air": "clean speech", "noise": "noise", "rir": "room response"}


@dataclass(frozen=True)
class ManifestEntry:
    """One checked line of a manifest; ``duration`` and ``sample_rate`` are None if it does not give them."""

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
    weight: float

    def row(self, duration: float, sample_rate: int) -> Row:
        """Return it as a row of a corpus, with the ``duration`` in seconds and the ``sample_rate`` of air in Hz."""
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
            weight=self.weight,
        )


def file_columns(records: Iterable[Mapping[str, Any]], needed: str) -> frozenset[str]:
    """Return the columns that hold files: of the main sensors, and those of whose values most are names of sound files.

    So a comment or a transcript that happens to end in ``.wav`` is no sensor, and a mistyped file no comment.
    """
    sounds: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    for record in records:
        filled.update(record.keys())
        sounds.update(column for column, value in record.items() if is_sound(value))
    named = {column for column, count in sounds.items() if 2 * count > filled[column]}
    return frozenset(named.difference(KNOWN, TEXTS)) | {needed, "air", "body"}


def faults(record: Mapping[str, Any], needed: str, columns: Collection[str]) -> list[str]:
    """Return what is wrong with a line, one text for each problem.

    Args:
        record: column to value.
        needed: the sensor that each line must have.
        columns: :func:`file_columns` of the manifest.
    """
    found = []
    if "paths" in record and not (
        isinstance(record["paths"], Mapping) and all(isinstance(value, str) for value in record["paths"].values())
    ):
        found.append(f"paths: {record['paths']!r} is not an object of sensor names and files")
    else:
        given = {**record, **record["paths"]} if "paths" in record else record
        for sensor in dict.fromkeys((needed, "air", "body")):
            if sensor in given and (not isinstance(given[sensor], str) or not given[sensor].strip()):
                found.append(f"{sensor}: {given[sensor]!r} is not the name of a file")
        if needed not in given:
            found.append(f"{needed}: missing, the file of the {_MEANING.get(needed, needed)}")
        for sensor in sorted(set(columns) & record.keys() - {needed, "air", "body"}):
            if not is_sound(record[sensor]):
                found.append(f"{sensor}: {record[sensor]!r} is not the name of a sound file, as in the other lines")
        sensors = _sensor_files(record, columns)
        for sensor in sensors:
            channel = record.get(sensor + CHANNEL, 0)
            if (number := number_of(channel)) is None or number < 0 or number != int(number):
                found.append(f"{sensor}{CHANNEL}: {channel!r} is not the number of a channel: 0, 1, ...")
    for name in ("id", "speaker"):
        if isinstance(record.get(name, ""), bool) or not isinstance(record.get(name, ""), (str, int, float)):
            found.append(f"{name}: {record[name]!r} is neither text nor a number")
    if record.get("split") not in SPLITS:
        found.append(f"split: {record.get('split')!r} is none of {', '.join(SPLITS)}")
    for name, (fits, fault) in NUMBERS.items():
        if name in record:
            number = number_of(record[name])
            if number is None:
                found.append(f"{name}: {record[name]!r} is not a number")
            elif not fits(number):
                found.append(f"{name}: {number:g} {fault}")
    return found


def entry_of(
    record: Mapping[str, Any], folder: Path, needed: str, columns: Collection[str], names: NamesOnDisk
) -> ManifestEntry:
    """Return the entry of a line without :func:`faults`.

    Args:
        record: column to value.
        folder: of the manifest, from which relative paths start.
        needed: the sensor that each line must have.
        columns: :func:`file_columns` of the manifest.
        names: finds files whose names are spelled in another Unicode form.

    Returns:
        An entry whose ``id`` is empty if the line gives none and the path of ``needed`` is absolute.
    """
    written = _sensor_files(record, columns)
    channel_columns = {sensor: sensor + CHANNEL for sensor in written if sensor + CHANNEL in record}
    number = {name: float(record[name]) for name in NUMBERS if name in record}
    offset = number.get("offset", 0.0)
    identity = normal_name(str(record.get("id", "")))
    return ManifestEntry(
        id=identity or derived_id(written[needed], offset),
        paths={sensor: path_of(file, folder, names) for sensor, file in written.items()},
        speaker=normal_name(str(record.get("speaker", UNKNOWN_SPEAKER))),
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
        weight=number.get("weight", 1.0),
    )


def derived_id(file: str, offset: float) -> str:
    """Return the id of a line that gives none, by its main file and its offset in seconds; empty if it has none."""
    main = PurePath(file)
    if main.is_absolute():
        return ""
    return normal_name(main.with_suffix("").as_posix()) + (f"@{offset:g}" if offset else "")


def path_of(file: str, folder: Path, names: NamesOnDisk) -> str:
    """Return the path of a file that a manifest in ``folder`` names, as it is spelled on disk."""
    return names.find(os.fspath(folder / os.path.expanduser(file)))


def record_of(row: Row, folder: Path) -> dict[str, Any]:
    """Return the columns of a row; files below ``folder``, that of the manifest, are relative to it.

    Raises:
        DataError: a column of ``extra`` would be read as a sensor or as one of the known columns.
    """
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
    if row.weight != 1.0:
        record["weight"] = row.weight
    for name, value in row.extra.items():
        if name in record or name in KNOWN or (name not in TEXTS and is_sound(value)):
            raise DataError(f"{row.id}: the extra column {name!r} = {value!r} would be read as something else")
        record[name] = value
    return record


def number_of(value: Any) -> float | None:
    """Return a number, or the number that a text is; None for anything else, infinity and NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_sound(value: Any) -> bool:
    """Return whether a value is the name of a sound file."""
    return isinstance(value, str) and value.strip().lower().endswith(EXTENSIONS)


def _sensor_files(record: Mapping[str, Any], columns: Collection[str]) -> dict[str, str]:
    """Return sensor to file, as written: from the columns that are files, and from ``paths``."""
    given = {column: value for column, value in record.items() if column in columns and isinstance(value, str)}
    return given | dict(record.get("paths", {}))
