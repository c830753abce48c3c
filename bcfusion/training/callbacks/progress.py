"""The progress: losses and step rate, as one line that is updated on a terminal, or as lines at intervals in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from bcfusion.training.callbacks.clock import Clock
from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.callbacks.step_log import StepLog
from bcfusion.training.module import SpeechModule

SECONDS_BETWEEN_LINES = 20.0
SHOWN = ("loss/", "discriminator/loss")


def duration(seconds: float) -> str:
    """Return a duration as ``M:SS`` or ``H:MM:SS``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def items_text(what: str, done: int, total: int, seconds: float) -> str:
    """Return the line that is shown when ``done`` of ``total`` files, at least one, have taken ``seconds``."""
    return f"{what}: {done} of {total} files, {duration(seconds / done * (total - done))} left"


def rounded(count: int) -> int:
    """Return an estimated number with two significant digits."""
    return count if count < 100 else int(float(f"{count:.2g}"))


class Progress(Callback):
    """Shows the step, the elapsed and the budgeted time, the step rate, losses and the latest quality.

    Args:
        clock: has the elapsed time.
        step_log: has the latest losses.
        quality: has the latest validation.
    """

    def __init__(self, clock: Clock, step_log: StepLog, quality: Quality) -> None:
        self._clock = clock
        self._step_log = step_log
        self._quality = quality
        self._bar: tqdm[Any] | None = None
        self._last_line = 0.0
        self._last_step = (0, 0.0)
        self._rate = 0.0
        self._validation_began = 0.0

    def text(self, step: int) -> str:
        """Return the line that is shown at this step."""
        clock = self._clock
        of = f" of {duration(clock.seconds)}" if clock.seconds is not None else ""
        steps = f"step {step}" + (f" of {clock.max_steps}" if clock.max_steps is not None else "")
        parts = [steps, f"{duration(clock.elapsed())}{of}"]
        parts += [f"{self._rate:.2f} steps/s"] if self._rate else []  # measured after some seconds
        losses = {
            ("D" if tag == "discriminator/loss" else tag.removeprefix("loss/")): value
            for tag, value in self._step_log.latest.items()
            if tag.startswith(SHOWN)
        }
        parts += [" ".join(f"{name} {value:.3g}" for name, value in losses.items())] if losses else []
        parts += [self._quality.summary()] if self._quality.summary() else []
        return " | ".join(parts)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SpeechModule)
        self._last_step = (module.step, time.monotonic())
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = tqdm(bar_format="{desc}", leave=True, dynamic_ncols=True)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        assert isinstance(module, SpeechModule)
        step, since = self._last_step
        now = time.monotonic()
        if now - since > 2.0:
            self._rate = (module.step - step) / (now - since)
            self._last_step = (module.step, now)
        if not trainer.is_global_zero:
            return
        if self._bar is not None:
            self._bar.set_description_str(self.text(module.step))
        elif now - self._last_line > SECONDS_BETWEEN_LINES and self._rate:
            self._last_line = now
            print(self.text(module.step), file=sys.stderr, flush=True)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SpeechModule)
        if self._bar is not None:
            self._bar.set_description_str(f"step {module.step} | validating ...")
        self._validation_began = time.monotonic()

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        assert isinstance(module, SpeechModule)
        now = time.monotonic()
        show = self._bar is not None or now - max(self._last_line, self._validation_began) > SECONDS_BETWEEN_LINES
        if not trainer.is_global_zero or not show:
            return
        total, seconds = int(trainer.num_val_batches[0]), now - self._validation_began  # on this rank
        line = items_text(f"step {module.step} | validating", batch_idx + 1, total, seconds)
        if self._bar is not None:
            self._bar.set_description_str(line)
        else:
            self._last_line = now
            print(line, file=sys.stderr, flush=True)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SpeechModule)
        self._last_step = (module.step, time.monotonic())
        if trainer.is_global_zero:
            line = f"step {module.step} | validation: {self._quality.summary()}"
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
                self._bar.set_description_str(self.text(module.step))  # what the terminal is left with
            else:
                print(line, file=sys.stderr, flush=True)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
