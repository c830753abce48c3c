"""Writes ``last.ckpt`` and the best checkpoints of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from bcfusion.files import appearing
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.training.initial_state import restore_session
from bcfusion.training.module import SpeechModule
from bcfusion.training.ranks import gathered
from bcfusion.training.writing import WriteFailed, writing


class Checkpointing(Callback):
    """``last.ckpt`` holds everything a resumed run needs; ``best*.ckpt`` hold the weights of all networks.

    A Lightning callback with a ``state_dict()`` of plain containers has its state in ``last.ckpt`` too, by its
    ``state_key``. If a file cannot be written, the previous one stays and the run ends with a
    :class:`~bcfusion.training.writing.WriteFailed`.

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
        # of Lightning callbacks, by state_key; checkpoints of older versions have none
        self._restored_states: dict[str, Any] = {} if resumed is None else dict(resumed.get("callbacks", {}))
        self._saved_step = -1
        self._good_step: int | None = None if resumed is None else int(resumed["step"])  # of the file on the disk

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
            "critics": {name: critic.network.state_dict() for name, critic in module.critics.items()},
        }

    def save_last(self) -> None:
        """Write ``last.ckpt``. All ranks must call it together, since it holds the random state of each."""
        states = gathered(checkpoint.random_states())
        module = self.module
        if self._saved_step == module.step:
            return
        critics = gathered(module.critic_states()) if module.critics else []
        log = gathered(module.log_state())

        def write() -> None:
            content = {
                **self._weights(),
                "ema_updates": 0 if module.ema is None else module.ema.updates,
                "optimizers": [optimizer.state_dict() for optimizer in module.trainer.optimizers],
                "state": module.training_state(),
                "callbacks": self._callback_states(),
                "random": states,
                "critic_states": critics,
                "log": log,
                "clock": self._clock(),
            }
            for logger in module.trainer.loggers:  # those who wrote later would leave a gap in the curves, if killed
                logger.save()
            checkpoint.write(self.run.last, content)

        self._on_rank_zero(write, self.run.last)
        self._saved_step = self._good_step = module.step

    def _add_scores(self, content: Mapping[str, Any]) -> None:
        """Write ``last.ckpt`` as it was read, with the scores of the validation that a resumed run makes up for."""
        training = {**content["training"], **self.quality_state()}
        scored = {**content, "training": training, "callbacks": self._callback_states(), "clock": self._clock()}
        self._on_rank_zero(lambda: checkpoint.write(self.run.last, scored), self.run.last)

    def save_best(self, names: Sequence[str]) -> None:
        """Write ``<name>.ckpt`` for each name, the same content; all ranks must call it together.

        The files are hard links or, where the file system has none, copies.
        """
        if not names:
            return
        first, *others = (self.run.checkpoints / f"{name}.ckpt" for name in names)

        def write() -> None:
            checkpoint.write(first, self._weights())
            for other in others:
                with appearing(other) as link:
                    link_or_copy(first, link)

        self._on_rank_zero(write, first)

    def _on_rank_zero(self, write: Callable[[], None], path: Path) -> None:
        """Write on rank zero; if that fails, raise the error on every rank, so that none waits for the others."""
        problem = None
        if self.module.trainer.is_global_zero:
            try:
                with writing(path, self.what_now):
                    write()
            except WriteFailed as error:
                problem = str(error)
        problem = gathered(problem)[0]
        if problem is not None:
            raise WriteFailed(problem)

    def what_now(self) -> str:
        """Return what a user does after a file could not be written: continue from the last good checkpoint."""
        if self._good_step is None:
            return (
                "The run has no checkpoint yet: free some space, or give output_root on another disk, and start again"
            )
        return (
            f"The checkpoint of step {self._good_step} is kept: free some space, then continue with\n"
            f"  {self.run.resume_command}"
        )

    def what_next(self) -> str:
        """Return what a user does after another process was lost: continue from the last good checkpoint."""
        if not self.run.last.is_file():  # which rank zero may just have written
            return "The run has no checkpoint yet: start again"
        return f"The last checkpoint is kept: continue with\n  {self.run.resume_command}"

    def _stateful(self) -> list[Callback]:
        callbacks: list[Callback] = self.module.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if type(callback).state_dict is not Callback.state_dict]

    def _callback_states(self) -> dict[str, dict[str, Any]]:
        states = {callback.state_key: callback.state_dict() for callback in self._stateful()}
        return {key: state for key, state in states.items() if _is_plain(state)}

    def restore_callbacks(self) -> None:
        """Restore the states of a resumed run, once: its first hook may be that of a validation or that of training."""
        states, self._restored_states = self._restored_states, {}
        for callback in self._stateful() if states else ():
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])

    def restore(self, trainer: Trainer) -> None:
        """Restore the state of a resumed run, when networks are on their device and optimisers exist."""
        if self._resumed is None:
            return
        self.restore_callbacks()
        content, self._resumed = self._resumed, None
        restore_session(self.module, trainer, content)
        self._saved_step = self.module.step

    # ---------------------------------------------------------------- hooks

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Write ``last.ckpt`` at the interval, unless a validation follows, which writes it itself."""
        step = self.module.step
        if step % self.every == 0 and step % self.validate_every and self.can_save():
            self.save_last()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write ``last.ckpt`` with the scores of this validation."""
        if trainer.state.fn == TrainerFn.VALIDATING and self._resumed is not None:
            self._add_scores(self._resumed)
        elif trainer.state.fn == TrainerFn.FITTING and self.can_save():
            self._saved_step = -1  # the step may have been saved before the validation, without its scores
            self.save_last()


class Restoring(Callback):
    """Restores a resumed run before the callbacks of the user, which save their states before it is saved.

    Args:
        checkpointing: of the run.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        self._checkpointing = checkpointing

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Restore the callbacks of a run that was stopped during this validation, which is repeated first."""
        self._checkpointing.restore_callbacks()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Restore everything else, before the first step."""
        self._checkpointing.restore(trainer)


def _is_plain(value: Any) -> bool:
    """Return whether a value can be read from a checkpoint, which holds no objects of other classes."""
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str, Tensor)


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy on file systems without links (exFAT, mounts of clouds)."""
    try:
        os.link(source, target)
    except OSError:
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
