"""The smallest critic learns from the shortest signals that it accepts."""

from __future__ import annotations

import pytest
import torch

from bcfusion.critics.magnitude import MagnitudeCritic
from bcfusion.errors import ConfigError


@pytest.mark.parametrize("hop_length", [1, 32, 64])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_smallest_sizes_learn_from_the_shortest_signals(hop_length: int, batch: int) -> None:
    torch.manual_seed(0)
    critic = MagnitudeCritic(channels=1, n_fft=64, hop_length=hop_length).train()
    estimate, target = 0.1 * torch.randn(2, batch, 1, critic.least_samples)
    scores = critic(estimate, target)
    assert scores.shape == (batch,)
    assert ((scores > 0) & (scores < 1)).all()
    (1.0 - scores).square().mean().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_smaller_transforms_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_fft=63 must be at least 64"):
        MagnitudeCritic(n_fft=63, hop_length=32)
