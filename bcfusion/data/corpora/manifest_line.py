"""One line of a manifest: which columns there are, which of them are files, and what is wrong with their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bcfusion.audio import EXTENSIONS

SPLITS = ("train", "valid", "test")
NUMBERS = ("offset", "duration", "lag", "polarity", "gain", "sample_rate", "bandwidth")
KNOWN = ("id", "split", "speaker", "paths", *NUMBERS)
CHANNEL = "_channel"  #: behind a sensor's name: the column of its channel
_MEANING = {"air": "clean speech", "noise": "noise", "rir": "room response"}
_LOUDEST_DB = 120.0  # a gain beyond it is a factor or a typing error, not decibels


def sensor_files(record: Mapping[str, Any], needed: str) -> dict[str, str]:
    """Sensor to file, as written: from the columns that are files, and from ``paths``.

    Args:
        record: column to value. needed: the sensor that each line must have.
    """
    columns = {
        column: value
        for column, value in record.items()
        if column not in KNOWN
        and isinstance(value, str)
        and (column in (needed, "air", "body") or value.lower().endswith(EXTENSIONS))
    }
    return columns | dict(record.get("paths", {}))


def faults(record: Mapping[str, Any], needed: str) -> list[str]:
    """What is wrong with a line, one text for each problem.

    Args:
        record: column to value. needed: the sensor that each line must have.
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
        sensors = sensor_files(record, needed)
        for sensor in sensors:
            channel = record.get(sensor + CHANNEL, 0)
            if (number := number_of(channel)) is None or number < 0 or number != int(number):
                found.append(f"{sensor}{CHANNEL}: {channel!r} is not the number of a channel: 0, 1, ...")
    for name in ("id", "speaker"):
        if isinstance(record.get(name, ""), bool) or not isinstance(record.get(name, ""), (str, int, float)):
            found.append(f"{name}: {record[name]!r} is neither text nor a number")
    if record.get("split") not in SPLITS:
        found.append(f"split: {record.get('split')!r} is none of {', '.join(SPLITS)}")
    for name in NUMBERS:
        if name in record and number_of(record[name]) is None:
            found.append(f"{name}: {record[name]!r} is not a number")
    values = {name: number_of(record[name]) for name in NUMBERS if name in record}
    if (offset := values.get("offset")) is not None and offset < 0:
        found.append(f"offset: {offset:g} s is negative")
    if (duration := values.get("duration")) is not None and duration <= 0:
        found.append(f"duration: {duration:g} s is not positive")
    if (polarity := values.get("polarity")) is not None and polarity not in (-1, 1):
        found.append(f"polarity: {polarity:g} is neither 1 nor -1")
    if (gain := values.get("gain")) is not None and abs(gain) > _LOUDEST_DB:
        found.append(f"gain: {gain:g} dB is beyond {_LOUDEST_DB:g} dB")
    if (rate := values.get("sample_rate")) is not None and (rate < 1 or rate != int(rate)):
        found.append(f"sample_rate: {rate:g} is not a positive number of Hz")
    if (bandwidth := values.get("bandwidth")) is not None and bandwidth < 0:
        found.append(f"bandwidth: {bandwidth:g} Hz is negative")
    return found


def number_of(value: Any) -> float | None:
    """A number, or a text that is one; None for anything else, infinity and NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
