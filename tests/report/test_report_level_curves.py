from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pictures import assert_nothing_is_covered

from bcfusion.evaluation.statistics import Summary
from bcfusion.report.colours import FIXED
from bcfusion.report.level_curves import GAIN_AXIS, SNR_AXIS, level_figure


def at(*means: float, spread: float = 0.01, count: int = 12) -> list[Summary]:
    return [Summary(count, mean, mean, mean, mean, mean - spread, mean + spread) for mean in means]


def test_there_is_one_panel_per_metric_with_one_line_per_system() -> None:
    body, fused = (
        {"stoi": at(0.8, 0.8), "si_sdr": at(6.0, 6.0)},
        {"stoi": at(0.82, 0.9), "si_sdr": at(5.0, 9.0)},
    )
    figure = level_figure([-5, 5], {"body alone": body, "fused": fused}, "title")
    assert [panel.get_ylabel() for panel in figure.axes] == ["STOI", "SI-SDR (dB)"]
    assert [list(bars[0].get_ydata()) for bars in figure.axes[1].containers] == [[6.0, 6.0], [5.0, 9.0]]
    assert {panel.get_xlabel() for panel in figure.axes} == {SNR_AXIS}
    other = level_figure([-5, 5], {"body alone": body, "fused": fused}, "title", axis=GAIN_AXIS)
    assert {panel.get_xlabel() for panel in other.axes} == {"gain of the body sensor (dB)"}


def test_a_system_keeps_its_colour_under_another_label() -> None:
    curves = {"input (noisy)": {"stoi": at(0.7, 0.9)}, "enhanced": {"stoi": at(0.8, 0.95)}}
    figure = level_figure([-5, 5], curves, "title", {"enhanced": "fused"})
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    colours = [bars[0].get_color() for bars in figure.axes[0].containers]
    assert dict(zip(names, colours, strict=True)) == {
        "input (noisy)": FIXED["input (noisy)"],
        "fused": FIXED["enhanced"],
    }


def test_intervals_and_numbers_of_utterances_are_drawn() -> None:
    single = [replace(at(0.7, count=1)[0], low=math.nan, high=math.nan)]
    curves = {
        "input": {"stoi": at(0.6, spread=0.05, count=12) + single},
        "enhanced": {"stoi": at(0.8, spread=0.02, count=11) + at(0.9, count=1)},
    }
    figure = level_figure([-5, 5], curves, "title")
    [panel] = figure.axes
    bars = [container[2][0].get_segments() for container in panel.containers]
    assert [float(np.ptp(segment[:, 1])) for segment in bars[0]] == pytest.approx([0.1, 0.0])
    assert float(np.ptp(bars[1][0][:, 1])) == pytest.approx(0.04)
    assert bars[0][0][0, 0] != bars[1][0][0, 0]  # side by side
    assert [label.get_text() for label in panel.get_xticklabels()] == ["-5\nn=11–12", "5\nn=1"]
    assert "95 % bootstrap interval" in figure.get_suptitle()
    assert_nothing_is_covered(figure)


def test_curves_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="fused: 1 values of stoi for 2 levels"):
        level_figure([0, 5], {"fused": {"stoi": at(0.8)}}, "")
    with pytest.raises(ValueError, match="no curves"):
        level_figure([0], {}, "")
