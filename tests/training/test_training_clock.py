from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from test_training_module import module

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


def test_the_reserve_counts_the_files_of_all_ranks_since_rank_zero_closes_alone() -> None:
    shared = clock(600, elapsed=0, validation=20, closing_ratio=2.0)
    assert shared.closing_seconds() == 40
    shared.setup(SimpleNamespace(world_size=4), None, "fit")  # type: ignore[arg-type]
    assert shared.closing_seconds() == 160
    assert shared.reserve() == pytest.approx((20 + 160) * 1.2 + 8)


def validated(began: Clock, seconds: float) -> None:
    began._validation_began = time.monotonic() - seconds
    began.on_validation_end(SimpleNamespace(is_global_zero=True), None)  # type: ignore[arg-type]


def test_a_test_set_that_cannot_fit_is_announced_once_with_what_would_fit(capsys: pytest.CaptureFixture[str]) -> None:
    short = Clock(60, time.monotonic() - 21.8, validate_every=100, closing_ratio=5.0, closing_items=150)
    validated(short, 30)  # 150 s for 150 files, of which 30 s are left
    validated(short, 30)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "the closing evaluation of 150 test files takes about 3.0 minutes, but 0.5 of the budget of 1 are left; "
        "trainer.max_test_items=25 would fit"
    )
    validated(Clock(600, time.monotonic(), validate_every=100, closing_ratio=5.0, closing_items=150), 30)
    assert capsys.readouterr().err == ""


def test_steps_within_a_time_follow_the_mean_rate_without_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("bcfusion.training.callbacks.clock.time.monotonic", lambda: now)
    timed = Clock(600, now, validate_every=10)
    trained, trainer = (
        module(),
        SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)),
    )
    assert timed.steps_within(60) is None
    for step, end in enumerate((1009.0, 1010.0, 1013.0), start=1):
        timed.on_train_batch_start()
        now, trained.step = end, step
        timed.on_train_batch_end(trainer, trained)  # type: ignore[arg-type]
    assert timed.steps_within(60) == 30
    timed.on_validation_start()
    now += 20.0
    timed.on_validation_end(SimpleNamespace(is_global_zero=False), trained)  # type: ignore[arg-type]
    assert timed.steps_within(60) == 15  # 2 s a step, and a tenth of a validation
    now += 2.0
    timed.on_train_batch_end(trainer, trained)  # type: ignore[arg-type]
    assert timed.steps_within(60) == 15  # the validation is no part of the step after it
