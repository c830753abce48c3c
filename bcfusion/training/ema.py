"""Exponential moving average of a network's weights, the copy that is validated and shipped."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EmaGenerator(nn.Module):
    """Keeps an averaged copy of a network beside the one that is trained.

    The copy is a module of its own, so nothing is swapped in and out around validation, and an exception in between
    cannot leave averaged weights in the trained network. The decay is warmed up, ``min(decay, (1 + n) / (10 + n))``
    after n updates, so that short runs are not averages of their random start.

    Args:
        network: the trained network; deep-copied.
        decay: share of the old average in the new one, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), not {decay}")
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0  # decides over the decay; part of a checkpoint

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Moves the average towards ``network``. Buffers are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged: list[Tensor] = [p for p in self.network.parameters() if p.is_floating_point()]
        trained = [p.detach() for p in network.parameters() if p.is_floating_point()]
        torch._foreach_lerp_(averaged, trained, 1.0 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)

    def train(self, mode: bool = True) -> EmaGenerator:
        """Stays in evaluation mode, whatever the module around it does."""
        return super().train(False)
