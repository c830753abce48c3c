"""The budget: a run ends by itself in time for its closing evaluation."""

from __future__ import annotations

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Clock(Callback):
    """Stops training when what is left of the budget is what the last validation and the closing need.

    The time that earlier sessions of a resumed run have used counts.

    Args:
        seconds: of the whole run, closing included; None: no limit.
        started: ``time.monotonic()`` when the command started.
        max_steps: stop after so many batches; None: no limit.
        closing_ratio: seconds of audio of the closing evaluation per second of validation audio.
        used: seconds that earlier sessions have used.
    """

    # Before the first validation is measured, this share of the budget is kept back for it and for the closing.
    FIRST_RESERVE = 0.2

    def __init__(
        self,
        seconds: float | None,
        started: float,
        max_steps: int | None = None,
        closing_ratio: float = 1.0,
        used: float = 0.0,
    ) -> None:
        self.seconds = seconds
        self.max_steps = max_steps
        self.closing_ratio = closing_ratio
        self._started = started - used
        self._validation_began = 0.0
        self._validation_seconds: float | None = None
        self._checkpoint_seconds = 0.0
        self._step_began: float | None = None
        self._step_seconds = 0.0

    def elapsed(self) -> float:
        """Seconds that the run has used, earlier sessions included."""
        return time.monotonic() - self._started

    def reserve(self) -> float:
        """Seconds to keep back for the last validation and the closing evaluation."""
        assert self.seconds is not None
        if self._validation_seconds is None:
            return self.FIRST_RESERVE * self.seconds
        # pictures, sample files and the bundle take seconds of their own
        return self._validation_seconds * (1.0 + self.closing_ratio) * 1.2 + 8.0 + 2 * self._step_seconds

    def spent(self) -> bool:
        """Whether training has to end now."""
        return self.seconds is not None and self.elapsed() + self.reserve() >= self.seconds

    def on_train_batch_start(self, *_: Any) -> None:
        """Notes the time."""
        self._step_began = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Asks Lightning to stop; it validates once more on its way out."""
        if self._step_began is not None:
            self._step_seconds = max(0.9 * self._step_seconds, time.monotonic() - self._step_began)
        done = self.max_steps is not None and int(module.step) >= self.max_steps  # type: ignore[arg-type]
        if trainer.strategy.reduce_boolean_decision(done or self.spent(), all=False):
            trainer.should_stop = True

    def on_validation_start(self, *_: Any) -> None:
        """Notes the time."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, *_: Any) -> None:
        """Keeps the longest validation as the estimate for the next one."""
        seconds = time.monotonic() - self._validation_began
        self._validation_seconds = max(seconds, self._validation_seconds or 0.0)
