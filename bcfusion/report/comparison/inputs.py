"""Whether runs were given the same input: a better input gives better scores, whatever the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bcfusion.evaluation.systems import ENHANCED
from bcfusion.report.comparison.run import Run, Which
from bcfusion.report.table import metric_name, number

__all__ = ["common_inputs", "other_inputs"]


def common_inputs(runs: Sequence[Run], which: Which) -> dict[str, Mapping[str, float]]:
    """Return the mean scores of the inputs that are the same in all runs that have scored any, by their names."""
    measured = [means for run in runs if (means := run.input_means(which))]
    if not measured:
        return {}
    first = measured[0]
    return {
        name: means
        for name, means in first.items()
        if all(name in other and _alike(means, other[name]) for other in measured[1:])
    }


def other_inputs(run: Run, reference: Run) -> str:
    """Return in a few words how the inputs of two runs differ on their common utterances, or an empty text."""
    ours = {name for name in run.closing_scores if name != ENHANCED}
    theirs = {name for name in reference.closing_scores if name != ENHANCED}
    if not ours or not theirs:
        return ""
    if ours != theirs:
        return f"its input is {', '.join(sorted(ours))}, the other's is {', '.join(sorted(theirs))}"
    for name in sorted(ours):
        one, two = run.closing_scores[name].metrics, reference.closing_scores[name].metrics
        for metric in one:
            if metric not in two or metric_name(metric).unit == "ms":
                continue
            common = one[metric].keys() & two[metric].keys()
            if any(not _close(one[metric][item], two[metric][item]) for item in common):
                means = [number(metric, sum(side[metric][i] for i in common) / len(common)) for side in (one, two)]
                return f"its {name} differs: {metric_name(metric).text} {means[0]} against {means[1]}"
    return ""


def _alike(one: Mapping[str, float], two: Mapping[str, float]) -> bool:
    return all(_close(one[metric], two[metric]) for metric in one.keys() & two.keys())


def _close(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=1e-3, abs_tol=1e-3)
