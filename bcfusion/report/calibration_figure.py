"""Curves of a calibrated sensor over frequency: response, coherence, deviation, noise; how it follows air."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bcfusion.data.simulation.calibration import Calibration
from bcfusion.data.simulation.short_time import ShortTime
from bcfusion.report.boxes import wrapped_name
from bcfusion.report.colours import PALETTE

__all__ = ["calibration_figure"]

_NAMED = 8  # wearers up to which each has a colour and a name
_PANELS = (
    ("response_db", "response", "body re air (dB)"),
    ("coherence", "coherence of body and air", "magnitude-squared coherence (0 to 1)"),
    ("deviation_db", "deviation of the short-time ratio of body to air", "standard deviation (dB)"),
    ("noise_db", "the sensor's own noise", "density re power of speech at air (dB/Hz)"),
)
_MORE: dict[str, tuple[tuple[str, str, str], ...]] = {
    "response_db": (
        ("h1_db", "--", "mean response, H1 alone"),
        ("ratio_db", ":", "mean response, ratio of powers alone"),
    ),
    "deviation_db": (("residual_db", "-.", "mean deviation that air's level does not explain"),),
}  # further means of a panel: curve, line style, name
_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)  # kHz


def calibration_figure(calibration: Calibration) -> Figure:
    """Draw a panel for each kind of curve: a thin line for each wearer, and their mean.

    With a short-time model there is a third row: its weights, and how long what it leaves lasts. Up to eight wearers
    are named. All names are in one legend below the panels, where they cover nothing.

    Args:
        calibration: of at least one wearer.

    Returns:
        A figure that is not registered with pyplot.
    """
    count = len(calibration.responses)
    named = count <= _NAMED
    frequencies = calibration.frequencies[1:] / 1000
    model = calibration.short_time
    figure = Figure(figsize=(12, 9.2 if model is None else 14.2), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2 if model is None else 3, 2)
    handles: dict[str, Any] = {}
    for cell, (name, title, label) in enumerate(_PANELS):
        panel = figure.add_subplot(grid[cell // 2, cell % 2])
        curves = calibration.curves(name)[:, 1:]
        for place, (response, curve) in enumerate(zip(calibration.responses, curves, strict=True)):
            colour = PALETTE[place] if named else "0.55"
            (line,) = panel.plot(frequencies, curve, color=colour, linewidth=1.2, alpha=1.0 if named else 0.5)
            handles[wrapped_name(response.id) if named else f"one of {count} wearers"] = line
        (line,) = panel.plot(frequencies, curves.mean(axis=0), color="black", linewidth=2.5)
        handles[f"mean of {count} wearer{'s' * (count != 1)}"] = line
        for other, style, text in _MORE.get(name, ()):
            (line,) = panel.plot(frequencies, calibration.curves(other)[:, 1:].mean(axis=0), "k" + style, linewidth=1.6)
            handles[text] = line
        panel.set_title(title, loc="left", fontsize=12, fontweight="bold")
        panel.set_ylabel(label, fontsize=11)
        panel.set_xscale("log")
        ticks = [tick for tick in _TICKS if tick <= frequencies[-1]]
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_xlim(0.05, frequencies[-1])
        panel.grid(alpha=0.3)
        if name == "coherence":
            panel.set_ylim(0, 1)
        if name == "deviation_db" and model is not None:
            (line,) = panel.plot(model.centres / 1000, model.deviation_db, "k:", linewidth=2.0)
            handles["deviation that air's spectrum does not explain"] = line
        if cell >= 2:
            panel.set_xlabel("frequency (kHz)", fontsize=11)
    if model is not None:
        _weights(figure, figure.add_subplot(grid[2, 0]), model)
        _memory(figure.add_subplot(grid[2, 1]), model)
    legend = figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=10, frameon=False
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)  # ids come from file names
    seconds = sum(response.seconds for response in calibration.responses)
    title = f"{calibration.sensor}: {count} wearer{'s' * (count != 1)}, {seconds:.0f} s of speech"
    figure.suptitle(title, fontsize=14, parse_math=False)
    return figure


def _weights(figure: Figure, panel: Axes, model: ShortTime) -> None:
    """Draw what each band of the ratio takes from each band of air."""
    top = float(np.abs(model.weights).max())
    image = panel.imshow(model.weights, origin="lower", cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    ticks = [tick for tick in _TICKS if model.centres[0] / 1000 <= tick <= model.centres[-1] / 1000]
    at = np.interp(np.array(ticks) * 1000, model.centres, np.arange(len(model.centres)))
    panel.set_xticks(at, [f"{tick:g}" for tick in ticks])
    panel.set_yticks(at, [f"{tick:g}" for tick in ticks])
    panel.set_xlabel("band of air (kHz)", fontsize=11)
    panel.set_ylabel("band of body re air (kHz)", fontsize=11)
    title = f"what follows from air: {model.explained:.0%} of the variance"
    panel.set_title(title, loc="left", fontsize=12, fontweight="bold")
    figure.colorbar(image, ax=panel, label="dB per dB")


def _memory(panel: Axes, model: ShortTime) -> None:
    """Draw how long what is left lasts, and how far over the bands it reaches."""
    panel.plot(1000 * model.step * np.arange(len(model.memory)), model.memory, color="black", linewidth=2.5)
    panel.set_xlabel("time apart (ms)", fontsize=11)
    panel.set_ylabel("correlation", fontsize=11)
    panel.set_ylim(min(-0.1, float(model.memory.min()) - 0.05), 1.02)
    panel.grid(alpha=0.3)
    neighbours = float(np.mean(np.diag(model.correlation, 2)))
    title = f"the rest: memory; bands two apart {neighbours:.2f}"
    panel.set_title(title, loc="left", fontsize=12, fontweight="bold")
