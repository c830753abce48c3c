"""Writes the means over training steps to the loggers, by the run's own step count."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from bcfusion.training.module import SpeechModule
from bcfusion.training.ranks import gathered
from bcfusion.training.writing import writing


class StepLog(Callback):
    """Logs mean losses, gradient norms, learning rates, skipped steps, unreadable files and the step rate.

    Args:
        every: steps between points.
        what_now: returns what a user does after the log could not be written.
        again: state of an earlier session, of :meth:`state_dict`, whose latest point is logged again; None: nothing is.

    Attributes:
        latest: values of the latest point.
        unreadable: how often each file could not be read.
    """

    def __init__(self, every: int, what_now: Callable[[], str] = str, again: Mapping[str, Any] | None = None) -> None:
        self.every = every
        self._what_now = what_now
        self._again = again
        self._latest_step = -1
        self.latest: dict[str, float] = {}
        self.unreadable: dict[str, int] = {}
        self._since = time.monotonic()
        self._steps = 0

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, SpeechModule)
        self._steps += 1
        for path in batch.get("unreadable", ()):
            self.unreadable[path] = self.unreadable.get(path, 0) + 1
        if module.step % self.every:
            return
        self._join_ranks(trainer)
        now = time.monotonic()
        values = module.take_log()
        values["rate/steps_per_second"] = self._steps / max(now - self._since, 1e-9)
        values["data/unreadable_files"] = float(len(self.unreadable))
        self._since, self._steps = now, 0
        self.latest, self._latest_step = values, module.step
        self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            with writing(Path(trainer.default_root_dir), self._what_now):
                for logger in trainer.loggers:
                    logger.log_metrics(self.latest, step=self._latest_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the latest point, as plain containers for the checkpoint."""
        return {"step": self._latest_step, "latest": dict(self.latest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take note of the latest point of an earlier session."""
        self._latest_step, self.latest = int(state_dict["step"]), dict(state_dict["latest"])

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Log the point of a step again whose validation is repeated: of all of that step, it alone will not come."""
        if self._again is not None:
            self.load_state_dict(dict(self._again))
            self._again = None
            self._log(trainer)

    def _join_ranks(self, trainer: Trainer) -> None:
        """Count the files that other ranks could not read, so that too many end all ranks together."""
        if trainer.world_size == 1:
            return
        tally = getattr(trainer.train_dataloader, "tally", None)
        met, counted = zip(*gathered((list(self.unreadable), {} if tally is None else tally.paths)), strict=True)
        for path in itertools.chain(*met):
            self.unreadable.setdefault(path, 0)
        if tally is not None:
            tally.join(counted)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure the step rate without the time of the validation."""
        self._since, self._steps = time.monotonic(), 0
