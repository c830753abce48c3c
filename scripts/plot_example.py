"""Draw the README's picture: one utterance of a finished run, from the sounds that the run wrote.

python scripts/plot_example.py RUN/evaluation/TIME --number 1 --seconds 0 5 --output docs/pictures/throat.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
from colours import reduce_colours
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from bcfusion.evaluation.sample_files import parse
from bcfusion.evaluation.systems import ENHANCED, TARGET, is_input
from bcfusion.report.spectrogram import save_figure, spectrogram_figure

PANELS = {ENHANCED: "output", TARGET: "target"}  # systems after the inputs, and the titles of their panels
PANEL_INCHES = 1.9  # lower than in the pictures of a run: four panels fit on a screen


def sounds(samples: Path, number: int) -> tuple[dict[str, np.ndarray], int]:
    """Return the signals ``(T,)`` of one utterance in ``samples/``, inputs first, and their sample rate in Hz.

    Raises:
        FileNotFoundError: the folder has no utterance with this number.
    """
    found = {path: sample for path in sorted(samples.glob("*.wav")) if (sample := parse(path.name))}
    files = {sample.system: path for path, sample in found.items() if sample.number == number}
    if not files.keys() >= PANELS.keys():
        raise FileNotFoundError(f"{samples}: no sounds {number}-*.wav of an input, {' and '.join(PANELS)}")
    signals, rate = {}, 0
    for system, title in {**{system: system for system in filter(is_input, files)}, **PANELS}.items():
        signals[title], rate = soundfile.read(files[system])
    return signals, rate


def drawn(samples: Path, number: int, start: float, end: float) -> Figure:
    """Draw one utterance from ``start`` to ``end`` seconds."""
    signals, rate = sounds(samples, number)
    part = slice(round(start * rate), round(end * rate))
    figure = spectrogram_figure({name: signal[part] for name, signal in signals.items()}, rate)
    figure.set_size_inches(11, 0.6 + PANEL_INCHES * len(signals))
    return figure


def palette() -> Image.Image:
    """Return the colours of a spectrogram figure: its colour scale, and greys."""
    shades = np.concatenate(
        [colormaps["magma"](np.linspace(0, 1, 216))[:, :3], np.linspace(0, 1, 40)[:, None] * (1, 1, 1)]
    )
    image = Image.new("P", (1, 1))
    image.putpalette((255 * shades).round().astype(np.uint8).tobytes())
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory or an evaluation of it, with samples/")
    parser.add_argument("--number", type=int, default=0, help="number of the utterance in samples/ (default: 0)")
    parser.add_argument("--seconds", type=float, nargs=2, default=(0.0, 6.0), metavar=("START", "END"))
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    arguments = parser.parse_args()
    try:
        figure = drawn(arguments.run / "samples", arguments.number, *arguments.seconds)
    except FileNotFoundError as error:
        parser.error(str(error))
    path = save_figure(figure, arguments.output)
    reduce_colours(path, palette())
    print(path)


if __name__ == "__main__":
    main()
