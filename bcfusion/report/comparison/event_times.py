"""How long a run was at work, from the time stamps of its TensorBoard files; read without TensorBoard."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bcfusion.run.layout import RunDir

__all__ = ["wall_times", "working_seconds"]

_FRAME = struct.Struct("<QIBd")  # start of a record: length, checksum of it, then the event's first tag and field
_WALL_TIME = 0x09  # tag of the first field of an event: wall_time, a double
_EARLIEST, _LATEST = 1e9, 1e10  # seconds since 1970 that a computer's clock may show
_FIRST_TAIL, _LAST_TAIL = 1024, 8192  # bytes
_CLOCK_SLACK = 1.0  # s; the start of a session is recorded in whole seconds


def working_seconds(run: RunDir, starts: Sequence[float]) -> float:
    """Return the wall-clock time from the start of each session to its last logged event, summed over the sessions.

    Args:
        run: the run directory.
        starts: start of each session in seconds since 1970, ascending.

    Returns:
        Seconds; NaN if nothing in the directory gives the time.
    """
    ends: dict[float, float] = {}
    for events in run.path.glob("events.out.tfevents.*"):
        times = wall_times(events)
        before = [start for start in starts if times is not None and start <= times[0] + _CLOCK_SLACK]
        if times is not None and before:
            ends[before[-1]] = max(times[1], ends.get(before[-1], 0.0))
    if ends:
        return sum(end - start for start, end in ends.items())
    # without TensorBoard, the time of metrics.csv; a copy of the file has another one
    spent = run.metrics.stat().st_mtime - starts[0] if len(starts) == 1 and run.metrics.is_file() else math.nan
    return spent if spent >= 0 else math.nan


def wall_times(events: Path) -> tuple[float, float] | None:
    """Return the times of the first and the last event of a TensorBoard file, or None if it has no events.

    Only the frame of each record is read (TFRecord: length, checksum, data, checksum), not sounds and pictures.

    Args:
        events: the file.

    Returns:
        Seconds since 1970.

    Raises:
        OSError: the file cannot be read.
    """
    size = events.stat().st_size
    with events.open("rb") as file:
        first = next(_records(file, size), None)
        if first is None:
            return None
        begin, step = size, _FIRST_TAIL
        while begin > 0 and step <= _LAST_TAIL:  # the last records are usually short
            begin = max(0, size - step)
            file.seek(begin)
            if (last := _last_time(file.read())) is not None:
                return first, last
            step *= 8
        file.seek(0)
        return first, max(_records(file, size))


def _records(file: BinaryIO, size: int) -> Iterator[float]:
    """Yield the wall time of each record, from the start of the file."""
    while len(frame := file.read(_FRAME.size)) == _FRAME.size:
        length, _, tag, wall_time = _FRAME.unpack(frame)
        end = file.tell() - 9 + length + 4
        if tag != _WALL_TIME or end > size:  # not an event, or one that is still being written
            return
        yield wall_time
        file.seek(end)


def _last_time(tail: bytes) -> float | None:
    """Return the latest wall time of a chain of records that ends with the file, or None if the tail holds no chain."""
    for begin in range(max(0, len(tail) - _FRAME.size)):
        at, times = begin, []
        while at + _FRAME.size <= len(tail):
            length, _, tag, wall_time = _FRAME.unpack_from(tail, at)
            if tag != _WALL_TIME or not _EARLIEST < wall_time < _LATEST or length < 9:
                break
            times.append(wall_time)
            at += 12 + length + 4
        if at == len(tail) and times:
            return max(times)
    return None
