"""A search over hyperparameters ends runs that are hopeless."""

from __future__ import annotations

from collections.abc import Callable

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.module import SpeechModule
from bcfusion.training.selection import Selection


class RunPruned(Exception):
    """A search ended the run after a validation. ``objective`` is its best selection score so far."""

    def __init__(self, step: int, objective: float) -> None:
        self.step = step
        self.objective = objective
        super().__init__(f"hopeless at step {step}")


class Pruning(Callback):
    """Reports each validation of the training and ends the run where the search calls it hopeless.

    Must stand behind ``quality`` and the checkpointing, so that what the validation found has been written.

    Args:
        hopeless: gets step and selection score; called on rank zero alone, whose answer holds for all.
        quality: has the means of the latest validation. selection: makes one score of them.
    """

    def __init__(self, hopeless: Callable[[int, float], bool], quality: Quality, selection: Selection) -> None:
        self._hopeless = hopeless
        self._quality = quality
        self._selection = selection

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Asks the search."""
        assert isinstance(module, SpeechModule)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        score = self._selection.score(self._quality.latest)
        hopeless = trainer.is_global_zero and self._hopeless(module.step, score)
        if trainer.strategy.reduce_boolean_decision(hopeless, all=False):
            raise RunPruned(module.step, self._quality.best["best"])
