"""The start of every masked loss: float32 signals that are zero past an item's valid length."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_samples(estimate: Tensor, target: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cast to float32 and zero everything past each item's length, in value and in gradient.

    Args:
        estimate: ``(B, 1, T)``, any floating type.
        target: ``(B, 1, T)``.
        lengths: ``(B,)`` valid samples of each item, 0 to T.

    Returns:
        Estimate and target, each ``(B, T)`` float32, and the boolean mask ``(B, T)`` of valid samples. The padding is
        overwritten, not multiplied: even a NaN there leaves no trace.

    Raises:
        ValueError: other shapes; broadcasting would give a loss of every item against every other.
    """
    if estimate.ndim != 3 or estimate.shape[1] != 1 or estimate.shape != target.shape:
        raise ValueError(
            f"estimate and target must both be (B, 1, T), got {tuple(estimate.shape)} and {tuple(target.shape)}"
        )
    if lengths.shape != estimate.shape[:1]:
        raise ValueError(f"lengths must be ({estimate.shape[0]},), got {tuple(lengths.shape)}")
    valid = torch.arange(estimate.shape[-1], device=estimate.device) < lengths[:, None]
    return (
        estimate.float().squeeze(1).masked_fill(~valid, 0.0),
        target.float().squeeze(1).masked_fill(~valid, 0.0),
        valid,
    )
