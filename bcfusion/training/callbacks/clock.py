"""The time budget: a run ends by itself in time for its closing evaluation."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from bcfusion.training.module import SpeechModule


class Clock(Callback):
    """Stops training when the last validation and the closing evaluation need the rest of the budget.

    The time that earlier sessions of a resumed run have used counts.

    Args:
        seconds: budget of the whole run, closing evaluation included; None: no limit.
        started: ``time.monotonic()`` when the command started.
        validate_every: batches between scheduled validations.
        max_steps: batches after which training stops; None: no limit.
        closing_ratio: seconds of audio of the closing evaluation per second of validation audio.
        closing_items: number of utterances of the closing evaluation.
        used: seconds that earlier sessions have used.
        validation_seconds: duration of the longest validation of earlier sessions.

    Attributes:
        reason: why training was ended; None if it was not.
    """

    # Until a validation has been measured, this share of the budget is reserved for it and for the closing evaluation.
    FIRST_RESERVE = 0.2

    def __init__(
        self,
        seconds: float | None,
        started: float,
        validate_every: int,
        max_steps: int | None = None,
        closing_ratio: float = 1.0,
        closing_items: int = 1,
        used: float = 0.0,
        validation_seconds: float | None = None,
    ) -> None:
        self.seconds = seconds
        self.validate_every = validate_every
        self.max_steps = max_steps
        self.closing_ratio = closing_ratio
        self.closing_items = closing_items
        self.reason: str | None = None
        self._ranks = 1
        self._warned = False
        self._started = started - used
        self._validation_began = 0.0
        self._validation_seconds = validation_seconds
        self._step_began: float | None = None
        self._step_seconds = 0.0
        self._since: float | None = None  # end of the latest step, or of a validation after it
        self._measured = (0.0, 0)  # seconds of steps, reading included, and their number

    def state(self) -> dict[str, float | None]:
        """Return what a resumed run needs to know, as plain containers."""
        return {"used": self.elapsed(), "validation_seconds": self._validation_seconds}

    def elapsed(self) -> float:
        """Return the seconds that the run has used, earlier sessions included."""
        return time.monotonic() - self._started

    def reserve(self) -> float:
        """Return the seconds to reserve for the last validation and the closing evaluation."""
        assert self.seconds is not None
        if self._validation_seconds is None:
            return self.FIRST_RESERVE * self.seconds
        # pictures, sample files and the bundle take seconds of their own
        return (self._validation_seconds + self.closing_seconds()) * 1.2 + 8.0 + 2 * self._step_seconds

    def closing_seconds(self) -> float:
        """Return how long the closing evaluation will take, judged by a validation: rank zero does it alone."""
        return (self._validation_seconds or 0.0) * self.closing_ratio * self._ranks

    def spent(self, validation_follows: bool = False) -> bool:
        """Return whether training has to end now.

        Args:
            validation_follows: whether a scheduled validation comes next, with which training ends unless there is time
                for another one.
        """
        if self.seconds is None:
            return False
        scheduled = (self._validation_seconds or 0.0) if validation_follows else 0.0
        return self.elapsed() + self.reserve() + scheduled >= self.seconds

    @property
    def has_validated(self) -> bool:
        """Whether the duration of a validation is known."""
        return self._validation_seconds is not None

    def steps_left(self, seconds_per_step: float) -> int:
        """Return how many steps of this duration fit into the rest of the budget, scheduled validations included."""
        assert self.seconds is not None
        rest = self.seconds - self.elapsed() - self.reserve()
        per_step = seconds_per_step + (self._validation_seconds or 0.0) / self.validate_every
        return max(0, int(rest / max(per_step, 1e-9)))

    def steps_within(self, seconds: float) -> int | None:
        """Return how many steps fit into ``seconds`` at the mean rate so far, scheduled validations included.

        None before two steps in a row have been measured.
        """
        measured, count = self._measured
        if not count:
            return None
        per_step = measured / count + (self._validation_seconds or 0.0) / self.validate_every
        return max(0, int(seconds / max(per_step, 1e-9)))

    def on_train_batch_start(self, *_: Any) -> None:
        self._step_began = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Ask Lightning to stop when the time or the steps are used up; it validates once more before it does."""
        now = time.monotonic()
        if self._step_began is not None:
            self._step_seconds = max(0.9 * self._step_seconds, now - self._step_began)
        if self._since is not None:  # the first step of a session is slower than others
            seconds, count = self._measured
            self._measured = (seconds + now - self._since, count + 1)
        self._since = now
        assert isinstance(module, SpeechModule)
        done = self.max_steps is not None and module.step >= self.max_steps
        spent = self.spent(validation_follows=module.step % self.validate_every == 0)
        # gradients that are added up are in no checkpoint: the run ends with an optimiser step
        whole = module.step % module.optimization.accumulate == 0
        if trainer.strategy.reduce_boolean_decision((done or spent) and whole, all=False):
            trainer.should_stop = True
            self.reason = "trainer.max_steps is reached" if done else "the time budget is used up"

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Take note of the number of ranks, which share a validation."""
        self._ranks = trainer.world_size

    def on_validation_start(self, *_: Any) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the duration of the longest validation as the estimate for the next one."""
        seconds = time.monotonic() - self._validation_began
        self._validation_seconds = max(seconds, self._validation_seconds or 0.0)
        if self._since is not None:
            self._since = time.monotonic()
        if trainer.is_global_zero:
            self._warn_if_closing_does_not_fit()

    def _warn_if_closing_does_not_fit(self) -> None:
        """Say so as soon as it is known, once, with the number of utterances that would fit."""
        if self.seconds is None or self._warned:
            return
        closing = 1.2 * self.closing_seconds()
        rest = max(0.0, self.seconds - self.elapsed() - 8.0)
        if closing <= rest:
            return
        self._warned = True
        fitting = max(1, int(self.closing_items * rest / closing))
        budget = self.seconds / 60
        print(
            f"the closing evaluation of {self.closing_items} test files takes about {closing / 60:.1f} minutes, but "
            f"{rest / 60:.1f} of the budget of {budget:g} are left; trainer.max_test_items={fitting} would fit",
            file=sys.stderr,
        )
