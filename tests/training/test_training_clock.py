from __future__ import annotations

import time

import pytest

from bcfusion.training.callbacks.clock import Clock


def clock(seconds: float | None, elapsed: float, validation: float | None = None, closing_ratio: float = 1.0) -> Clock:
    return Clock(
        seconds,
        time.monotonic() - elapsed,
        validate_every=100,
        closing_ratio=closing_ratio,
        validation_seconds=validation,
    )


def test_the_reserve_covers_the_last_validation_and_the_closing_evaluation() -> None:
    assert not clock(600, elapsed=500, validation=20).spent()
    assert clock(600, elapsed=545, validation=20).spent()
    assert clock(600, elapsed=500, validation=20, closing_ratio=4.0).spent()


def test_a_scheduled_validation_is_the_last_if_there_is_no_time_for_another() -> None:
    late = clock(600, elapsed=530, validation=20)
    assert not late.spent()
    assert late.spent(validation_follows=True)


def test_a_share_of_the_budget_is_reserved_until_a_validation_was_measured() -> None:
    assert not clock(100, elapsed=79).spent()
    assert clock(100, elapsed=81).spent()


def test_earlier_sessions_count() -> None:
    earlier = clock(600, elapsed=400, validation=5)
    later = Clock(600, time.monotonic(), validate_every=100, **earlier.state())
    assert later.elapsed() == pytest.approx(400, abs=1)
    assert later.reserve() == earlier.reserve()


def test_no_budget_never_ends() -> None:
    assert not clock(None, elapsed=1e9).spent()
