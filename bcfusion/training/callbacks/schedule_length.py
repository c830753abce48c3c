"""Ties schedules of learning rates to the length of the run."""

from __future__ import annotations

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from bcfusion.training.adversary import Network
from bcfusion.training.callbacks.clock import Clock
from bcfusion.training.module import SpeechModule
from bcfusion.training.ranks import gathered


class ScheduleLength(Callback):
    """Gives schedulers without a length (``steps`` is None) the number of their steps in the run, once.

    That is ``trainer.max_steps`` if it is set, else the number of steps that fit into the budget at the step rate
    measured at the start of training, and with validations as long as the first one, for which a quarter of the budget
    is waited; until then the rate is the full one. All ranks use the number of rank zero. It is part of the scheduler's
    state and so of a checkpoint: a resumed run continues the same curve. A run that gets slower than it was when it was
    measured, since discriminators join, ends before the curve.

    It must come before the callback that writes checkpoints.

    Args:
        clock: knows the budget.
    """

    SHARE = 0.05  # of the budget, at least, that is spent on measuring steps
    PATIENCE = 0.25  # of the budget, at most, that is waited for a validation

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None  # end of the latest step, or of a validation after it
        self._seconds, self._steps = 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Use the number of steps of the run, if it has one."""
        assert isinstance(module, SpeechModule)
        if self._clock.max_steps is not None and _open_schedules(module):
            _set_length(module, self._clock.max_steps)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Measure steps until a share of the budget has passed; then set the number."""
        assert isinstance(module, SpeechModule)
        if self._clock.seconds is None or not _open_schedules(module):
            return
        now = time.monotonic()
        if self._since is not None:  # the first step of a session is slower than others
            self._seconds, self._steps = self._seconds + now - self._since, self._steps + 1
        self._since = now
        clock, budget = self._clock, self._clock.seconds
        due = self._steps > 0 and self._seconds >= self.SHARE * budget
        due = due and (clock.has_validated or clock.elapsed() >= self.PATIENCE * budget)
        if not trainer.strategy.reduce_boolean_decision(due, all=False):
            return
        per_step = self._seconds / max(self._steps, 1)
        steps = int(gathered(module.step + clock.steps_left(per_step))[0])
        _set_length(module, steps)
        if trainer.is_global_zero:
            print(
                f"scheduler: the learning rate falls until step {steps}, as far as the budget lasts at "
                f"{1 / max(per_step, 1e-9):.2f} steps/s (trainer.max_steps or scheduler.steps sets it)"
            )

    def on_validation_end(self, *_: Any) -> None:
        """Leave the validation out of the measurement."""
        if self._since is not None:
            self._since = time.monotonic()


def _open_schedules(module: SpeechModule) -> dict[Network, Any]:
    """Return the schedulers that wait for their number of steps."""
    return {network: s for network, s in module.schedulers.items() if getattr(s, "steps", 0) is None}


def _set_length(module: SpeechModule, batches: int) -> None:
    """Give each scheduler that waits for it the number of steps of its network in a run of ``batches``."""
    turns = -(-batches // module.optimization.accumulate)
    for network, scheduler in _open_schedules(module).items():
        steps = turns if module.adversary is None else module.adversary.schedule.steps(network, turns)
        scheduler.steps = max(1, steps)
