"""Scores of several test sets side by side, each with its own input, beside figures that others have published."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bcfusion.errors import DataError
from bcfusion.evaluation.pooled import pooled
from bcfusion.evaluation.scores import Scores
from bcfusion.evaluation.systems import ENHANCED

__all__ = ["Published", "in_one", "read_published", "scores_of_sets"]

_ABOUT = ("set", "system", "source")


@dataclass(frozen=True)
class Published:
    """A row of a table that others have published.

    Attributes:
        set: name of the test set.
        system: what was scored.
        values: metric to value; a metric that was not published is absent.
        source: where it can be read; empty if that is not said.
    """

    set: str
    system: str
    values: Mapping[str, float]
    source: str = ""


def scores_of_sets(
    files: Mapping[str, Sequence[Path]], higher_is_better: Mapping[str, bool | None]
) -> dict[str, Scores]:
    """Read the scores of one model or of its folds on each test set.

    Args:
        files: the files of each set, by its name, that :meth:`bcfusion.evaluation.scores.Scores.write_csv` wrote.
        higher_is_better: value name to direction.

    Returns:
        Name of the set to its scores, in the order of ``files``. Sets may have the same utterances: those of another
        sensor are another set.

    Raises:
        DataError: see :func:`bcfusion.evaluation.pooled.pooled`.
    """
    return {name: pooled({ENHANCED: paths}, higher_is_better) for name, paths in files.items()}


def in_one(sets: Mapping[str, Scores]) -> Scores:
    """Return all scores as one: ids begin with the name of their set, which is also the column ``corpus``."""
    rows = [
        replace(row, id=f"{name}/{row.id}", info={**row.info, "corpus": name})
        for name, scores in sets.items()
        for row in scores.rows
    ]
    return Scores(rows, dict(next(iter(sets.values())).higher_is_better))


def read_published(path: Path) -> list[Published]:
    """Read a CSV with the columns ``set``, ``system``, optionally ``source``, and one for each metric.

    Raises:
        DataError: it cannot be read, lacks a column, or has a value that is not a number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            heads = tuple(reader.fieldnames or ())
            lines = list(reader)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no CSV in UTF-8: {error}") from error
    if lacking := [head for head in _ABOUT[:2] if head not in heads]:
        raise DataError(f"{path} has no column {', '.join(lacking)}; its columns: {', '.join(heads)[:300]}")
    names = [head for head in heads if head and head not in _ABOUT]
    rows = []
    for number, line in enumerate(lines, start=2):
        values = {}
        for name in names:
            if text := (line[name] or "").strip():
                try:
                    values[name] = float(text)
                except ValueError:
                    values[name] = math.nan
                if not math.isfinite(values[name]):
                    raise DataError(
                        f"{path}, line {number}: {name} is {text!r}, not a number; leave unknown ones empty"
                    )
        rows.append(Published(line["set"] or "", line["system"] or "", values, (line.get("source") or "").strip()))
    return rows
