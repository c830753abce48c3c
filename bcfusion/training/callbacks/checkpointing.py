"""Writes ``last.ckpt`` and the best checkpoints of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from bcfusion.files import appearing
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.training.initial_state import restore_session
from bcfusion.training.module import SpeechModule
from bcfusion.training.ranks import gathered


class Checkpointing(Callback):
    """``last.ckpt`` holds everything a resumed run needs; ``best*.ckpt`` hold the weights of both networks.

    Args:
        module: the module whose state is saved.
        run: the run directory.
        description: plain containers that go into each checkpoint: ``config`` and ``training``.
        every: batches between writes of ``last.ckpt``.
        validate_every: batches between validations, after each of which ``last.ckpt`` is written too.
        clock: returns the state of the run's clock.
        resumed: content of the ``last.ckpt`` to resume from, or None.

    Attributes:
        quality_state: returns what a checkpoint holds of the validations; set by the quality callback.
    """

    def __init__(
        self,
        module: SpeechModule,
        run: RunDir,
        description: Mapping[str, Any],
        every: int,
        validate_every: int,
        clock: Callable[[], dict[str, Any]],
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        self.module = module
        self.run = run
        self.description = dict(description)
        self.every = every
        self.validate_every = validate_every
        self.quality_state: Callable[[], dict[str, Any]] = dict
        self._clock = clock
        self._resumed = resumed
        self._saved_step = -1

    # ---------------------------------------------------------------- saving

    def can_save(self) -> bool:
        """Return whether no gradients are accumulated, which a checkpoint would lose."""
        return self.module.step % self.module.optimization.accumulate == 0

    def _weights(self) -> dict[str, Any]:
        module = self.module
        return {
            **self.description,
            "training": {**self.description["training"], "step": module.step, **self.quality_state()},
            "step": module.step,
            "generator": module.generator.state_dict(),
            "generator_ema": None if module.ema is None else module.ema.network.state_dict(),
            "discriminators": None if module.adversary is None else module.adversary.discriminators.state_dict(),
        }

    def save_last(self) -> None:
        """Write ``last.ckpt``. All ranks must call it together, since it holds the random state of each."""
        states = gathered(checkpoint.random_states())
        module = self.module
        if module.trainer.is_global_zero and self._saved_step != module.step:
            optimizers = module.trainer.optimizers
            content = {
                **self._weights(),
                "ema_updates": 0 if module.ema is None else module.ema.updates,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "state": module.training_state(),
                "random": states,
                "clock": self._clock(),
            }
            checkpoint.write(self.run.last, content)
            self._saved_step = module.step

    def save_best(self, names: Sequence[str]) -> None:
        """Write ``<name>.ckpt`` for each name; the files are hard links to the same content."""
        if not names or not self.module.trainer.is_global_zero:
            return
        first, *others = (self.run.checkpoints / f"{name}.ckpt" for name in names)
        checkpoint.write(first, self._weights())
        for other in others:
            with appearing(other) as link:
                os.link(first, link)

    # ---------------------------------------------------------------- hooks

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Restore the state of a resumed run, now that networks are on their device and optimisers exist."""
        if self._resumed is None:
            return
        content, self._resumed = self._resumed, None
        restore_session(self.module, trainer, content)
        self._saved_step = self.module.step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Write ``last.ckpt`` at the interval, unless a validation follows, which writes it itself."""
        step = self.module.step
        if step % self.every == 0 and step % self.validate_every and self.can_save():
            self.save_last()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write ``last.ckpt`` with the scores of this validation."""
        if trainer.state.fn == TrainerFn.FITTING and self.can_save():
            self._saved_step = -1  # the step may have been saved before the validation, without its scores
            self.save_last()
