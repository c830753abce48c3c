"""Scores of many utterances: one row per utterance and system, their means, and the CSV."""

from __future__ import annotations

import csv
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, zip_longest
from pathlib import Path

from bcfusion.files import appearing

__all__ = ["INFO", "ItemScore", "Scores", "read_rows", "skipped_cell"]

INFO = ("speaker", "corpus", "snr")  #: columns that describe an utterance; it may be a number


@dataclass
class ItemScore:
    """The scores of one system on one utterance.

    Attributes:
        id: of the utterance.
        system: whose signal was scored (``enhanced``, ``input``, ...).
        values: value name to score, NaN if it was skipped.
        skipped: value name to the reason.
        info: further columns, such as the speaker.
    """

    id: str
    system: str
    values: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)

    @classmethod
    def unscored(cls, item: str, system: str, names: Iterable[str], reason: str, info: dict[str, str]) -> ItemScore:
        """Return a row in which every value is skipped for one reason."""
        skipped = dict.fromkeys(names, reason)
        return cls(item, system, dict.fromkeys(skipped, math.nan), skipped, info)


@dataclass
class Scores:
    """All scores of one evaluation, in the order of its utterances.

    Attributes:
        rows: one for each utterance and system.
        higher_is_better: value name to direction, None for information only; all tables follow its order.
    """

    rows: list[ItemScore]
    higher_is_better: dict[str, bool | None]

    @classmethod
    def merged(cls, parts: Sequence[Scores]) -> Scores:
        """Join the scores of several processes, of which each has scored every so many-th utterance.

        The utterances are in the order in which one process would have scored them. One that several of them scored (a
        distributed sampler pads the last batch) counts once.

        Args:
            parts: scores by the same metrics, in the order of the processes.

        Raises:
            ValueError: there are no parts, or their metrics differ.
        """
        if not parts or any(part.higher_is_better != parts[0].higher_is_better for part in parts):
            raise ValueError("scores to merge must be at least one, and of the same metrics")
        utterances = [[list(rows) for _, rows in groupby(part.rows, key=lambda row: row.id)] for part in parts]
        in_turn = chain.from_iterable(zip_longest(*utterances, fillvalue=()))
        rows: dict[tuple[str, str], ItemScore] = {}
        for row in chain.from_iterable(in_turn):
            rows.setdefault((row.id, row.system), row)
        return cls(list(rows.values()), dict(parts[0].higher_is_better))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all values."""
        return tuple(self.higher_is_better)

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of all systems, in order of appearance."""
        return tuple(dict.fromkeys(row.system for row in self.rows))

    @property
    def info_names(self) -> tuple[str, ...]:
        """Names of the further columns, in order of appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.info))

    @property
    def utterances(self) -> int:
        """Number of utterances, including those that could not be scored."""
        return len({row.id for row in self.rows})

    def mean(self, system: str) -> dict[str, float]:
        """Return the mean of each value over the utterances it was computed for; NaN if there are none."""
        scored = {name: self._scored(name, system) for name in self.names}
        return {name: statistics.fmean(values) if values else math.nan for name, values in scored.items()}

    def changes(self) -> dict[str, dict[str, float]]:
        """Return the mean gain of the last system over each other one: system to value name to gain.

        It is taken over the utterances that both were scored on; NaN if there are none.
        """
        *others, last = self.systems
        return {other: {name: self._gain(name, last, other) for name in self.names} for other in others}

    def count(self, metric_name: str, system: str) -> int:
        """Count the utterances for which the value ``metric_name`` was computed."""
        return len(self._scored(metric_name, system))

    def skipped(self, system: str) -> dict[str, Counter[str]]:
        """Return the reasons for skipped utterances with their counts, by value name; names without any are absent."""
        reasons: dict[str, Counter[str]] = {}
        for row in self.rows:
            if row.system == system:
                for name, reason in row.skipped.items():
                    reasons.setdefault(name, Counter())[reason] += 1
        return reasons

    def write_csv(self, path: str | Path) -> None:
        """Write one line for each utterance and system: id, system, the info columns, every value, skipped.

        A skipped value is an empty cell; the column ``skipped`` reads ``pesq_wb, stoi: estimate is silent; ...``. The
        file appears whole or not at all; missing folders are created.
        """
        info_names = self.info_names
        with appearing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "system", *info_names, *self.names, "skipped"])
            for row in self.rows:
                info = [row.info.get(name, "") for name in info_names]
                values = ["" if name in row.skipped else f"{row.values[name]:.6g}" for name in self.names]
                writer.writerow([row.id, row.system, *info, *values, skipped_cell(row.skipped)])

    def _gain(self, name: str, system: str, before: str) -> float:
        scored = {(row.id, row.system): row.values[name] for row in self.rows if name not in row.skipped}
        gains = [
            value - scored[item, before]
            for (item, of), value in scored.items()
            if of == system and (item, before) in scored
        ]
        return statistics.fmean(gains) if gains else math.nan

    def _scored(self, name: str, system: str) -> list[float]:
        return [row.values[name] for row in self.rows if row.system == system and name not in row.skipped]


def read_rows(path: Path) -> tuple[tuple[str, ...], list[ItemScore]]:
    """Return the value names and the rows of a CSV that :meth:`Scores.write_csv` wrote.

    Every column of numbers holds values, except those of :data:`INFO`. A value is NaN where the cell is empty or not
    finite, and has a reason if the column ``skipped`` gives one.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no text, or a line has no ``id`` and ``system``.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            heads = tuple(reader.fieldnames or ())
            lines = list(reader)
        except csv.Error as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    if not {"id", "system"} <= set(heads):
        raise ValueError(f"{path} has no columns id and system")
    if any(line["id"] is None or line["system"] is None for line in lines):
        raise ValueError(f"{path} is damaged: a line ends before its columns id and system")
    others = (head for head in heads if head not in ("id", "system", *INFO, "skipped"))
    names = tuple(head for head in others if all(_number(line[head]) is not None for line in lines if line[head]))
    rows = []
    for line in lines:
        values = {name: number for name in names if (number := _number(line[name])) is not None}
        reasons = _reasons(line.get("skipped") or "")
        rows.append(
            ItemScore(
                line["id"],
                line["system"],
                {name: values[name] if math.isfinite(values.get(name, math.nan)) else math.nan for name in names},
                {name: reasons[name] for name in names if name in reasons},
                {name: line[name] for name in INFO if line.get(name)},
            )
        )
    return names, rows


def skipped_cell(skipped: Mapping[str, str]) -> str:
    """Return value names grouped by reason: ``pesq_wb, stoi: estimate is silent; lsd: ...``."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(values)}: {reason}" for reason, values in names.items())


def _reasons(cell: str) -> dict[str, str]:
    """Return the reason of each skipped value from a cell as :func:`skipped_cell` makes."""
    reasons = {}
    for part in cell.split("; "):
        names, separator, reason = part.partition(": ")
        if separator:
            reasons.update(dict.fromkeys((name.strip() for name in names.split(",")), reason))
    return reasons


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
