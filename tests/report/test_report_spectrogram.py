from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pictures import assert_nothing_is_covered

from bcfusion.report.spectrogram import RANGE_DB, save_figure, spectrogram_figure, thumbnail_png

RATE = 16000


def tone(frequency: float, amplitude: float = 0.5, seconds: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_ylabel() in ("frequency (kHz)", "kHz")]


def levels(panel: Axes) -> np.ndarray:
    return np.asarray(panel.images[0].get_array(), dtype=float)


def position(panel: Axes, row: int, column: int) -> tuple[float, float]:
    """Return seconds and kHz at the centre of a pixel."""
    left, right, bottom, top = panel.images[0].get_extent()
    rows, columns = levels(panel).shape
    return left + (column + 0.5) * (right - left) / columns, bottom + (row + 0.5) * (top - bottom) / rows


def test_panels_share_a_scale_of_80_db_below_the_maximum_of_the_target() -> None:
    signals = {"input": tone(1000, 0.05), "enhanced": tone(1000, 1.0), "target": tone(1000, 0.5)}
    figure = spectrogram_figure(signals, RATE)
    drawn = panels(figure)
    difference = drawn.pop()
    assert [panel.get_title(loc="left") for panel in drawn] == ["input", "enhanced", "target"]
    assert difference.get_title(loc="left") == "difference: enhanced − target"
    assert {panel.images[0].get_clim() for panel in drawn} == {(-RANGE_DB, 0.0)}
    assert RANGE_DB == 80
    tops = [levels(panel).max() for panel in drawn]
    assert tops == pytest.approx([-20, 20 * np.log10(2), 0], abs=0.01)


def test_the_difference_is_positive_where_there_is_too_much_and_blank_where_both_are_inaudible() -> None:
    missing, added, both = tone(1000), tone(3000), tone(500)
    quiet = 1e-6 * np.random.default_rng(0).normal(size=RATE)  # 114 dB below full scale
    figure = spectrogram_figure({"enhanced": both + added, "target": (both + 0.5 * missing + quiet)[:12000]}, RATE)
    *_, panel = panels(figure)
    column = levels(panel)[:, 100]
    at = {frequency: round(frequency / 8000 * (len(column) - 1)) for frequency in (500, 1000, 3000, 6000)}
    assert column[at[500]] == pytest.approx(0, abs=0.1)
    assert column[at[1000]] == pytest.approx(-54, abs=0.5)  # from half the maximum down to 60 dB below it
    assert column[at[3000]] == pytest.approx(60, abs=0.5)
    assert np.isnan(column[at[6000]])
    assert levels(panel).shape[1] < levels(panels(figure)[0]).shape[1]  # the part that both have
    assert panel.images[0].get_clim() == (-30, 30)
    assert any(axes.get_ylabel() == "dB; grey: both below −60" for axes in figure.axes)


def test_noise_in_pauses_that_nobody_hears_does_not_fill_the_difference_with_colour() -> None:
    random = np.random.default_rng(0)
    speech = np.where(np.arange(2 * RATE) < RATE, 0.3 * random.normal(size=2 * RATE), 0.0)  # then digital silence
    figure = spectrogram_figure({"enhanced": speech + 1e-4 * random.normal(size=2 * RATE), "target": speech}, RATE)
    *_, panel = panels(figure)
    pause = levels(panel)[:, -200:]
    assert np.isnan(pause).all()
    assert np.nanmax(np.abs(levels(panel)[:, :200])) < 30


@pytest.mark.parametrize("thumbnail", [False, True])
def test_nothing_is_cut_and_texts_are_readable_at_the_size_that_is_shown(thumbnail: bool) -> None:
    signals = {"input (body)": tone(300), "input (noisy)": tone(300), "enhanced": tone(300), "target": tone(500)}
    title = "speakers/a_name_that_is_long/recorded_on_a_day_in_november_0001, step 120000"
    figure = spectrogram_figure(signals, RATE, title, thumbnail)
    assert_nothing_is_covered(figure)
    suptitle = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    assert suptitle.x0 >= 0
    assert suptitle.x1 <= figure.bbox.x1
    shown = 350 if thumbnail else figure.bbox.width  # TensorBoard shows pictures 350 pixels wide
    texts = [text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels())]
    smallest = min(text.get_fontsize() for text in texts if text.get_text())
    assert smallest / 72 * figure.dpi * shown / figure.bbox.width >= 8.5


def test_the_file_of_a_thumbnail_is_its_figure() -> None:
    signals = {"enhanced": tone(300), "target": tone(500)}
    figure = spectrogram_figure(signals, RATE, "a, step 3", thumbnail=True)
    figure.savefig(expected := io.BytesIO(), format="png")
    expected.seek(0)
    drawn = matplotlib.image.imread(io.BytesIO(thumbnail_png(signals, RATE, "a, step 3")))
    assert drawn.shape[1] == 720
    np.testing.assert_array_equal(drawn, matplotlib.image.imread(expected))


def test_a_tone_is_drawn_at_its_frequency() -> None:
    panel = panels(spectrogram_figure({"target": tone(3000)}, RATE))[0]
    row = int(levels(panel)[:, 50].argmax())
    assert position(panel, row, 50)[1] == pytest.approx(3.0, abs=0.001)
    assert panel.get_ylim() == (0.0, 8.0)


def test_a_click_is_drawn_at_its_time() -> None:
    click = np.zeros(RATE)
    click[6400] = 1.0
    panel = panels(spectrogram_figure({"target": click}, RATE))[0]
    column = int(levels(panel)[100].argmax())
    assert position(panel, 100, column)[0] == pytest.approx(0.4, abs=0.001)
    assert panel.get_xlim() == (0.0, 1.0)


def test_axes_carry_units() -> None:
    figure = spectrogram_figure({"input": tone(500), "target": tone(500)}, RATE, title="ls19, step 100")
    assert panels(figure)[-1].get_xlabel() == "time (s)"
    assert any(axes.get_ylabel() == "level (dB re maximum of target)" for axes in figure.axes)
    assert figure.get_suptitle() == "ls19, step 100"


def test_the_last_signal_is_the_reference_without_a_target() -> None:
    figure = spectrogram_figure({"a": tone(500, 0.05), "b": tone(500, 0.5)}, RATE)
    assert levels(panels(figure)[0]).max() == pytest.approx(-20, abs=0.01)


@pytest.mark.parametrize("samples", [1, 100, 300, 90 * RATE])
def test_any_length_gives_a_picture_of_bounded_size(samples: int) -> None:
    signal = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    panel = panels(spectrogram_figure({"input": signal[None], "target": signal}, RATE))[0]
    rows, columns = levels(panel).shape
    assert columns <= 2400
    assert rows * columns < 2_000_000
    assert np.isfinite(levels(panel)).all()


def test_silence_and_nan_are_drawn(tmp_path: Path) -> None:
    broken = tone(500)
    broken[8000:8100] = np.nan
    figure = spectrogram_figure({"input": np.zeros(RATE), "enhanced": broken, "target": np.zeros(RATE)}, RATE)
    silent, holed, _, difference = (levels(panel) for panel in panels(figure))
    assert np.isnan(difference).all(axis=0).sum() >= 9
    assert silent.max() <= -RANGE_DB
    assert np.nanmax(holed) == pytest.approx(0, abs=0.01)  # the target is silent: the loudest is the reference
    assert np.isnan(holed).any(axis=0).sum() in (9, 10)  # 100 samples and a window of 512, in hops of 64
    save_figure(figure, tmp_path / "x.png")


def test_signals_that_cannot_be_drawn_are_named() -> None:
    with pytest.raises(ValueError, match="no signals"):
        spectrogram_figure({}, RATE)
    with pytest.raises(ValueError, match=r"input has shape \(2, 5\)"):
        spectrogram_figure({"input": np.zeros((2, 5))}, RATE)
    with pytest.raises(ValueError, match="target has shape"):
        spectrogram_figure({"target": np.zeros(0)}, RATE)


def test_picture_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = spectrogram_figure({"target": tone(500)}, RATE)
    path = save_figure(figure, tmp_path / "deep" / "picture.png")
    height, width = matplotlib.image.imread(path).shape[:2]
    assert width >= 1000
    assert height >= 300
    before = path.read_bytes()

    def fail(name: Path, format: str) -> None:
        Path(name).write_bytes(b"half a pict")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["picture.png"]


@pytest.mark.slow
def test_pyplot_and_its_global_figures_are_not_used() -> None:
    code = (
        "import sys, numpy; from bcfusion.report.spectrogram import spectrogram_figure;"
        "spectrogram_figure({'target': numpy.ones(999)}, 8000); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
