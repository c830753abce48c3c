"""What a session of a run has to do, decided before it starts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """The parts of a session, in the order in which they take place; the closing evaluation always comes last.

    Attributes:
        as_is: there is nothing to train: the generator is evaluated as it is.
        validate_first: a validation comes before any training.
        train: the generator is trained.
        finished: nothing is left to do, not even the closing evaluation; the session is refused.
    """

    as_is: bool
    validate_first: bool
    train: bool
    finished: bool


def plan(
    *,
    trainable: bool,
    max_steps: int | None,
    resumed: bool,
    step: int,
    budget_spent: bool,
    stopped_early: bool,
    validated_step: int,
    validate_every: int,
    closed: bool,
) -> Plan:
    """Decide what a session does.

    A run that was stopped during a validation makes up for it, and one that was stopped during its closing evaluation
    closes. A new run trains for at least one step, however small its budget.

    Args:
        trainable: whether the generator has a parameter to train.
        max_steps: steps after which training ends; 0: evaluate the generator as it is; None: no limit.
        resumed: whether an earlier session of this run left a checkpoint.
        step: steps that earlier sessions have trained.
        budget_spent: whether the remaining time is needed for the closing evaluation.
        stopped_early: whether its latest validation has ended training, and would do so again.
        validated_step: step of the latest validation; -1 without any.
        validate_every: steps between validations.
        closed: whether an earlier session has finished its closing evaluation.
    """
    as_is = max_steps == 0 or not trainable
    stopped = stopped_early and validated_step == step
    ended = resumed and (stopped or budget_spent or (max_steps is not None and step >= max_steps))
    train = not as_is and not ended
    not_validated = (resumed or as_is) and validated_step != step
    validate_first = not_validated and (not train or step % validate_every == 0)
    return Plan(as_is, validate_first, train, finished=closed and not train and not validate_first)
