"""The ranges that constructors demand: every broken rule is reported, in one error."""

from __future__ import annotations

from typing import Any

import pytest

from bcfusion.errors import ConfigError
from bcfusion.requirements import above, at_least, check_rates, one_of, require, whole, within


class Layer:
    def __init__(self, channels: Any = 1, strides: Any = (2, 4), kernel_size: int = 3) -> None:
        require(
            self,
            at_least(1, channels=channels, strides=strides),
            (kernel_size % 2 == 1, f"kernel_size={kernel_size} must be odd"),
        )


def test_arguments_within_their_ranges_pass() -> None:
    Layer()
    require("x", above(0, a=0.1), within(0, 1, share=1), one_of(("hann", None), window=None), (True, "never seen"))


def test_every_broken_rule_is_one_line_with_the_name_of_the_class() -> None:
    with pytest.raises(ConfigError) as caught:
        Layer(channels=0, strides=[2, 0], kernel_size=4)
    assert caught.value.problems == [
        "Layer: channels=0 must be at least 1",
        "Layer: strides=[2, 0] must be one or more numbers, each at least 1",
        "Layer: kernel_size=4 must be odd",
    ]


@pytest.mark.parametrize("value", ["3", None, True, float("nan"), float("inf"), ()])
def test_what_is_not_a_number_is_in_no_range(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^Layer: channels="):
        Layer(channels=value)


def test_bounds_and_choices_in_messages() -> None:
    assert above(0, a=0) == ["a=0 must be above 0"]
    assert within(0, 1, a=1.5) == ["a=1.5 must be from 0 to 1"]
    assert one_of(("hann", None), window="han") == ["window='han' must be one of hann, null"]


def test_the_owner_is_an_instance_a_class_or_a_text() -> None:
    for owner in (Layer(), Layer, "Layer"):
        with pytest.raises(ConfigError, match=r"^Layer: wrong$"):
            require(owner, (False, "wrong"))


@pytest.mark.parametrize(("value", "fits"), [(2, True), (2.0, True), (2.5, False), (True, False), ("2", False)])
def test_whole_numbers(value: object, fits: bool) -> None:
    assert whole(a=value) == ([] if fits else [f"a={value!r} must be a whole number"])
    assert whole(a=[1, value]) == ([] if fits else [f"a={[1, value]} must be whole numbers"])


def test_parts_that_know_their_sample_rates_are_asked_all_at_once() -> None:
    class Low:
        def check_rate(self, sample_rate: int) -> None:
            require(self, (sample_rate < 100, f"{sample_rate} Hz is too high"))

    parts = {"any": object(), "a": Low(), "b": Low()}
    check_rates("part", parts, 99)
    with pytest.raises(ConfigError) as caught:
        check_rates("part", parts, 100)
    assert caught.value.problems == [f"part.{name}: Low: 100 Hz is too high" for name in "ab"]
