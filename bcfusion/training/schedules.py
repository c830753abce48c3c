"""Learning rates over optimiser steps: with an end, in stairs, and by the quality of validations."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bcfusion.requirements import above, at_least, require


class CosineDecay(LRScheduler):
    r"""Lowers the rate along half a cosine, after a linear rise over the first W steps, and holds it at the end.

    After n of N steps the rate is :math:`l + (r - l) (1 + \cos(\pi (n - W) / (N - W))) / 2`, where r is the optimiser's
    own rate and l the lowest one, and before the W-th :math:`r (n + 1) / W`. Without an N it stays r from there on; the
    trainer then sets :attr:`steps` once.

    Args:
        optimizer: whose rates are set.
        steps: N, optimiser steps until the lowest rate; None: not known yet.
        lowest: l; a rate that is lower already stays as it is.
        warm_up: W, in optimiser steps; 0 starts with the full rate.

    Raises:
        ConfigError: ``steps`` is below 1, or ``lowest`` or ``warm_up`` below 0.
    """

    def __init__(self, optimizer: Optimizer, steps: int | None = None, lowest: float = 0.0, warm_up: int = 0) -> None:
        require(self, [] if steps is None else at_least(1, steps=steps), at_least(0, lowest=lowest, warm_up=warm_up))
        self.steps = steps
        self.lowest = lowest
        self.warm_up = warm_up
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group of parameters after ``last_epoch`` steps."""
        if self.last_epoch < self.warm_up:
            return [rate * (self.last_epoch + 1) / self.warm_up for rate in self.base_lrs]
        falls = 0 if self.steps is None else max(self.steps - self.warm_up, 1)  # steps
        done = min((self.last_epoch - self.warm_up) / falls, 1.0) if falls else 0.0
        share = (1.0 + math.cos(math.pi * done)) / 2.0
        lows = [min(self.lowest, rate) for rate in self.base_lrs]
        return [low + (rate - low) * share for rate, low in zip(self.base_lrs, lows, strict=True)]


class Staircase(LRScheduler):
    r"""Multiplies the rate by a factor at every K-th step, after a linear rise over the first W.

    After n steps it is :math:`r d^{\lfloor n / K \rfloor} \min(1, (n + 1) / W)`, where r is the optimiser's own
    rate. With K the steps of an epoch it is a decay per epoch.

    Args:
        optimizer: whose rates are set.
        every: K, in optimiser steps.
        decay: d, factor from one stair to the next.
        warm_up: W, in optimiser steps; 0 starts with the full rate.

    Raises:
        ConfigError: ``every`` is below 1, ``decay`` not above 0, or ``warm_up`` below 0.
    """

    def __init__(self, optimizer: Optimizer, every: int, decay: float, warm_up: int = 0) -> None:
        require(self, at_least(1, every=every), above(0, decay=decay), at_least(0, warm_up=warm_up))
        self.every = every
        self.decay = decay
        self.warm_up = warm_up
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group of parameters after ``last_epoch`` steps."""
        rise = min(1.0, (self.last_epoch + 1) / self.warm_up) if self.warm_up else 1.0
        return [rate * rise * self.decay ** (self.last_epoch // self.every) for rate in self.base_lrs]


class Plateau(LRScheduler):
    """Lowers the rate when validations stop getting better.

    The rate is multiplied by ``factor`` at a validation if it and the ``patience`` before it were not better than the
    best one so far. Published recipes watch the loss of an epoch; here it is the score of the run's ``selection``,
    which selects the best checkpoint too, and an epoch is ``trainer.validate_every`` steps.

    Args:
        optimizer: whose rates are set.
        patience: validations without a new best that are tolerated.
        factor: what the rate is multiplied by, above 0 and below 1.
        lowest: the rate does not fall below it; one that is lower already stays as it is.

    Raises:
        ConfigError: ``patience`` or ``lowest`` is below 0, or ``factor`` out of range.
    """

    def __init__(self, optimizer: Optimizer, patience: int = 5, factor: float = 0.5, lowest: float = 0.0) -> None:
        require(
            self,
            at_least(0, patience=patience, lowest=lowest),
            (0.0 < factor < 1.0, f"factor={factor} must be above 0 and below 1"),
        )
        self.patience = patience
        self.factor = factor
        self.lowest = lowest
        self.scale = 1.0
        self.best: float | None = None
        self.waited = 0  # validations since the best one, or since the rate fell
        super().__init__(optimizer)

    def validated(self, score: float | None) -> None:
        """Take the score of a validation, higher is better; one that could not be computed (None) does not count."""
        if score is None:
            return
        if self.best is None or score > self.best:
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor, 0

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group of parameters, which changes at the step after a validation."""
        return [max(min(self.lowest, rate), rate * self.scale) for rate in self.base_lrs]
