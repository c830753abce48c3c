"""What the surrogates of quality share: each item counts alone, up to its own length."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_items_count_alone(loss: nn.Module, estimate: Tensor, target: Tensor, lengths: Tensor, digits: int) -> None:
    """Check that the value of a batch is the mean of its items', and that nothing after their ends matters.

    Args:
        loss: takes estimate, target and lengths.
        estimate: ``(B, 1, T)``; it and the target are overwritten after the ends of the items.
        target: likewise.
        lengths: of the items, ``(B,)``.
        digits: after the point, in which the values of the items differ from each other.
    """
    alone = []
    for i, length in enumerate(lengths.tolist()):
        item = slice(i, i + 1)
        alone.append(loss(estimate[item, :, :length], target[item, :, :length], torch.tensor([length])))
        target[i, :, length:] = float("nan")
        estimate[i, :, length:] = float("nan")
    assert len({round(value.item(), digits) for value in alone}) == len(lengths)
    estimate.requires_grad_()
    batch = loss(estimate, target, lengths)
    torch.testing.assert_close(batch, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)

    batch.backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
    for i, length in enumerate(lengths.tolist()):
        assert torch.count_nonzero(estimate.grad[i, :, length:]) == 0
        assert torch.count_nonzero(estimate.grad[i, :, :length]) > 0
