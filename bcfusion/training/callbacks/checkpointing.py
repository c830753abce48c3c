"""Writes ``last.ckpt`` and the best checkpoints, and restores a run from ``last.ckpt``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from bcfusion.errors import CheckpointError
from bcfusion.run import checkpoint
from bcfusion.training.module import SpeechModule


class Checkpointing(Callback):
    """``last.ckpt`` holds everything a resumed run needs; ``best*.ckpt`` hold the weights of both networks.

    Args:
        module: whose state is saved.
        directory: the run's ``checkpoints`` folder.
        description: plain containers that go into each checkpoint: ``config`` and ``training``.
        every: batches between writes of ``last.ckpt``. validate_every: it is also written after each validation.
        clock: gives the state of the run's clock.
        resumed: content of the ``last.ckpt`` to go on from, or None.
    """

    def __init__(
        self,
        module: SpeechModule,
        directory: Path,
        description: Mapping[str, Any],
        every: int,
        validate_every: int,
        clock: Callable[[], dict[str, Any]],
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        self.module = module
        self.directory = directory
        self.description = dict(description)
        self.every = every
        self.validate_every = validate_every
        self.quality_state: Callable[[], dict[str, Any]] = dict
        self._clock = clock
        self._resumed = resumed
        self._saved_step = -1

    # ---------------------------------------------------------------- saving

    @property
    def last(self) -> Path:
        """Path of ``last.ckpt``."""
        return self.directory / "last.ckpt"

    def can_save(self) -> bool:
        """Whether no gradients are accumulated that a checkpoint would lose."""
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
        """Writes ``last.ckpt``. All ranks call it: each adds its random state."""
        states = [checkpoint.random_states()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
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
            checkpoint.write(self.last, content)
            self._saved_step = module.step

    def save_best(self, names: Sequence[str]) -> None:
        """Writes ``<name>.ckpt`` for each name; equal files share their blocks on disk."""
        if not names or not self.module.trainer.is_global_zero:
            return
        first = self.directory / f"{names[0]}.ckpt"
        checkpoint.write(first, self._weights())
        for name in names[1:]:
            link = self.directory / f".{name}.{os.getpid()}"
            link.unlink(missing_ok=True)
            os.link(first, link)
            os.replace(link, self.directory / f"{name}.ckpt")

    # ---------------------------------------------------------------- hooks

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Restores the state of a resumed run, when networks are on their device and optimisers are made."""
        if self._resumed is None:
            return
        content, self._resumed = self._resumed, None
        restore_session(self.module, trainer, content)
        self._saved_step = self.module.step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Writes ``last.ckpt`` at the interval, unless a validation follows that ends in writing it."""
        step = self.module.step
        if step % self.every == 0 and step % self.validate_every and self.can_save():
            self.save_last()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes ``last.ckpt`` with the scores of this validation."""
        if trainer.state.fn == TrainerFn.FITTING and self.can_save():
            self._saved_step = -1  # the step may have been saved before the validation, without its scores
            self.save_last()


def require_resumable(content: Mapping[str, Any], path: Path) -> None:
    """Refuses a checkpoint that holds weights only.

    Raises:
        CheckpointError: there is no optimiser state in it.
    """
    if "optimizers" not in content:
        raise CheckpointError(
            f"{path} holds weights, not the state of a run: resume from last.ckpt, or start anew with init_from={path}"
        )


def restore_networks(module: SpeechModule, content: Mapping[str, Any], path: Path) -> None:
    """Loads the weights of all networks and the step count, before training starts.

    Raises:
        CheckpointError: the checkpoint is of other networks.
    """
    checkpoint.load_weights(module.generator, content["generator"], path)
    if module.ema is not None and content["generator_ema"] is not None:
        checkpoint.load_weights(module.ema.network, content["generator_ema"], path)
        module.ema.updates = int(content["ema_updates"])
    if (module.adversary is None) != (content["discriminators"] is None):
        raise CheckpointError(f"{path} was trained {'with' if module.adversary is None else 'without'} discriminators")
    if module.adversary is not None:
        checkpoint.load_weights(module.adversary.discriminators, content["discriminators"], path)
    module.step = int(content["step"])


def restore_session(module: SpeechModule, trainer: Trainer, content: Mapping[str, Any]) -> None:
    """Puts optimisers, schedulers, counters and random states back to where ``content`` was saved."""
    for optimizer, state in zip(trainer.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    module.load_training_state(content["state"])
    if len(content["random"]) == trainer.world_size:  # with other processes the batches are others anyway
        checkpoint.restore_random_states(content["random"][trainer.global_rank])
