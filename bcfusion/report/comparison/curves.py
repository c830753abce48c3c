"""Figures of several runs: their learning curves side by side, and the distribution of their closing scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bcfusion.evaluation.systems import ENHANCED
from bcfusion.report.boxes import boxes_figure, wrapped_name
from bcfusion.report.colours import FIXED, PALETTE, colour_of, marker_of
from bcfusion.report.comparison.inputs import common_inputs
from bcfusion.report.comparison.run import Run
from bcfusion.report.comparison.run_files import Curve
from bcfusion.report.table import heading

__all__ = ["curves_figure", "distributions_figure"]

MOST_SYSTEMS = len(PALETTE)  # more runs are drawn thin and grey in curves, and left out of distributions
_MOST_PANELS = 4
_OTHERS = "#D0D0D0"
_LABEL, _TICKS, _TITLE = 12, 11, 14  # points


def curves_figure(runs: Mapping[str, Run], metrics: Sequence[str], title: str) -> Figure | None:
    """Draw what the runs logged in training: a panel for each metric and one for the training loss.

    A ring marks the best checkpoint. A dashed line is the input, if it is the same for all runs. The loss is the total
    if all runs have the same losses, otherwise one that they share; it is drawn raw (pale) and as a running mean.

    Args:
        runs: the runs by their names, the best first; the first ten have colours of their own.
        metrics: keys, of which the first four are drawn.
        title: text above the panels.

    Returns:
        A figure without pyplot; None if no run has logged anything to draw.
    """
    tags = [f"valid/{metric}" for metric in metrics if any(f"valid/{metric}" in run.history for run in runs.values())]
    tags = tags[:_MOST_PANELS]
    if (loss := _loss_tag(list(runs.values()))) is not None:
        tags.append(loss)
    if not tags:
        return None
    across = min(3, len(tags))
    down = -(-len(tags) // across)
    order = list(runs)
    spare = across * down > len(tags) and len(order) <= MOST_SYSTEMS  # the legend goes where a panel is missing
    height = 3.7 * down + 0.6 + (0.0 if spare else _legend_height(order))
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(4.6 * across, height), dpi=110, layout=layout)
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel, tag in zip(panels, tags, strict=False):
        for name in reversed(order):  # the best ones on top
            if (curve := runs[name].history.get(tag)) is not None:
                _draw(panel, runs[name], curve, tag, name, order[:MOST_SYSTEMS])
        if tag == loss and _positive(runs.values(), tag):
            panel.set_yscale("log")
            low, high = panel.get_ylim()
            narrow = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
            panel.yaxis.set_major_locator(LogLocator(subs=narrow if high < 4 * low else (1.0, 2.0, 5.0)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_locator(NullLocator())
        if tag == loss:
            what = "training loss, total" if tag == "loss/total" else f"training loss {tag.partition('/')[2]}"
            panel.set_ylabel(what, fontsize=_LABEL, parse_math=False)
        else:
            _input_line(panel, list(runs.values()), tag)
            panel.set_ylabel(_axis(tag.partition("/")[2], runs.values()), fontsize=_LABEL, parse_math=False)
        panel.set_xlabel("training step", fontsize=_LABEL)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.tick_params(labelsize=_TICKS)
        panel.grid(alpha=0.3)
    for panel in panels[len(tags) :]:
        panel.axis("off")
    _legend(panels[len(tags)] if spare else figure, panels[: len(tags)], order)
    figure.suptitle(title, fontsize=_TITLE, parse_math=False)
    return figure


def _draw(panel: Axes, run: Run, curve: Curve, tag: str, name: str, coloured: Sequence[str]) -> None:
    if name not in coloured:
        panel.plot(curve.steps, curve.values, color=_OTHERS, linewidth=0.8, zorder=1)
        return
    colour, marker = colour_of(name, coloured), marker_of(name, coloured)
    if not tag.startswith("valid/"):
        few = marker if np.isfinite(curve.values).sum() < 3 else ""  # a line through one point is not visible
        panel.plot(curve.steps, curve.values, color=colour, marker=few, alpha=0.25, linewidth=0.8, zorder=2)
        smooth = _running_mean(curve.values)
        panel.plot(curve.steps, smooth, color=colour, marker=few, linewidth=2, label=name, zorder=3)
        return
    panel.plot(curve.steps, curve.values, color=colour, marker=marker, markersize=5, linewidth=2, label=name, zorder=3)
    at = curve.steps == run.best_step
    if at.any():
        panel.plot(curve.steps[at], curve.values[at], "o", markersize=13, fillstyle="none", color=colour, zorder=4)


def _positive(runs: Iterable[Run], tag: str) -> bool:
    """Return whether a logarithmic axis can show all of a curve: losses such as negative SI-SDR are below 0."""
    values = np.concatenate([run.history[tag].values for run in runs if tag in run.history])
    return bool((values[np.isfinite(values)] > 0).all())


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Return ``(N,)`` averaged over a twentieth of the run, fewer values at the ends; NaN is left out."""
    width = min(len(values), max(5, len(values) // 20)) // 2 * 2 + 1
    finite = np.isfinite(values)
    middle = slice(width // 2, width // 2 + len(values))
    count = np.convolve(finite, np.ones(width))[middle]
    total = np.convolve(np.where(finite, values, 0.0), np.ones(width))[middle]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _loss_tag(runs: Sequence[Run]) -> str | None:
    """Return the loss that all runs with losses have in common: the total if it is the same sum in all of them."""
    drawable = [
        {tag for tag, curve in run.history.items() if tag.startswith("loss/") and np.isfinite(curve.values).any()}
        for run in runs
    ]
    logged = [run for run, tags in zip(runs, drawable, strict=True) if tags]
    if not logged:
        return None
    alike = all(run.settings.get("losses") == logged[0].settings.get("losses") for run in logged)
    shared = set.intersection(*filter(None, drawable))
    common = [tag for tag in logged[0].history if tag in shared]
    if "loss/total" in common and alike:
        return "loss/total"
    return next((tag for tag in common if tag != "loss/total"), None)


def _input_line(panel: Axes, runs: Sequence[Run], tag: str) -> None:
    metric = tag.partition("/")[2]
    for name, means in common_inputs(runs, "best").items():
        if metric in means:
            colour = FIXED.get(name, FIXED["input"])
            panel.axhline(means[metric], color=colour, linestyle="--", linewidth=1.6, label=name)


def _legend(place: Axes | Figure, panels: Sequence[Axes], order: Sequence[str]) -> None:
    """Name every system once, in an empty panel or below the figure."""
    entries: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    names = [name for name in order if name in entries]
    names += [name for name in entries if name not in names]
    if len(order) > MOST_SYSTEMS:
        entries[others := f"{len(order) - MOST_SYSTEMS} more runs"] = Line2D([], [], color=_OTHERS, linewidth=2)
        names.append(others)
    inside = isinstance(place, Axes)
    legend = place.legend(
        [entries[name] for name in names],
        [wrapped_name(name, 36 if inside else 60) for name in names],
        loc="center left" if inside else "outside lower center",
        ncols=1 if inside or max(map(len, names), default=0) > 40 else 2,
        fontsize=_LABEL,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # names contain what users typed


def _legend_height(order: Sequence[str]) -> float:
    """Return the height of a legend below the panels, in inches."""
    names = min(len(order), MOST_SYSTEMS) + 2
    lines = names if max(map(len, order)) > 40 else -(-names // 2)
    return 0.24 * lines


def distributions_figure(runs: Mapping[str, Run], metrics: Sequence[str], title: str) -> Figure | None:
    """Draw the distribution of the closing scores over the utterances: a panel per metric, a box per system.

    The input is drawn if it is the same for all runs; see :func:`bcfusion.report.boxes.boxes_figure`.

    Args:
        runs: the runs by their names, the best first; of the first ten, which have colours, those with closing scores
            are drawn.
        metrics: keys, of which the first four are drawn.
        title: text above the panels.

    Returns:
        A figure without pyplot; None if there are no scores to draw.
    """
    coloured = list(runs)[:MOST_SYSTEMS]
    shown = {name: runs[name] for name in coloured if ENHANCED in runs[name].closing_scores}
    systems: dict[str, Mapping[str, Mapping[str, float]]] = {
        **_same_inputs(list(shown.values())),
        **{name: run.closing_scores[ENHANCED].metrics for name, run in shown.items()},
    }
    headings = {metric: _axis(metric, runs.values()) for metric in metrics}
    return boxes_figure(systems, headings, title, coloured)


def _same_inputs(runs: Sequence[Run]) -> dict[str, Mapping[str, Mapping[str, float]]]:
    """Return the closing scores of the inputs that are the same in all runs, from the first run that has any."""
    first = next((run for run in runs if run.input_means("closing")), None)
    return (
        {} if first is None else {name: first.closing_scores[name].metrics for name in common_inputs(runs, "closing")}
    )


def _axis(metric: str, runs: Iterable[Run]) -> str:
    """Return the name and unit of a metric, and the direction in which it is better if a run records it."""
    directions = (run.higher_is_better.get(metric) for run in runs)
    return heading(metric, next((higher for higher in directions if higher is not None), None))
