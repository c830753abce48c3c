from __future__ import annotations

import math

import numpy as np
import pytest

from bcfusion.evaluation.statistics import bootstrap_interval, paired_difference, summary


def test_the_interval_of_a_normal_mean_has_the_width_that_theory_gives() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(400)  # of the empirical distribution, from which the bootstrap draws
    assert low == pytest.approx(values.mean() - half, abs=0.02 * half * 2)
    assert high == pytest.approx(values.mean() + half, abs=0.02 * half * 2)


def test_the_interval_contains_the_true_mean_of_a_skewed_distribution_about_as_often_as_promised() -> None:
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        low, high = bootstrap_interval(generator.exponential(1.0, 60), level=0.9, draws=400)
        held += low <= 1.0 <= high
    assert 0.83 < held / 400 < 0.93  # the percentile interval is a little short for skewed samples


def test_the_draws_from_two_values_are_known() -> None:
    # means of two draws from {0, 1}: 0, 1/2, 1 with 1/4, 1/2, 1/4
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.0, 1.0], level=0.8) == (0.0, 1.0)


def test_an_outlier_moves_the_interval_of_the_mean_and_not_that_of_the_median() -> None:
    values = np.append(np.linspace(0.0, 1.0, 99), 1000.0)
    assert bootstrap_interval(values, statistic="mean")[1] > 10
    assert bootstrap_interval(values, statistic="median")[1] < 0.7


def test_an_interval_is_repeatable_and_drawn_in_parts_for_many_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap_interval(values)
    assert bootstrap_interval(values) == whole
    assert bootstrap_interval(values, seed=1) != whole
    monkeypatch.setattr("bcfusion.evaluation.statistics._DRAWN_AT_ONCE", 50 * 999)
    assert bootstrap_interval(values) == whole


def test_scores_that_could_not_be_computed_are_left_out() -> None:
    assert bootstrap_interval([1.0, math.nan, 2.0, math.inf]) == bootstrap_interval([1.0, 2.0])
    statistics = summary([1.0, math.nan, 2.0, 6.0])
    assert (statistics.count, statistics.mean, statistics.median) == (3, 3.0, 2.0)
    assert (statistics.q1, statistics.q3) == (1.5, 4.0)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one = summary([0.5])
    assert (one.count, one.mean, one.median) == (1, 0.5, 0.5)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = summary([math.nan])
    assert none.count == 0
    assert math.isnan(none.mean)


def test_pairs_show_a_difference_that_is_far_below_the_spread_of_the_utterances() -> None:
    generator = np.random.default_rng(4)
    a = {f"u{i}": float(value) for i, value in enumerate(generator.normal(0.8, 0.1, 100))}
    b = {name: value + float(generator.normal(0.012, 0.01)) for name, value in a.items()}
    difference = paired_difference(a, b)
    assert difference.count == 100
    assert 0.008 < difference.low < difference.mean < difference.high < 0.016
    of_a, of_b = bootstrap_interval(list(a.values())), bootstrap_interval(list(b.values()))
    assert of_b[0] < of_a[1]  # the systems' own intervals overlap


def test_a_difference_is_over_the_common_utterances_in_any_order() -> None:
    a = {"x": 1.0, "y": 2.0, "z": math.nan, "only a": 9.0}
    b = {"only b": 9.0, "z": 5.0, "y": 4.0, "x": 2.0}
    difference = paired_difference(a, b)
    assert (difference.mean, difference.count) == (1.5, 2)
    assert paired_difference(dict(reversed(a.items())), b) == difference
    assert paired_difference(b, a).mean == -1.5
    nothing = paired_difference(a, {"other": 1.0})
    assert nothing.count == 0
    assert math.isnan(nothing.mean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"level": 1.0}, "level"), ({"draws": 0}, "draws"), ({"statistic": "mode"}, "mean or median")],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval([1.0, 2.0], **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(N,\)"):
        summary(np.zeros((2, 2)))
