"""Quality against the signal-to-noise ratio of the air microphone: a panel for each metric, a line for each system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from bcfusion.report.table import metric_name

__all__ = ["snr_figure"]

# Okabe and Ito's, which colour-blind eyes tell apart too.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


def snr_figure(ratios: Sequence[float], curves: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Draw a curve for each system in a panel for each metric.

    Args:
        ratios: signal-to-noise ratios in dB, ascending.
        curves: system to metric to one mean for each ratio; every system has the metrics of the first.
        title: above the panels.

    Returns:
        A figure of its own, which pyplot does not know.

    Raises:
        ValueError: no system, or a curve of another length than ``ratios``.
    """
    if not curves:
        raise ValueError("no curves to draw")
    metrics = list(next(iter(curves.values())))
    figure = Figure(figsize=(4.2 * len(metrics), 4.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for number, (system, values) in enumerate(curves.items()):
            if len(values[metric]) != len(ratios):
                raise ValueError(f"{system}: {len(values[metric])} values of {metric} for {len(ratios)} ratios")
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
            panel.plot(ratios, values[metric], color=colour, marker=marker, linewidth=2, label=system)
        name = metric_name(metric)
        panel.set_ylabel(f"{name.text} ({name.unit})" if name.unit else name.text, fontsize=12)
        panel.set_xlabel("SNR of the air microphone (dB)", fontsize=12)
        panel.set_xticks(list(ratios))
        panel.tick_params(labelsize=11)
        panel.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=12, frameon=False)
    figure.suptitle(title, fontsize=14, parse_math=False)
    return figure
