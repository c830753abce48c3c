"""The trackers of a run: opened before it trains, closed however that ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning import Trainer

from bcfusion.training.callbacks.pruning import RunPruned
from bcfusion.training.trackers.tracker import Tracker

__all__ = ["tracking"]


@contextmanager
def tracking(trainer: Trainer, hyperparameters: Mapping[str, Any], step: Callable[[], int]) -> Iterator[None]:
    """Keep the trackers of a trainer open, on rank zero, while it trains.

    Args:
        trainer: its loggers may be trackers.
        hyperparameters: flat plain values.
        step: returns the step at which the run is.
    """
    trackers = [one for one in trainer.loggers if isinstance(one, Tracker)] if trainer.is_global_zero else []
    for tracker in trackers:
        tracker.open(hyperparameters)
    succeeded = False
    try:
        yield
        succeeded = True
    except RunPruned:
        succeeded = True
        raise
    finally:
        for tracker in trackers:
            tracker.close(step(), succeeded)
