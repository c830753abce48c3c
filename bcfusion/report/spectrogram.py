"""Pictures of spectrograms: input, enhanced, target and the difference of the last two, one above the other."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from bcfusion.files import appearing

__all__ = ["RANGE_DB", "save_figure", "spectrogram_figure", "thumbnail_png"]

RANGE_DB = 80.0  # shown below the maximum of the reference
WINDOW_SECONDS = 0.032  # resolves harmonics of low voices, and glottal closures of slow ones
MAX_FRAMES = 2400  # more than the columns of a picture; long signals get a longer hop
REFERENCE, TESTED = "target", "enhanced"
DIFFERENCE_DB = 30.0  # at which the colours saturate
AUDIBLE_DB = 60.0  # below the maximum of the reference; what is quieter in both signals is a pause, and not compared
FLOOR = 1e-10  # of the maximum; far below what is shown


@dataclass(frozen=True)
class _Size:
    """Of a picture: inches, and points of its texts."""

    width: float
    top: float
    panel: float
    dpi: int
    title: float
    name: float
    label: float
    tick: float


_FILE = _Size(width=11, top=1.0, panel=2.5, dpi=110, title=14, name=13, label=12, tick=11)
# 720 pixels, of which TensorBoard shows half: texts of 9 pixels and more on its page
_THUMBNAIL = _Size(width=3.6, top=0.55, panel=0.95, dpi=200, title=7, name=7.5, label=7, tick=6.5)


def spectrogram_figure(
    signals: Mapping[str, np.ndarray], sample_rate: int, title: str | None = None, thumbnail: bool = False
) -> Figure:
    """Draw one panel per signal, in their order.

    All panels share one colour scale, 80 dB down from the maximum of the signal named ``target`` (of the last one if
    there is none), so that a panel that is too quiet looks too quiet. Samples that are not finite stay blank. If
    ``enhanced`` and ``target`` are among the signals, a last panel shows the level of the first relative to the second
    in dB: red is too much, blue is missing. It is grey where both are more than 60 dB below the maximum, as in pauses,
    and compares nothing below this level: noise that nobody hears would cover it with full colours.

    Args:
        signals: name of the panel to ``(T,)`` or ``(1, T)``, not empty; lengths may differ.
        sample_rate: in Hz.
        title: above the panels.
        thumbnail: whether the picture is shown about 350 pixels wide, as in TensorBoard.

    Returns:
        A figure that is not registered with pyplot.

    Raises:
        ValueError: there are no signals, or one is empty or has several channels.
    """
    if not signals:
        raise ValueError("no signals to draw")
    tracks = {name: _mono(name, signal) for name, signal in signals.items()}
    longest = max(len(track) for track in tracks.values())
    window = max(16, 2 * round(WINDOW_SECONDS * sample_rate / 2))
    hop = max(window // 8, -(-longest // MAX_FRAMES))
    magnitudes = {name: _magnitude(track, window, hop) for name, track in tracks.items()}
    reference = REFERENCE if REFERENCE in magnitudes else list(magnitudes)[-1]
    # If the reference is silent, the loudest panel is the reference; if all are silent, full scale is.
    top = _peak(magnitudes[reference]) or max(map(_peak, magnitudes.values())) or 1.0

    levels = {name: 20 * np.log10(np.maximum(magnitude, FLOOR * top) / top) for name, magnitude in magnitudes.items()}
    difference = _difference(levels) if {REFERENCE, TESTED} <= levels.keys() else None
    size = _THUMBNAIL if thumbnail else _FILE
    count = len(levels) + (difference is not None)
    figure = Figure(figsize=(size.width, size.top + size.panel * count), dpi=size.dpi, layout="constrained")
    panels = list(figure.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0])
    for panel, (name, decibels) in zip(panels, levels.items(), strict=False):
        image = _draw(panel, name, decibels, hop / sample_rate, sample_rate, "magma", (-RANGE_DB, 0.0), size)
    _scale(figure, image, panels[: len(levels)], f"level (dB re maximum of {reference})", size)
    if difference is not None:
        limits = (-DIFFERENCE_DB, DIFFERENCE_DB)
        name = f"difference: {TESTED} − {REFERENCE}"
        image = _draw(panels[-1], name, difference, hop / sample_rate, sample_rate, "RdBu_r", limits, size)
        _scale(figure, image, panels[-1:], "dB" if thumbnail else f"dB; grey: both below −{AUDIBLE_DB:g}", size)
    panels[-1].set_xlim(0.0, longest / sample_rate)
    panels[-1].set_ylim(0.0, sample_rate / 2000)
    panels[-1].set_xlabel("time (s)", fontsize=size.label)
    if title is not None:
        # ids come from file names, and may be long
        characters = int(1.6 * 72 * size.width / size.title)
        figure.suptitle(textwrap.fill(title, characters), fontsize=size.title, parse_math=False)
    return figure


def _difference(levels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return tested minus reference in dB ``(bins, frames)``, cut to the shorter one; NaN where there is none."""
    frames = min(levels[name].shape[1] for name in (TESTED, REFERENCE))
    tested, reference = (np.maximum(levels[name][:, :frames], -AUDIBLE_DB) for name in (TESTED, REFERENCE))
    return np.where(np.maximum(tested, reference) > -AUDIBLE_DB, tested - reference, np.nan)


def _draw(
    panel: Axes,
    name: str,
    decibels: np.ndarray,
    hop_seconds: float,
    sample_rate: int,
    colours: str,
    limits: tuple[float, float],
    size: _Size,
) -> AxesImage:
    # imshow takes the outer edges of the first and last pixel; frames and bins are at the centres of pixels.
    edge, bin_edge = hop_seconds / 2, sample_rate / 2000 / (decibels.shape[0] - 1) / 2
    panel.set_title(name, loc="left", fontsize=size.name, fontweight="bold", parse_math=False, pad=3)
    panel.set_ylabel("kHz" if size is _THUMBNAIL else "frequency (kHz)", fontsize=size.label)
    panel.tick_params(labelsize=size.tick)
    panel.yaxis.set_major_locator(MaxNLocator(4 if size is _THUMBNAIL else 6, steps=[1, 2, 5, 10]))
    panel.set_facecolor("0.85")  # visible after the end of shorter signals, and where samples are not finite
    return panel.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        extent=(-edge, (2 * decibels.shape[1] - 1) * edge, -bin_edge, sample_rate / 2000 + bin_edge),
        interpolation="antialiased",
    )


def _scale(figure: Figure, image: AxesImage, panels: list[Axes], label: str, size: _Size) -> None:
    bar = figure.colorbar(image, ax=panels, pad=0.01, aspect=12 * len(panels), extend="both")
    bar.set_label(label, fontsize=size.label)
    bar.ax.tick_params(labelsize=size.tick)


def thumbnail_png(signals: Mapping[str, np.ndarray], sample_rate: int, title: str) -> bytes:
    """Return the thumbnail of :func:`spectrogram_figure` as a PNG file."""
    png = io.BytesIO()
    # the lowest level of compression: 0.6 of the time of the usual one, for 1.05 of its size
    figure = spectrogram_figure(signals, sample_rate, title, thumbnail=True)
    figure.savefig(png, format="png", pil_kwargs={"compress_level": 1})
    return png.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a picture in the format of its suffix (png, pdf, svg), whole or not at all; return its path."""
    target = Path(path)
    with appearing(target) as part:
        figure.savefig(part, format=target.suffix.removeprefix("."))
    return target


def _mono(name: str, signal: np.ndarray) -> np.ndarray:
    track = np.asarray(signal, dtype=np.float64)
    if track.ndim == 2 and track.shape[0] == 1:
        track = track[0]
    if track.ndim != 1 or track.size == 0:
        raise ValueError(f"{name} has shape {np.shape(signal)}, expected (T,) or (1, T)")
    return track


def _peak(magnitude: np.ndarray) -> float:
    return float(magnitude[np.isfinite(magnitude)].max(initial=0.0))


def _magnitude(track: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Return the STFT magnitude ``(bins, frames)``, frame i centred on sample ``i * hop``.

    It is NaN where samples are not finite.
    """
    frames = -(-len(track) // hop)
    padded = np.pad(track, (window // 2, window // 2 + hop))
    slices = np.lib.stride_tricks.sliding_window_view(padded, window)[: frames * hop : hop]
    # Zero-padding to twice the window draws harmonics as smooth lines.
    return np.abs(np.fft.rfft(slices * np.hanning(window + 1)[:-1], n=2 * window, axis=1)).T
