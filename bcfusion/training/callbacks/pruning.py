"""Early end of runs that a hyperparameter search finds unpromising."""

from __future__ import annotations

from collections.abc import Callable

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.module import SpeechModule
from bcfusion.training.selection import Selection


class RunPruned(Exception):
    """A search ended the run after a validation.

    Attributes:
        step: of that validation.
        score: best selection score so far.
    """

    def __init__(self, step: int, score: float) -> None:
        self.step = step
        self.score = score
        super().__init__(f"unpromising at step {step}")


class Pruning(Callback):
    """Reports each validation during training to the search, and ends the run if the search decides so.

    It must come after the callbacks of quality and checkpoints, so that the results of the validation are written.

    Args:
        prune: called with step and selection score, on rank zero only, whose answer holds for all ranks; returns
            whether to end the run.
        quality: has the means of the latest validation.
        selection: makes one score of them.
    """

    def __init__(self, prune: Callable[[int, float], bool], quality: Quality, selection: Selection) -> None:
        self._prune = prune
        self._quality = quality
        self._selection = selection

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Ask the search whether to end the run."""
        assert isinstance(module, SpeechModule)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        score = self._selection.score(self._quality.latest)
        pruned = trainer.is_global_zero and self._prune(module.step, score)
        if trainer.strategy.reduce_boolean_decision(pruned, all=False):
            raise RunPruned(module.step, self._quality.best_score)
