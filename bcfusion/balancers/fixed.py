"""The weighted sum of the losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bcfusion.balancers.base import LossBalancer
from bcfusion.contracts import Anchor


class FixedBalancer(LossBalancer):
    """Minimises the sum of ``weight * loss`` with fixed weights. It has no state.

    The share of a loss is its ``|weight * loss|`` over the sum of them all; its share of the gradient would cost one
    backward pass per loss.
    """

    def __init__(self) -> None:
        super().__init__()  # the sum has the same gradient wherever it is measured

    def combine(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], anchor: Anchor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the gradient of the weighted sum, measured in one pass, and the magnitudes of the weighted losses."""
        weighted = {name: weights[name] * loss.float() for name, loss in losses.items()}
        gradient = anchor.gradient(torch.stack(list(weighted.values())).sum())
        return gradient, {name: value.detach().abs() for name, value in weighted.items()}
