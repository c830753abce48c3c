"""Marks how far a process has come, for the others of its run."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from bcfusion.training.module import SpeechModule
from bcfusion.training.watch import Watch


class Whereabouts(Callback):
    """Tells a watch where the main thread is: reading, in a step, or validating.

    Args:
        watch: of this process.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def _mark(self, module: LightningModule, where: str, in_step: bool = False) -> None:
        assert isinstance(module, SpeechModule)
        self._watch.at(2 * module.step + in_step, where)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._reads(module)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        assert isinstance(module, SpeechModule)
        self._mark(module, f"in step {module.step + 1}", in_step=True)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self._reads(module)

    def on_validation_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        assert isinstance(module, SpeechModule)
        self._mark(module, f"in the validation after step {module.step}, at {', '.join(batch['ids'])}")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Say so before loggers are closed, which may take a while."""
        self._watch.fails(exception)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._reads(module)

    def _reads(self, module: LightningModule) -> None:
        assert isinstance(module, SpeechModule)
        self._mark(module, f"reading the batch of step {module.step + 1}")
