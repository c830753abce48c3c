"""Scores of several evaluations as one: the folds of a cross-validation, or several models on the same utterances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from bcfusion.errors import DataError
from bcfusion.evaluation.scores import ItemScore, Scores, read_rows
from bcfusion.evaluation.systems import ENHANCED, is_input

__all__ = ["pooled"]

# Scores are written with six digits.
_SAME = 1e-4


def pooled(files: Mapping[str, Sequence[Path]], higher_is_better: Mapping[str, bool | None]) -> Scores:
    """Join files that :meth:`bcfusion.evaluation.scores.Scores.write_csv` wrote.

    Inputs come first. The model of each file, whose system is ``enhanced``, takes the name under which the file is
    listed. An utterance may be in the files of several systems, and its input then counts once, but not twice in those
    of one system: seeds are systems of their own.

    Args:
        files: the files of each system, by its name.
        higher_is_better: value name to direction. Values that a file does not have are skipped; other columns are
            ignored.

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
                    _complete(known, row)
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
        known, rows = read_rows(path)
    except OSError as error:
        raise DataError(f"cannot read scores {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} holds no scores: give a scores.csv of `bcfusion evaluate`") from error
    if not rows:
        raise DataError(f"{path} holds no scores: it has no utterances")
    if not any(name in known for name in names):
        raise DataError(f"{path} has none of the values {', '.join(names)}: choose others by metrics=[NAME,...]")
    for row in rows:
        row.values = {name: row.values.get(name, math.nan) for name in names}
        row.skipped = {
            name: row.skipped.get(name, "not in the file of scores")
            for name, value in row.values.items()
            if math.isnan(value)
        }
    return rows


def _complete(known: ItemScore, other: ItemScore) -> None:
    """Take from another file the values that the first one lacks."""
    for name, value in other.values.items():
        if math.isnan(known.values[name]) and not math.isnan(value):
            known.values[name] = value
            known.skipped.pop(name, None)


def _differs(one: ItemScore, other: ItemScore) -> str:
    for name, value in one.values.items():
        second = other.values[name]
        if not (math.isnan(value) or math.isnan(second)) and abs(value - second) > _SAME * max(1.0, abs(value)):
            return f"its input has {name} {value:g} and {second:g}"
    return ""
