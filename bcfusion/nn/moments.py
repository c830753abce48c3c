"""Mean and deviation of a spectrogram's values over the items and frames of many batches."""

from __future__ import annotations

import torch
from torch import Tensor

from bcfusion.errors import DataError


class Moments:
    """Mean and deviation over items and frames; sums are in float64 about a first mean, so that they do not cancel.

    Args:
        like: ``(C, F, 1)``, for shape and device.
    """

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self._about = torch.zeros_like(like, dtype=torch.float64)  # (C, F, 1)
        self._sum, self._squares = torch.zeros_like(self._about), torch.zeros_like(self._about)

    def add(self, values: Tensor, valid: Tensor) -> None:
        """Add the frames of ``values (B, C, F, N)`` that are ``valid (B, N)``."""
        frames = valid[:, None, None]
        count = int(valid.sum())
        values = values.double()
        if not self.count:
            self._about = (values * frames).sum((0, 3)).unsqueeze(-1) / count
        centred = (values - self._about) * frames
        self._sum = self._sum + centred.sum((0, 3)).unsqueeze(-1)
        self._squares = self._squares + centred.square().sum((0, 3)).unsqueeze(-1)
        self.count += count

    def finite(self) -> bool:
        """Return whether all values added so far are finite."""
        return bool(self._squares.isfinite().all())

    def mean(self) -> Tensor:
        """Return the mean ``(C, F, 1)``."""
        return self._about + self._sum / self.count

    def variance(self) -> Tensor:
        """Return the variance ``(C, F, 1)`` of the values themselves."""
        return (self._squares / self.count - (self._sum / self.count).square()).clamp_min(0.0)

    def deviation(self) -> Tensor:
        """Return the deviation ``(C, F, 1)`` of the values themselves."""
        return self.variance().sqrt()


def require_statistics(owner: object, *moments: Moments) -> None:
    """Refuse moments of no frames, or of values that are not finite.

    Args:
        owner: the network; the name of its class starts the message.
        moments: all of the same batches.

    Raises:
        DataError: see above.
    """
    if all(each.count and each.finite() for each in moments):
        return
    held = all(each.count for each in moments)
    why = "its samples are not finite: listen to the files" if held else "it holds no batches"
    raise DataError(f"{type(owner).__name__}: the training set gives no statistics, {why}")
