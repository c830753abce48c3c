from __future__ import annotations

import math

import pytest

from bcfusion.training.selection import Selection

PESQ_STOI = {"pesq_wb": {"weight": 1, "worst": 1.0, "best": 4.64}, "stoi": {"weight": 1, "worst": 0.0, "best": 1.0}}


def test_composite_is_the_mean_of_scaled_values() -> None:
    selection = Selection(PESQ_STOI)
    assert selection.score({"pesq_wb": 4.64, "stoi": 1.0}) == pytest.approx(1.0)
    assert selection.score({"pesq_wb": 2.82, "stoi": 0.8}) == pytest.approx((0.5 + 0.8) / 2)


def test_worst_and_best_say_that_lower_is_better() -> None:
    selection = Selection({"lsd": {"weight": 1, "worst": 4.0, "best": 0.0}})
    assert selection.score({"lsd": 1.0}) > selection.score({"lsd": 2.0})


def test_value_that_could_not_be_computed_counts_below_the_worst() -> None:
    selection = Selection(PESQ_STOI)
    assert selection.score({"pesq_wb": math.nan, "stoi": 0.8}) < selection.score({"pesq_wb": 1.0, "stoi": 0.8})
    assert math.isfinite(selection.score({}))


def test_two_values_below_the_worst_still_differ() -> None:
    selection = Selection({"lsd": {"weight": 1, "worst": 4.0, "best": 0.0}})
    assert selection.score({"lsd": 4.1}) > selection.score({"lsd": 5.0})


def test_single_metrics_are_scaled_and_finite() -> None:
    assert Selection(PESQ_STOI).scaled({"pesq_wb": 2.82, "stoi": math.nan}) == pytest.approx([0.5, -1.0])
