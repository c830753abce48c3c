"""Quality over the signal-to-noise ratio of the air microphone, or over another number.

One panel per metric, one line per system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bcfusion.evaluation.statistics import Summary
from bcfusion.report.boxes import wrapped_name, wrapped_title
from bcfusion.report.colours import colour_of, marker_of
from bcfusion.report.table import metric_name

__all__ = ["snr_figure"]


def snr_figure(
    ratios: Sequence[float],
    curves: Mapping[str, Mapping[str, Sequence[Summary]]],
    title: str,
    labels: Mapping[str, str] | None = None,
    axis: str = "SNR of the air microphone (dB)",
) -> Figure:
    """Draw one curve per system in one panel per metric: means, their 95 % bootstrap intervals, number of utterances.

    Args:
        ratios: places on the horizontal axis, ascending: signal-to-noise ratios in dB, or what ``axis`` says.
        curves: system to metric to the statistics at each ratio; every system has the metrics of the first.
        title: above the panels.
        labels: texts of the legend by system; colours follow from the name of the system.
        axis: text below the horizontal axis.

    Returns:
        A figure that is not registered with pyplot.

    Raises:
        ValueError: there is no system, or a curve differs from ``ratios`` in length.
    """
    if not curves:
        raise ValueError("no curves to draw")
    metrics, order = list(next(iter(curves.values()))), list(curves)
    names = [wrapped_name((labels or {}).get(system, system)) for system in order]
    figure = Figure(figsize=(max(4.2, 0.75 * len(ratios) + 1.0) * len(metrics), 4.8), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    # systems side by side, so that the bar of one does not cover that of another
    step = 0.06 * min((right - left for left, right in pairwise(ratios)), default=1.0)
    handles: list[Any] = []
    for panel, metric in zip(panels, metrics, strict=True):
        handles = []
        for place, (system, values) in enumerate(curves.items()):
            found = values[metric]
            if len(found) != len(ratios):
                raise ValueError(f"{system}: {len(found)} values of {metric} for {len(ratios)} ratios")
            shift = step * (place - (len(order) - 1) / 2)
            means = np.array([each.mean for each in found])
            ends = np.array([[each.mean - each.low, each.high - each.mean] for each in found]).T
            handles.append(
                panel.errorbar(
                    np.asarray(ratios) + shift,
                    means,
                    yerr=np.nan_to_num(np.maximum(ends, 0.0)),  # one utterance has no interval
                    color=colour_of(system, order),
                    marker=marker_of(system, order),
                    linewidth=2,
                    elinewidth=1.4,
                    capsize=3,
                    label=system,
                )
            )
        name = metric_name(metric)
        panel.set_ylabel(f"{name.text} ({name.unit})" if name.unit else name.text, fontsize=12)
        panel.set_xlabel(axis, fontsize=12)
        counts = [{values[metric][place].count for values in curves.values()} for place in range(len(ratios))]
        panel.set_xticks(
            list(ratios), [f"{ratio:g}\n{_counted(found)}" for ratio, found in zip(ratios, counts, strict=True)]
        )
        panel.tick_params(labelsize=10)
        panel.grid(alpha=0.3)
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)), fontsize=11, frameon=False)
    what = "mean over n utterances, 95 % bootstrap interval"
    figure.suptitle(f"{wrapped_title(title, figure)}\n{what}", fontsize=13, parse_math=False)
    return figure


def _counted(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return f"n={low}" if low == high else f"n={low}–{high}"
