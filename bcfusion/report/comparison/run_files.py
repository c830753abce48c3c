"""Reads single files of a run directory without torch: metrics.csv, scores, tables, headers of weights and events."""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

from bcfusion.evaluation.summary import GROUPS

__all__ = [
    "Curve",
    "Scored",
    "count_numbers",
    "directions",
    "read_history",
    "read_scores",
    "read_settings",
    "read_yaml",
    "wall_times",
]

_NO_METRICS = ("id", "system", *GROUPS, "skipped")  # columns of scores
# The library's C parser reads a run's config.yaml in milliseconds; not every build of PyYAML has it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Persistent buffers: statistics that were measured, not trained.
_MEASURED = ("mean", "var", "deviation", "num_batches_tracked")
_FRAME = struct.Struct("<QIBd")  # of a record: length, checksum of it, then the event's first tag and field
_WALL_TIME = 0x09  # tag of the first field of an event: wall_time, a double
_EARLIEST, _LATEST = 1e9, 1e10  # seconds since 1970 that a computer's clock may show
_FIRST_TAIL, _LAST_TAIL = 1024, 8192  # bytes


@dataclass(frozen=True)
class Curve:
    """A tag of metrics.csv. steps: ``(N,)`` int64, ascending. values: ``(N,)`` float64, NaN where it was not finite."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[-1])


@dataclass(frozen=True)
class Scored:
    """Scores of one CSV: metric to utterance id to score. An utterance that a metric skipped is missing there."""

    metrics: Mapping[str, Mapping[str, float]]

    def mean(self, metric: str) -> float:
        """Mean over the utterances that were scored; NaN where none was."""
        values = self.metrics.get(metric, {})
        return sum(values.values()) / len(values) if values else math.nan


def read_yaml(path: Path) -> Any:
    """Content of a YAML file.

    Raises:
        OSError: it cannot be read. yaml.YAMLError: it is damaged.
    """
    with path.open("rb") as file:
        return yaml.load(file, Loader=_Loader)


def read_settings(path: Path) -> dict[str, Any]:
    """Content of a YAML file that holds keys and values, or nothing.

    Raises:
        OSError: it cannot be read. yaml.YAMLError: it is damaged. ValueError: it holds something else.
    """
    content = read_yaml(path)
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path} holds no keys")
    return content or {}


def read_history(path: Path) -> dict[str, Curve]:
    """Curves of a metrics.csv by their tags, those without any value left out.

    The last line may be half written, since a run that goes on is read too: it is then left out.

    Raises:
        OSError: the file cannot be read. ValueError: a cell is no number, or the table has no column ``step``.
    """
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    if not lines:
        return {}
    heads, *rows = lines
    if "step" not in heads:
        raise ValueError(f"{path} has no column step")
    if rows and len(rows[-1]) != len(heads):
        rows.pop()
    for number, row in enumerate(rows, 2):
        if len(row) != len(heads):
            raise ValueError(f"line {number} has {len(row)} cells, not {len(heads)}")
    columns = dict(zip(heads, zip(*rows, strict=True), strict=True)) if rows else {}
    steps = list(map(int, columns.pop("step", ())))
    curves = {}
    for tag, cells in columns.items():
        if any(cells):
            of = steps if all(cells) else list(compress(steps, cells))
            curves[tag] = Curve(np.array(of, dtype=np.int64), np.array(list(map(float, filter(None, cells)))))
    return curves


def read_scores(path: Path) -> dict[str, Scored]:
    """Scores of a CSV as :meth:`bcfusion.evaluation.scores.Scores.write_csv` writes it, by the name of their system.

    Args:
        path: the file, of which every column of numbers is read but ``snr``, an information of the utterance.

    Raises:
        OSError: the file cannot be read. ValueError: it has no columns ``id`` and ``system``.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        heads = list(reader.fieldnames or ())
        rows = list(reader)
    if not {"id", "system"} <= set(heads):
        raise ValueError(f"{path} has no columns id and system")
    others = [head for head in heads if head not in _NO_METRICS]
    names = [head for head in others if all(_number(row[head]) is not None for row in rows if row[head])]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        of = scores.setdefault(row["system"], {name: {} for name in names})
        for name in names:
            value = _number(row.get(name))
            if value is not None and math.isfinite(value):
                of[name][row["id"]] = value
    return {system: Scored(values) for system, values in scores.items()}


def directions(scores: Path) -> dict[str, bool | None]:
    """Whether higher is better, by metric, as the arrows of the Markdown table beside a CSV of scores say.

    The table has the columns of the CSV in their order. Nothing is known (an empty answer) where it is missing or has
    other columns.
    """
    table = scores.with_suffix(".md")
    if not table.is_file():
        return {}
    with scores.open(newline="", encoding="utf-8") as file:
        heads = next(csv.reader(file), [])
    names = [head for head in heads if head not in _NO_METRICS]
    first = table.read_text(encoding="utf-8").partition("\n")[0]
    headings = [cell.strip() for cell in first.strip().strip("|").split("|")][1:]
    if len(headings) != len(names):
        return {}
    arrows = {"↑": True, "↓": False}
    return {name: arrows.get(heading[-1:]) for name, heading in zip(names, headings, strict=True)}


def count_numbers(weights: Path) -> int:
    """Trained numbers in a ``.safetensors`` file, from its header alone; measured statistics are not among them.

    Raises:
        OSError: the file cannot be read. ValueError: it is no such file.
    """
    with weights.open("rb") as file:
        size = file.read(8)
        if len(size) < 8 or (length := struct.unpack("<Q", size)[0]) > weights.stat().st_size:
            raise ValueError(f"{weights} is no safetensors file")
        header = json.loads(file.read(length))
    return sum(
        math.prod(tensor["shape"])
        for name, tensor in header.items()
        if name != "__metadata__" and not name.endswith(_MEASURED)
    )


def wall_times(events: Path) -> tuple[float, float] | None:
    """Time of the first and of the last event in a TensorBoard file, in seconds since 1970; None: there is none.

    Only the frame of each record is read (TFRecord: length, checksum, data, checksum), not the sounds and pictures.

    Raises:
        OSError: the file cannot be read.
    """
    size = events.stat().st_size
    with events.open("rb") as file:
        first = next(_records(file, size), None)
        if first is None:
            return None
        begin, step = size, _FIRST_TAIL
        while begin > 0 and step <= _LAST_TAIL:  # most often the last records are short ones
            begin = max(0, size - step)
            file.seek(begin)
            if (last := _last_time(file.read())) is not None:
                return first, last
            step *= 8
        file.seek(0)
        return first, max(_records(file, size))


def _records(file: BinaryIO, size: int) -> Iterator[float]:
    """Wall times of the records from the beginning of the file."""
    while len(frame := file.read(_FRAME.size)) == _FRAME.size:
        length, _, tag, wall_time = _FRAME.unpack(frame)
        end = file.tell() - 9 + length + 4
        if tag != _WALL_TIME or end > size:  # no event, or one that is still being written
            return
        yield wall_time
        file.seek(end)


def _last_time(tail: bytes) -> float | None:
    """Wall time of the record that ends where a file does; None where no chain of records in its tail does so."""
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


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
