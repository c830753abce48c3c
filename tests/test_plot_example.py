"""scripts/plot_example.py: the picture of the README is drawn from the sounds that a run wrote."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import matplotlib.image
import numpy as np
import pytest
import soundfile
from script_loading import load_script

RATE = 8000


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("plot_example")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Sounds of one utterance, 2 s, as a run of two sensors writes them; each system has a level of its own."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for level, system in enumerate(("target", "input_noisy", "input_body", "enhanced"), start=1):
        soundfile.write(folder / f"1-a.b_c.{system}.wav", np.full(2 * RATE, level / 10), RATE)
    return folder


def test_inputs_come_first_then_the_output_then_the_target(script: ModuleType, samples: Path) -> None:
    signals, rate = script.sounds(samples, 1)
    assert rate == RATE
    levels = {name: round(float(signal[0]), 1) for name, signal in signals.items()}
    assert list(levels.items()) == [("input (body)", 0.3), ("input (noisy)", 0.2), ("output", 0.4), ("target", 0.1)]


@pytest.mark.slow
def test_the_picture_shows_the_seconds_asked_for_and_fits_on_a_screen(script: ModuleType, samples: Path) -> None:
    figure = script.drawn(samples, 1, 0.5, 2.0)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["input (body)", "input (noisy)", "output", "target"]
    assert {axes.get_xlim() for axes in panels} == {(0.0, 1.5)}
    width, height = figure.get_size_inches()
    assert height < 0.8 * width


@pytest.mark.slow
def test_the_file_is_sharp_at_800_pixels(
    script: ModuleType, samples: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "all.png"
    monkeypatch.setattr(sys, "argv", ["plot_example.py", str(samples.parent), "--number", "1", "--output", str(path)])
    script.main()
    assert matplotlib.image.imread(path).shape[1] >= 1200


def test_an_utterance_that_is_not_there_is_named(script: ModuleType, samples: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no sounds 7-\*\.wav"):
        script.sounds(samples, 7)
