"""The pictures of docs/simulators.md: the measured response of every simulator.

python scripts/plot_simulators.py                                    eben_lowpass, accelerometer, narrowband, codec
python scripts/plot_simulators.py accelerometer                      one of them
python scripts/plot_simulators.py --calibration throat.json          the measured sensors too, from `bcfusion calibrate`

Nothing is computed from formulas: noise is passed through each simulator, and the power of the output is divided by the
power of the input, by Welch's method. Thin lines are speakers or draws of training, the thick line is evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import signal as scipy_signal
from torch import Tensor

from bcfusion.contracts import Draw, Simulator
from bcfusion.data.seeding import generator_for
from bcfusion.data.simulation.accelerometer import Accelerometer
from bcfusion.data.simulation.codec import CODECS, round_trip
from bcfusion.data.simulation.eben_lowpass import EbenLowpass
from bcfusion.data.simulation.magnitude_ratio import MagnitudeRatio
from bcfusion.data.simulation.narrowband import FAMILIES, Narrowband
from bcfusion.data.simulation.transfer_function import TransferFunction
from bcfusion.report.colours import PALETTE
from bcfusion.report.spectrogram import save_figure

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
RATE = 16000
SECONDS = 8
SEGMENT = 1024
DRAWN = 10  # thin lines in a panel
TRAINING, EVALUATION = "training, one line per speaker or draw", "evaluation, one speaker"
THICK: dict[str, Any] = {"color": "black", "linewidth": 2.6}
THIN: dict[str, Any] = {"linewidth": 1.0, "alpha": 0.85}
TICKS = {50: "50", 100: "100", 200: "200", 500: "500", 1000: "1k", 2000: "2k", 4000: "4k", 8000: "8k"}


def white(level: float = 0.1, rate: int = RATE, seconds: float = SECONDS) -> Tensor:
    """Return Gaussian noise ``(1, T)`` with the root mean square ``level``."""
    return level * torch.randn(1, round(rate * seconds), generator=generator_for("plot"))


def power(signal: Tensor, rate: int = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in Hz and the power density of ``(1, T)``, by Welch's method."""
    frequencies, density = scipy_signal.welch(signal[0].double().numpy(), rate, nperseg=SEGMENT)
    return frequencies, np.maximum(density, 1e-30)


def simulated(simulator: Simulator, air: Tensor, number: int, training: bool) -> Tensor:
    """Return the signal of the sensor that speaker ``number`` wears."""
    generator, body = generator_for("plot", "utterance", number), generator_for("plot", "speaker", number)
    return simulator(air, Draw(RATE, generator, body, training))["signal"]


def gain(simulator: Simulator, number: int, training: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in Hz and the gain in dB for white noise."""
    air = white()
    frequencies, into = power(air)
    return frequencies, 10 * np.log10(power(simulated(simulator, air, number, training))[1] / into)


def eben_lowpass() -> Figure:
    """Draw one panel."""
    figure, (panel,) = panels("EbenLowpass: response and noise", 1)
    simulator = EbenLowpass()
    for number in range(DRAWN):
        panel.plot(*gain(simulator, number, True), **THIN, label=TRAINING if number == 0 else None)
    panel.plot(*gain(simulator, 0, False), **THICK, label=EVALUATION)
    decibels(panel, "gain for white noise (dB)", -70, 10)
    return figure


def accelerometer() -> Figure:
    """Draw the responses and the sensors' own noise."""
    figure, (left, right) = panels("Accelerometer: ten speakers", 2)
    quiet, noisy = Accelerometer(noise_level=None), Accelerometer()
    silence = torch.zeros_like(white())
    for number in range(DRAWN):
        left.plot(*gain(quiet, number, True), **THIN, label=TRAINING if number == 0 else None)
        frequencies, density = power(simulated(noisy, silence, number, True))
        right.plot(frequencies, 10 * np.log10(density), **THIN, label=TRAINING if number == 0 else None)
    left.plot(*gain(quiet, 100, False), **THICK, label=EVALUATION)
    frequencies, density = power(simulated(noisy, silence, 100, False))
    right.plot(frequencies, 10 * np.log10(density), **THICK, label=EVALUATION)
    left.set_title("response, without the sensor's noise", fontsize=13)
    right.set_title("the sensor's own noise", fontsize=13)
    decibels(left, "gain (dB)", -90, 25)
    decibels(right, "power density (dB of full scale per Hz)", -130, -70)
    return figure


def narrowband() -> Figure:
    """Draw one panel per family."""
    figure, axes = panels("Narrowband: 16 kHz to 8 kHz and back, six families", len(FAMILIES), columns=3)
    for panel, family in zip(axes, FAMILIES, strict=True):
        simulator = Narrowband(8000, families=[family])
        for number in range(5):
            panel.plot(*gain(simulator, number, True), **THIN, label=TRAINING if number == 0 else None)
        panel.plot(*gain(simulator, 0, False), **THICK, label=EVALUATION)
        panel.set_title(family, fontsize=13)
        decibels(panel, "gain (dB)", -80, 10)
        panel.set_xscale("linear")
        panel.set_xlim(2000, 5000)
        panel.set_xticks([2000, 3000, 4000, 5000], ["2k", "3k", "4k", "5k"])
    return figure


def codec() -> Figure:
    """Draw the gain of each codec, and how far its noise is below the signal."""
    figure, (left, right) = panels("Codec at 8 kHz, for noise that falls by 6 dB per octave", 2)
    rate = 8000
    spectrum = np.fft.rfft(white(1.0, rate)[0].numpy())
    excitation = np.fft.irfft(spectrum / np.maximum(np.fft.rfftfreq(rate * SECONDS, 1 / rate), 200))
    excitation = (0.1 * excitation / excitation.std()).astype(np.float32)
    colours = iter(figure_colours())
    for name, coding in CODECS.items():
        quality = 0.2
        decoded = round_trip(excitation, rate, name, quality)
        frequencies, ratio = scipy_signal.coherence(excitation, decoded, rate, nperseg=SEGMENT // 4)
        label = f"{name}, quality {quality:g}" if coding.graded else name
        style: dict[str, Any] = {"linewidth": 1.6, "color": next(colours), "label": label}
        into, out = (scipy_signal.welch(x, rate, nperseg=SEGMENT // 4)[1] for x in (excitation, decoded))
        left.plot(frequencies, 10 * np.log10(np.maximum(out, 1e-30) / into), **style)
        right.plot(frequencies, 10 * np.log10(np.maximum(ratio, 1e-6) / np.maximum(1 - ratio, 1e-6)), **style)
    left.set_title("power out over power in", fontsize=13)
    right.set_title("coherent over incoherent output", fontsize=13)
    decibels(left, "gain (dB)", -15, 10)
    decibels(right, "signal to coding noise (dB)", -10, 50)
    for panel in (left, right):
        panel.set_xlim(50, 4000)
    return figure


def transfer_function(calibration: Path) -> Figure:
    """Draw the responses of a measured sensor."""
    return _measured("TransferFunction", TransferFunction(str(calibration), noise=False), calibration)


def magnitude_ratio(calibration: Path) -> Figure:
    """Draw the responses of a measured sensor."""
    return _measured("MagnitudeRatio", MagnitudeRatio(str(calibration), noise=False), calibration)


def _measured(name: str, simulator: Simulator, calibration: Path) -> Figure:
    figure, (panel,) = panels(f"{name}, without the sensor's noise", 1)
    for number in range(DRAWN):
        label = TRAINING if number == 0 else None
        panel.plot(*gain(simulator, number, True), **THIN, label=label)
    panel.plot(*gain(simulator, 100, False), **THICK, label=EVALUATION)
    decibels(panel, "gain for white noise (dB)", -50, 20)
    return figure


def figure_colours() -> Iterable[str]:
    """Return as many colours as there are codecs, distinct in hue and lightness."""
    return (*PALETTE, "black")


def panels(title: str, count: int, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """Return a figure with a title and ``count`` panels."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.0 + 4.4 * columns if count > 1 else 8.5, 1.4 + 3.6 * rows), dpi=84, layout="constrained")
    figure.suptitle(title, fontsize=15)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes:
        panel.set_prop_cycle(color=PALETTE)
    return figure, axes


def name_lines(figure: Figure) -> None:
    """Name each kind of line once, below the panels, where the legend covers nothing."""
    lines = {
        str(line.get_label()): line
        for panel in figure.axes
        for line in panel.lines
        if not str(line.get_label()).startswith("_")
    }
    across = min(4, len(lines))
    figure.legend(
        list(lines.values()), list(lines), loc="outside lower center", ncols=across, fontsize=11, frameon=False
    )


def decibels(panel: Axes, label: str, lowest: float, highest: float) -> None:
    """Set up the axes of a response: logarithmic frequency, decibels."""
    panel.set_xscale("log")
    panel.set_xlim(50, RATE / 2)
    panel.set_xticks(list(TICKS), list(TICKS.values()))
    panel.minorticks_off()
    panel.set_ylim(lowest, highest)
    panel.set_xlabel("frequency (Hz)", fontsize=12)
    panel.set_ylabel(label, fontsize=12)
    panel.tick_params(labelsize=11)
    panel.grid(color="0.85")


PLAIN: dict[str, Callable[[], Figure]] = {
    function.__name__: function for function in (eben_lowpass, accelerometer, narrowband, codec)
}
MEASURED: dict[str, Callable[[Path], Figure]] = {
    function.__name__: function for function in (transfer_function, magnitude_ratio)
}


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join([*PLAIN, *MEASURED])}; default: all")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="file of the measured sensors")
    parser.add_argument("--out", type=Path, default=PICTURES, metavar="FOLDER", help="default: docs/pictures")
    arguments = parser.parse_args()
    names = arguments.names or [*PLAIN, *(MEASURED if arguments.calibration else ())]
    if unknown := sorted(set(names) - {*PLAIN, *MEASURED}):
        parser.error(f"no simulator {', '.join(unknown)}; there are {', '.join([*PLAIN, *MEASURED])}")
    if not arguments.calibration and (without := sorted(set(names) & set(MEASURED))):
        parser.error(f"{', '.join(without)} needs --calibration FILE")
    for name in names:
        figure = PLAIN[name]() if name in PLAIN else MEASURED[name](arguments.calibration)
        name_lines(figure)
        print(save_figure(figure, arguments.out / f"simulators_{name}.png"), flush=True)


if __name__ == "__main__":
    main()
