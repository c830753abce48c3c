"""Quality over the signal-to-noise ratio of the air microphone: one panel per metric, one line per system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from bcfusion.report.boxes import wrapped_title
from bcfusion.report.colours import colour_of, marker_of
from bcfusion.report.table import metric_name

__all__ = ["snr_figure"]


def snr_figure(
    ratios: Sequence[float],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    title: str,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw one curve per system in one panel per metric.

    Args:
        ratios: signal-to-noise ratios in dB, ascending.
        curves: system to metric to one mean per ratio; every system has the metrics of the first.
        title: above the panels.
        labels: texts of the legend by system; colours follow from the name of the system.

    Returns:
        A figure that is not registered with pyplot.

    Raises:
        ValueError: there is no system, or a curve differs from ``ratios`` in length.
    """
    if not curves:
        raise ValueError("no curves to draw")
    metrics, order = list(next(iter(curves.values()))), list(curves)
    figure = Figure(figsize=(4.2 * len(metrics), 4.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for system, values in curves.items():
            if len(values[metric]) != len(ratios):
                raise ValueError(f"{system}: {len(values[metric])} values of {metric} for {len(ratios)} ratios")
            colour, marker = colour_of(system, order), marker_of(system, order)
            panel.plot(
                ratios,
                values[metric],
                color=colour,
                marker=marker,
                linewidth=2,
                label=(labels or {}).get(system, system),
            )
        name = metric_name(metric)
        panel.set_ylabel(f"{name.text} ({name.unit})" if name.unit else name.text, fontsize=12)
        panel.set_xlabel("SNR of the air microphone (dB)", fontsize=12)
        panel.set_xticks(list(ratios))
        panel.tick_params(labelsize=11)
        panel.grid(alpha=0.3)
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), fontsize=12, frameon=False)
    figure.suptitle(wrapped_title(title, figure), fontsize=14, parse_math=False)
    return figure
