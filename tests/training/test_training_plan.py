"""What a session does: train, validate first, only run the closing evaluation, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from bcfusion.training.plan import Plan, plan

TRAINS = Plan(as_is=False, validate_first=False, train=True, finished=False)
VALIDATES_AND_TRAINS = Plan(as_is=False, validate_first=True, train=True, finished=False)
VALIDATES = Plan(as_is=False, validate_first=True, train=False, finished=False)
CLOSES = Plan(as_is=False, validate_first=False, train=False, finished=False)
FINISHED = Plan(as_is=False, validate_first=False, train=False, finished=True)
EVALUATES_AS_IS = Plan(as_is=True, validate_first=True, train=False, finished=False)


def of(**situation: Any) -> Plan:
    """Return the plan of a new run, or of one that differs from it as given."""
    new = {"trainable": True, "max_steps": None, "resumed": False, "step": 0, "validated_step": -1, "validate_every": 4}
    return plan(**{**new, "budget_spent": False, "stopped_early": False, "closed": False, **situation})


def resumed(step: int, validated_step: int, **situation: Any) -> Plan:
    return of(resumed=True, step=step, validated_step=validated_step, **situation)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (of(), TRAINS),
        (of(max_steps=10), TRAINS),
        (of(budget_spent=True), TRAINS),  # a new run is never empty
        (of(closed=True), TRAINS),  # what an earlier run left in the directory does not matter to a new one
        (of(max_steps=0), EVALUATES_AS_IS),
        (of(trainable=False), EVALUATES_AS_IS),
        (of(trainable=False, max_steps=10, budget_spent=True), EVALUATES_AS_IS),
        (resumed(5, 4), TRAINS),
        (resumed(4, 4, closed=True), TRAINS),  # with a larger budget
        (resumed(8, 4), VALIDATES_AND_TRAINS),  # it was stopped in its validation
        (resumed(10, 8, max_steps=10), VALIDATES),  # ... in the last one
        (resumed(10, 8, max_steps=10, closed=True), VALIDATES),
        (resumed(5, 4, budget_spent=True), VALIDATES),
        (resumed(10, 10, max_steps=10), CLOSES),  # it was stopped in its closing evaluation
        (resumed(7, 7, budget_spent=True), CLOSES),
        (resumed(10, 10, max_steps=10, closed=True), FINISHED),
        (resumed(12, 12, max_steps=10, closed=True), FINISHED),
        (resumed(7, 7, budget_spent=True, closed=True), FINISHED),
        (resumed(7, 7, budget_spent=False, closed=True), TRAINS),
        (resumed(6, 6, stopped_early=True), CLOSES),
        (resumed(6, 6, stopped_early=True, closed=True), FINISHED),
        (resumed(8, 4, stopped_early=True), VALIDATES_AND_TRAINS),  # the validation that it lacks may be better
        (of(stopped_early=True), TRAINS),
        (resumed(3, 0, max_steps=0), EVALUATES_AS_IS),
    ],
)
def test_a_session_does_what_is_left_to_do(found: Plan, expected: Plan) -> None:
    assert found == expected


def test_a_generator_that_was_evaluated_as_it_is_is_finished() -> None:
    assert resumed(0, 0, trainable=False, closed=True) == Plan(True, False, False, finished=True)
