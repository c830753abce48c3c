"""Box plots of the scores of utterances: one box per system in one panel per metric."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bcfusion.evaluation.statistics import bootstrap_interval
from bcfusion.report.colours import colour_of

__all__ = ["MOST_PANELS", "boxes_figure", "wrapped_name", "wrapped_title"]

MOST_PANELS = 4
_SINGLE_POINTS = 60  # utterances up to which each is drawn
_LABEL, _TICKS, _TITLE, _NOTE = 12, 11, 14, 9.5  # points
_CHARACTERS_PER_INCH = 8  # of a title


def boxes_figure(
    systems: Mapping[str, Mapping[str, Mapping[str, float]]],
    headings: Mapping[str, str],
    title: str,
    order: Sequence[str] | None = None,
) -> Figure | None:
    """Draw the distribution of scores over utterances.

    A box contains the middle half of the utterances, its line is the median, the whiskers reach to the last utterance
    within 1.5 times the height of the box, and a white diamond is the mean, with its 95 % bootstrap interval as a thick
    line. Few utterances are drawn one by one. The number of utterances is below the panels.

    Args:
        systems: system to metric to utterance to score, from top to bottom.
        headings: metric to the label of its axis; the first four that have scores are drawn.
        title: above the panels.
        order: systems that share the colours; None: those that are drawn.

    Returns:
        A figure that is not registered with pyplot; None if there is nothing to draw.
    """
    drawn = [metric for metric in headings if any(scores.get(metric) for scores in systems.values())][:MOST_PANELS]
    if not drawn:
        return None
    labels = [wrapped_name(name).splitlines() or [""] for name in systems]
    height = 1.85 + sum(0.14 + 0.2 * len(lines) for lines in labels)
    names = max(2.6, 0.6 + 0.1 * max(len(line) for lines in labels for line in lines))
    figure = Figure(figsize=(names + 3.0 * len(drawn), height), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    rng = np.random.default_rng(0)
    for panel, metric in zip(panels, drawn, strict=True):
        for row, (name, scores) in enumerate(systems.items()):
            values = np.array(list(scores.get(metric, {}).values()))
            if values.size:
                _box(panel, row, values, colour_of(name, order or list(systems)), rng)
        panel.set_xlabel(f"{headings[metric]}\n{_counted(systems, metric)}", fontsize=_LABEL, parse_math=False)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.tick_params(labelsize=_TICKS)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(
        range(len(systems)), [wrapped_name(name) for name in systems], fontsize=_LABEL, parse_math=False
    )
    panels[0].set_ylim(len(systems) - 0.4, -0.6)
    figure.supxlabel("box: quartiles; line: median; diamond, dark bar: mean, 95 % interval", fontsize=_NOTE)
    figure.suptitle(wrapped_title(title, figure), fontsize=_TITLE, parse_math=False)
    return figure


def _counted(systems: Mapping[str, Mapping[str, Mapping[str, float]]], metric: str) -> str:
    """Return the number of scored utterances; systems may differ in it."""
    counts = [len(found) for scores in systems.values() if (found := scores.get(metric))]
    return f"n = {min(counts)}" + (f" to {max(counts)}" if max(counts) > min(counts) else "")


def wrapped_title(title: str, figure: Figure) -> str:
    """Return a title in lines that fit the width of a figure; long paths are broken."""
    return textwrap.fill(title, int(_CHARACTERS_PER_INCH * figure.get_figwidth()))


def _box(panel: Axes, row: int, values: np.ndarray, colour: str, rng: np.random.Generator) -> None:
    single = values.size <= _SINGLE_POINTS
    panel.boxplot(
        [values],
        positions=[row],
        orientation="horizontal",
        widths=0.55,
        patch_artist=True,
        showmeans=True,
        showfliers=not single,
        manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.45, "edgecolor": colour},
        medianprops={"color": "black", "linewidth": 2},
        whiskerprops={"color": colour},
        capprops={"color": colour},
        flierprops={"marker": ".", "markerfacecolor": colour, "markeredgecolor": colour, "markersize": 4},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 6, "zorder": 5},
    )
    low, high = bootstrap_interval(values)
    if math.isfinite(low):
        panel.plot([low, high], [row, row], color="black", linewidth=4, alpha=0.55, solid_capstyle="butt", zorder=4)
    if single:
        rows = row + rng.uniform(-0.16, 0.16, values.size)
        panel.plot(values, rows, ".", color=colour, markersize=6, zorder=3)


def wrapped_name(name: str, width: int = 30) -> str:
    """Return the name of a system in lines of ``width`` characters, for axes and legends."""
    return textwrap.fill(name, width, break_on_hyphens=False)
