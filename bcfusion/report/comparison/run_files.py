"""Readers of single files of a run, without torch: YAML, metrics.csv, tables of scores."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from bcfusion.evaluation.scores import read_rows
from bcfusion.files import from_yaml

__all__ = [
    "Curve",
    "ScoreTable",
    "Scored",
    "read_history",
    "read_scores",
    "read_settings",
    "read_yaml",
]


@dataclass(frozen=True)
class Curve:
    """One column of metrics.csv.

    Attributes:
        steps: ``(N,)`` int64, ascending.
        values: ``(N,)`` float64, NaN where the logged value was not finite.
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[-1])


@dataclass(frozen=True)
class Scored:
    """Scores of one system: metric to utterance id to score. An utterance that a metric skipped is missing there."""

    metrics: Mapping[str, Mapping[str, float]]

    def mean(self, metric: str) -> float:
        """Return the mean over the utterances that were scored, NaN if there are none."""
        values = self.metrics.get(metric, {})
        return sum(values.values()) / len(values) if values else math.nan


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores.

    Attributes:
        ids: of the utterances, in the order of the file.
        systems: scores by the name of the system (inputs, ``enhanced``).
        higher_is_better: direction of each metric, None for information only; empty if it is unknown.
    """

    ids: tuple[str, ...]
    systems: Mapping[str, Scored]
    higher_is_better: Mapping[str, bool | None]


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    return from_yaml(path.read_bytes())


def read_settings(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file that holds keys and values, or nothing.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or holds something else.
    """
    content = read_yaml(path)
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path} holds no keys")
    return content or {}


def read_history(path: Path) -> dict[str, Curve]:
    """Return the curves of a metrics.csv by tag, without those that have no value.

    The file of a run that still trains may end in a half-written line, which is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: a cell is not a number, or there is no column ``step``.
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
            own = steps if all(cells) else list(compress(steps, cells))
            curves[tag] = Curve(np.array(own, dtype=np.int64), np.array(list(map(float, filter(None, cells)))))
    return curves


def read_scores(path: Path) -> ScoreTable:
    """Return the scores of a CSV that :meth:`bcfusion.evaluation.scores.Scores.write_csv` wrote.

    Every column of numbers is read, except ``snr``, which describes the utterance.

    Raises:
        OSError: the file cannot be read.
        ValueError: there are no columns ``id`` and ``system``.
    """
    names, rows = read_rows(path)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        own = scores.setdefault(row.system, {name: {} for name in names})
        for name, value in row.values.items():
            if math.isfinite(value):
                own[name][row.id] = value
    return ScoreTable(
        ids=tuple(dict.fromkeys(row.id for row in rows)),
        systems={system: Scored(values) for system, values in scores.items()},
        higher_is_better=_directions(path.with_suffix(".md"), names),
    )


def _directions(table: Path, names: Sequence[str]) -> dict[str, bool | None]:
    """Read from the arrows of the Markdown table next to a CSV whether higher is better.

    Args:
        table: the Markdown file, whose first table has the columns of the CSV in their order.
        names: the metrics of the CSV.

    Returns:
        Metric to direction; empty if the file is missing or has other columns.
    """
    if not table.is_file():
        return {}
    lines = table.read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if line.startswith("|")), "")  # a report begins with a title
    headings = [cell.strip() for cell in first.strip().strip("|").split("|")][1:]
    if len(headings) != len(names):
        return {}
    arrows = {"↑": True, "↓": False}
    return {name: arrows.get(heading[-1:]) for name, heading in zip(names, headings, strict=True)}
