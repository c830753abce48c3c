"""Exponential moving average of a network's weights: the copy that is validated and shipped."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bcfusion.configuration.keys import key_rules
from bcfusion.requirements import require


def _is_averaged(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


class EmaGenerator(nn.Module):
    """Keeps an averaged copy of the network that is trained.

    The copy is a module of its own, so nothing is swapped in and out around validation, and an exception during it
    cannot leave averaged weights in the trained network. The decay is warmed up, ``min(decay, (1 + n) / (10 + n))``
    after n updates, so that the average of a short run is not dominated by its random start.

    Args:
        network: the trained network; deep-copied.
        decay: share of the old average in the new one, in [0, 1).

    Raises:
        ConfigError: ``decay`` is out of range.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        require(self, key_rules("trainer", ema_decay=decay))
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0  # the warm-up of the decay depends on it; part of a checkpoint

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards ``network``; copy its buffers."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged: list[Tensor] = [p for p in self.network.parameters() if _is_averaged(p)]
        trained = [p.detach() for p in network.parameters() if _is_averaged(p)]
        torch._foreach_lerp_(averaged, trained, 1.0 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)

    def train(self, mode: bool = True) -> EmaGenerator:
        """Stay in evaluation mode, whatever the surrounding module does."""
        return super().train(False)
