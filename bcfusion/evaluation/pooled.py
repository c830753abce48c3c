"""Scores of several evaluations as one: the folds of a cross-validation, or several models on the same utterances."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from bcfusion.errors import DataError
from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.evaluation.systems import ENHANCED, is_input

__all__ = ["pooled"]

# Scores are written with six digits.
_SAME = 1e-4
#: columns that are not values of metrics
_INFO = ("speaker", "corpus", "snr")


def pooled(files: Mapping[str, Sequence[Path]], higher_is_better: Mapping[str, bool | None]) -> Scores:
    """Join files that :meth:`bcfusion.evaluation.scores.Scores.write_csv` wrote.

    Inputs come first. The model of each file, whose system is ``enhanced``, takes the name under which the file is
    listed. An utterance may be in the files of several systems, and its input then counts once, but not twice in those
    of one system: seeds are systems of their own.

    Args:
        files: the files of each system, by its name.
        higher_is_better: value name to direction. Values that a file lacks are skipped; others are left out.

    Raises:
        DataError: a file cannot be read, is not of this kind, has none of the values or several models, an utterance
            is there twice, or its input has different scores in two files.
    """
    inputs: dict[tuple[str, str], ItemScore] = {}
    models: dict[tuple[str, str], ItemScore] = {}
    for name, paths in files.items():
        for path in paths:
            for row in _read(path, higher_is_better):
                if is_input(row.system):
                    known = inputs.setdefault((row.id, row.system), row)
                    if problem := _differs(known, row):
                        raise DataError(f"{path}: {row.id}: {problem}: the files score different recordings")
                    continue
                if row.system != ENHANCED:
                    raise DataError(
                        f"{path}: it scores the system {row.system!r}; give scores of one model, as `bcfusion "
                        "evaluate MODEL` and `bcfusion train` write them"
                    )
                row.system = name
                if (row.id, name) in models:
                    raise DataError(f"{path}: {row.id} is already in another file of {name}: it counts once")
                models[row.id, name] = row
    return Scores([*inputs.values(), *models.values()], dict(higher_is_better))


def _read(path: Path, names: Mapping[str, bool | None]) -> list[ItemScore]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read scores {path}: {getattr(error, 'strerror', None) or error}") from error
    columns = set(lines[0]) if lines else set()
    if not {"id", "system"} <= columns:
        raise DataError(f"{path} holds no scores: give a scores.csv of `bcfusion evaluate`")
    known = [name for name in names if name in columns]
    if not known:
        raise DataError(f"{path} has none of the values {', '.join(names)}: choose others by metrics=[NAME,...]")
    rows = []
    for line in lines:
        reasons = _reasons(line.get("skipped") or "")
        row = ItemScore(line["id"], line["system"], {}, {}, {})
        for name in names:
            row.values[name] = _number(line.get(name))
            if math.isnan(row.values[name]):
                row.skipped[name] = reasons.get(name, "not in the file of scores")
        row.info = {name: line[name] for name in _INFO if line.get(name)}
        rows.append(row)
    return rows


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _reasons(cell: str) -> dict[str, str]:
    """Return the reason of each skipped value from a cell as :func:`bcfusion.evaluation.scores.skipped_cell` makes."""
    reasons = {}
    for part in cell.split("; "):
        names, separator, reason = part.partition(": ")
        if separator:
            reasons.update(dict.fromkeys((name.strip() for name in names.split(",")), reason))
    return reasons


def _differs(one: ItemScore, other: ItemScore) -> str:
    for name, value in one.values.items():
        second = other.values[name]
        if not (math.isnan(value) or math.isnan(second)) and abs(value - second) > _SAME * max(1.0, abs(value)):
            return f"its input has {name} {value:g} and {second:g}"
    return ""
