"""Pictures of one evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import assert_nothing_is_covered

from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.evaluation.summary import summarise
from bcfusion.report.colours import FIXED
from bcfusion.report.score_figures import score_figures

DIRECTIONS = {"stoi": True, "lsd": False, "si_sdr_lag_ms": None}


def scores(ratios: list[float], skipped: str | None = None) -> Scores:
    """Return scores of two utterances per ratio, which rise with the ratio; the network adds 0.1."""
    rows = []
    for number, ratio in enumerate(np.repeat(ratios, 2)):
        for system, gain in (("input (noisy)", 0.0), ("enhanced", 0.1)):
            values = {"stoi": 0.5 + ratio / 100 + gain, "lsd": 2.0 - gain, "si_sdr_lag_ms": 0.0}
            reasons = {"lsd": "silent"} if f"u{number}" == skipped else {}
            rows.append(ItemScore(f"u{number}", system, values, reasons, {"snr": f"{ratio:.2f}"}))
    return Scores(rows, DIRECTIONS)


def test_every_scored_utterance_is_in_its_box_and_information_is_not_drawn() -> None:
    found = scores([0.0, 10.0], skipped="u1")
    figures = score_figures(found, summarise(found), "50 $ of files")
    assert list(figures) == ["spread"]
    stoi, lsd = figures["spread"].axes
    assert (stoi.get_xlabel(), lsd.get_xlabel()) == ("STOI ↑\nn = 4", "LSD ↓\nn = 3")
    assert_nothing_is_covered(figures["spread"])
    assert [label.get_text() for label in stoi.get_yticklabels()] == ["input (noisy)", "enhanced"]

    def points(panel: object) -> list[int]:
        return [len(line.get_xdata()) for line in panel.lines if line.get_marker() == "."]  # type: ignore[attr-defined]

    assert points(stoi) == [4, 4]
    assert points(lsd) == [3, 3]


def test_groups_of_ratios_become_curves_in_the_colours_of_their_systems() -> None:
    found = scores([-5.0, 0.0, 10.0])
    figure = score_figures(found, summarise(found, ["snr"]), "title")["snr"]
    stoi = figure.axes[0]
    assert stoi.get_xlabel() == "SNR of the air microphone (dB)"
    noisy, enhanced = (bars[0] for bars in stoi.containers)
    assert list(noisy.get_xdata()) == pytest.approx([-5.0, 0.0, 10.0], abs=0.2)
    assert [label.get_text() for label in stoi.get_xticklabels()] == ["-5\nn=2", "0\nn=2", "10\nn=2"]
    assert_nothing_is_covered(figure)
    assert list(noisy.get_ydata()) == pytest.approx([0.45, 0.5, 0.6])
    assert list(enhanced.get_ydata()) == pytest.approx([0.55, 0.6, 0.7])
    assert (noisy.get_color(), enhanced.get_color()) == (FIXED["input (noisy)"], FIXED["enhanced"])


def test_drawn_ratios_are_grouped_in_steps_and_shown_at_their_mean() -> None:
    found = scores([-4.0, -1.0, *np.linspace(0.2, 4.8, 12)])
    figure = score_figures(found, summarise(found, ["snr"]), "title")["snr"]
    assert list(figure.axes[0].get_xticks()) == [-2.5, 2.5]


def test_a_long_title_fits_its_figure() -> None:
    found = Scores([ItemScore(f"u{n}", "enhanced", {"stoi": n / 10}) for n in range(5)], {"stoi": True})
    figure = score_figures(found, summarise(found), f"{'runs/bone_to_air/' * 6} on the test files")["spread"]
    assert figure.get_suptitle().count("\n") >= 2
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_one_group_is_no_curve_and_no_scores_are_no_picture() -> None:
    found = scores([5.0])
    assert list(score_figures(found, summarise(found, ["snr"]), "title")) == ["spread"]
    nothing = Scores([ItemScore("u", "enhanced", {}, {"stoi": "silent"})], {"stoi": True})
    assert score_figures(nothing, summarise(nothing), "title") == {}


def test_a_system_without_scores_in_a_group_has_a_gap_there() -> None:
    found = scores([-5.0, 0.0, 10.0])
    found = Scores([row for row in found.rows if row.system != "enhanced" or row.id in ("u0", "u1")], DIRECTIONS)
    figure = score_figures(found, summarise(found, ["snr"]), "title")["snr"]
    enhanced = figure.axes[0].containers[1][0]
    assert np.isnan(list(enhanced.get_ydata())).tolist() == [False, True, True]
