from __future__ import annotations

import pytest

from bcfusion.report.colours import FIXED
from bcfusion.report.snr import snr_figure


def test_there_is_one_panel_per_metric_with_one_line_per_system() -> None:
    body, fused = {"stoi": [0.8, 0.8], "si_sdr": [6.0, 6.0]}, {"stoi": [0.82, 0.9], "si_sdr": [5.0, 9.0]}
    figure = snr_figure([-5, 5], {"body alone": body, "fused": fused}, "title")
    assert [panel.get_ylabel() for panel in figure.axes] == ["STOI", "SI-SDR (dB)"]
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[6.0, 6.0], [5.0, 9.0]]
    assert all("dB" in panel.get_xlabel() for panel in figure.axes)


def test_a_system_keeps_its_colour_under_another_label() -> None:
    curves = {"input (noisy)": {"stoi": [0.7, 0.9]}, "enhanced": {"stoi": [0.8, 0.95]}}
    figure = snr_figure([-5, 5], curves, "title", {"enhanced": "fused"})
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert colours == {"input (noisy)": FIXED["input (noisy)"], "fused": FIXED["enhanced"]}


def test_curves_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="fused: 1 values of stoi for 2 ratios"):
        snr_figure([0, 5], {"fused": {"stoi": [0.8]}}, "")
    with pytest.raises(ValueError, match="no curves"):
        snr_figure([0], {}, "")
