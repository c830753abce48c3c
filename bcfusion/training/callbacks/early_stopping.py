"""The end of a run whose quality no longer improves."""

from __future__ import annotations

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer

from bcfusion.requirements import at_least, require
from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.module import SpeechModule


class EarlyStopping(Callback):
    """Ends training when the score of ``selection`` has not risen for some validations; the best checkpoint is kept.

    The closing evaluation follows as usual. A validation without a finite score counts as one that has not risen. The
    count is part of ``last.ckpt``; it is the same on all ranks, as the scores are.

    Args:
        patience: number of validations in a row without a rise that ends training.
        min_change: a smaller rise of the score, usually in 0..1, does not count.

    Attributes:
        reason: why training was ended; None if it was not.

    Raises:
        ConfigError: ``patience`` is below 1 or ``min_change`` below 0.
    """

    def __init__(self, patience: int = 10, min_change: float = 0.0) -> None:
        require(self, at_least(1, patience=patience), at_least(0, min_change=min_change))
        self.patience = patience
        self.min_change = min_change
        self.reason: str | None = None
        self._best, self._best_step = -math.inf, -1
        self._waited = 0

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Count this validation: after its scores are collected, and before the checkpoint is written."""
        assert isinstance(module, SpeechModule)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        score = next(callback for callback in callbacks if isinstance(callback, Quality)).score
        if score is not None and score > self._best + self.min_change:
            self._best, self._best_step, self._waited = score, module.step, 0
        else:
            self._waited += 1
        trainer.should_stop = self.ends() or trainer.should_stop

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """End a resumed run at once if there is nothing to wait for."""
        trainer.should_stop = self.ends() or trainer.should_stop

    def ends(self) -> bool:
        """Return whether training has to end now, and set :attr:`reason` if so."""
        if self._waited < self.patience:
            return False
        rise = "none before" if self._best_step < 0 else f"the last, to {self._best:.4f}, at step {self._best_step}"
        self.reason = f"early stopping: the selection's score had no rise in {self._waited} validations ({rise})"
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the best score, as plain containers for the checkpoint."""
        return {"best": self._best, "best_step": self._best_step, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._best, self._best_step = float(state_dict["best"]), int(state_dict["best_step"])
        self._waited = int(state_dict["waited"])
