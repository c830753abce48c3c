"""Learning rates over optimiser steps, for schedules that have an end."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bcfusion.requirements import at_least, require


class CosineDecay(LRScheduler):
    r"""Lowers the rate along half a cosine, and holds it at the end.

    After n of N steps the rate is :math:`l + (r - l) (1 + \cos(\pi \min(n, N) / N)) / 2`, where r is the optimiser's
    own rate and l the lowest one. Without an N the rate is r; the trainer then sets :attr:`steps` once.

    Args:
        optimizer: whose rates are set.
        steps: N, optimiser steps from the full rate to the lowest; None: not known yet.
        lowest: l; a rate that is lower already stays as it is.

    Raises:
        ConfigError: ``steps`` is below 1 or ``lowest`` below 0.
    """

    def __init__(self, optimizer: Optimizer, steps: int | None = None, lowest: float = 0.0) -> None:
        require(self, [] if steps is None else at_least(1, steps=steps), at_least(0, lowest=lowest))
        self.steps = steps
        self.lowest = lowest
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group of parameters after ``last_epoch`` steps."""
        done = 0.0 if self.steps is None else min(self.last_epoch / self.steps, 1.0)
        share = (1.0 + math.cos(math.pi * done)) / 2.0
        lows = [min(self.lowest, rate) for rate in self.base_lrs]
        return [low + (rate - low) * share for rate, low in zip(self.base_lrs, lows, strict=True)]
