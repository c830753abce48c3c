"""Pictures of the scores of one evaluation: their distribution over utterances and their dependence on the noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from matplotlib.figure import Figure

from bcfusion.evaluation.scores import Scores
from bcfusion.evaluation.statistics import Summary
from bcfusion.evaluation.summary import UNKNOWN, ScoreSummary, grouped
from bcfusion.report.boxes import MOST_PANELS, boxes_figure
from bcfusion.report.level_curves import level_figure
from bcfusion.report.table import heading

__all__ = ["score_figures"]

_NONE = Summary(0, *[math.nan] * 6)  # of a system without scores in a group


def score_figures(scores: Scores, summary: ScoreSummary, title: str) -> dict[str, Figure]:
    """Draw the figures that the scores allow; metrics that are information only are left out.

    Args:
        scores: of every utterance and system.
        summary: of the same scores.
        title: above the panels.

    Returns:
        ``spread``: box plots of the first four metrics. ``snr``: their means over the signal-to-noise ratio, if the
        summary has two or more groups by it.
    """
    judged = {name: higher for name, higher in scores.higher_is_better.items() if higher is not None}
    values: dict[str, dict[str, dict[str, float]]] = {system: {} for system in scores.systems}
    for row in scores.rows:
        for name, value in row.values.items():
            if name in judged and name not in row.skipped:
                values[row.system].setdefault(name, {})[row.id] = value
    spread = boxes_figure(values, {name: heading(name, higher) for name, higher in judged.items()}, title)
    figures = {"spread": spread} if spread is not None else {}
    parts = {label: part.systems for label, part in summary.groups.get("snr", {}).items() if label != UNKNOWN}
    if len(parts) > 1:
        figures["snr"] = _over_ratio(scores, parts, list(judged)[:MOST_PANELS], title)
    return figures


def _over_ratio(
    scores: Scores, parts: Mapping[str, Mapping[str, Mapping[str, Summary]]], metrics: list[str], title: str
) -> Figure:
    """Draw one point per group at the mean ratio of its utterances, which need not be the middle of a 5 dB step."""
    groups = grouped(scores, "snr")
    ratios = [round(statistics.fmean(float(row.info["snr"]) for row in groups[label].rows), 1) for label in parts]
    curves = {
        system: {metric: [part.get(system, {}).get(metric, _NONE) for part in parts.values()] for metric in metrics}
        for system in scores.systems
    }
    return level_figure(ratios, curves, title)
