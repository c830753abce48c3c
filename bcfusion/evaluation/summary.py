"""Statistics of scores: every metric and system, differences to the input, and the same for groups."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bcfusion.evaluation.scores import INFO, ItemScore, Scores
from bcfusion.evaluation.statistics import PairedDifference, Summary, paired_difference, summary
from bcfusion.evaluation.systems import is_input

__all__ = ["GROUPS", "UNKNOWN", "ScoreSummary", "grouped", "summarise"]

GROUPS = INFO  #: what utterances can be grouped by, columns of the scores
UNKNOWN = "unknown"  #: group of the utterances for which it is not known
_FEW_RATIOS = 8  # up to this many signal-to-noise ratios are a group each
_RATIO_STEP = 5  # dB, width of a group if there are more


@dataclass(frozen=True)
class ScoreSummary:
    """Statistics of the scores of one evaluation.

    Attributes:
        higher_is_better: metric to direction, None for information only; all tables follow its order.
        utterances: their number, including those that could not be scored.
        systems: system to metric to its statistics.
        skipped: system to metric to the reasons for which utterances have no score, with their counts.
        differences: pair of a system under test and what it is compared with (each input, each system under test
            before it), to metric to the difference on common utterances.
        groups: what the utterances were grouped by, to the label of each group, to its own summary.
    """

    higher_is_better: Mapping[str, bool | None]
    utterances: int
    systems: Mapping[str, Mapping[str, Summary]]
    skipped: Mapping[str, Mapping[str, Counter[str]]]
    differences: Mapping[tuple[str, str], Mapping[str, PairedDifference]]
    groups: Mapping[str, Mapping[str, ScoreSummary]] = field(default_factory=dict)

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """Mean by system and metric."""
        return {
            system: {metric: statistics.mean for metric, statistics in metrics.items()}
            for system, metrics in self.systems.items()
        }

    @property
    def changes(self) -> dict[str, dict[str, float]]:
        """Difference of the last system to each other one, by metric, on the utterances that both have."""
        *_, last = self.systems
        return {
            before: {metric: difference.mean for metric, difference in metrics.items()}
            for (system, before), metrics in self.differences.items()
            if system == last
        }


def summarise(scores: Scores, group_by: Sequence[str] = ()) -> ScoreSummary:
    """Return the statistics of all utterances and of each group of them.

    Args:
        scores: of one evaluation.
        group_by: members of :data:`GROUPS`.

    Raises:
        ValueError: ``group_by`` names something else.
    """
    tested = [system for system in scores.systems if not is_input(system)]
    inputs = [system for system in scores.systems if is_input(system)]
    by_id = {(system, metric): _by_id(scores, system, metric) for system in scores.systems for metric in scores.names}
    whole = ScoreSummary(
        higher_is_better=scores.higher_is_better,
        utterances=scores.utterances,
        systems={
            system: {metric: summary(list(by_id[system, metric].values())) for metric in scores.names}
            for system in scores.systems
        },
        skipped={system: scores.skipped(system) for system in scores.systems},
        differences={
            (system, before): {
                metric: paired_difference(by_id[before, metric], by_id[system, metric]) for metric in scores.names
            }
            for system in tested
            for before in (*inputs, *tested[: tested.index(system)])
        },
    )
    groups = {by: {label: summarise(part) for label, part in grouped(scores, by).items()} for by in group_by}
    return replace(whole, groups=groups)


def grouped(scores: Scores, by: str) -> dict[str, Scores]:
    """Divide scores by what is known about the utterances.

    Signal-to-noise ratios are rounded to a tenth of a decibel. Up to eight different ratios with two or more utterances
    on average, as in a test set mixed at fixed ratios, are a group each; otherwise groups are 5 dB wide.

    Args:
        scores: of one evaluation.
        by: one of :data:`GROUPS`.

    Returns:
        Label to scores, sorted by number or name; :data:`UNKNOWN` is last.

    Raises:
        ValueError: ``by`` is not one of them.
    """
    if by not in GROUPS:
        raise ValueError(f"scores can be grouped by {', '.join(GROUPS)}, not by {by!r}")
    known = dict.fromkeys(row.info[by] for row in scores.rows if row.info.get(by))
    if by == "snr":
        labels = _ratio_labels(list(known), utterances=len({row.id for row in scores.rows if row.info.get(by)}))
    else:
        labels = {name: name for name in sorted(known, key=_natural)}
    parts: dict[str, list[ItemScore]] = {label: [] for label in (*dict.fromkeys(labels.values()), UNKNOWN)}
    for row in scores.rows:
        parts[labels.get(row.info.get(by, ""), UNKNOWN)].append(row)
    return {label: Scores(rows, scores.higher_is_better) for label, rows in parts.items() if rows}


def _by_id(scores: Scores, system: str, metric: str) -> dict[str, float]:
    return {row.id: row.values[metric] for row in scores.rows if row.system == system and metric not in row.skipped}


def _ratio_labels(texts: list[str], utterances: int) -> dict[str, str]:
    """Return the label of the group for each ratio as written, in ascending order."""
    ratios = {text: round(float(text), 1) for text in sorted(texts, key=float)}
    if len(set(ratios.values())) <= min(_FEW_RATIOS, utterances // 2):
        return {text: f"{ratio + 0.0:g} dB" for text, ratio in ratios.items()}
    lows = {text: math.floor(ratio / _RATIO_STEP) * _RATIO_STEP for text, ratio in ratios.items()}
    return {text: f"{low} to {low + _RATIO_STEP} dB" for text, low in lows.items()}


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts ``p9`` before ``p10``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
