"""The weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError


class FixedBalancer(nn.Module):
    """Minimises the sum of ``weight * loss``, with the weights as they are given. It has no state."""

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, float],
        anchor: Tensor,
        backward: Callable[..., None],
    ) -> dict[str, float | Tensor]:
        """One call of ``backward`` on the weighted sum.

        A loss of weight 0 does not enter the graph, so that not even a NaN of it reaches the gradient.

        Args:
            losses: scalars by name. weights: at least one for each loss.
            anchor: part of the contract; gradients of single losses are not measured here, so it is not used.
            backward: the trainer's own backward call.

        Returns:
            For each loss its share ``|weight * loss|`` in the sum of these, 0 to 1, detached and on the loss's device;
            0 for all where every loss is exactly 0. A share of the sum stands in for that of the gradient, which would
            cost a backward pass for each loss.

        Raises:
            ConfigError: every weight is 0, which leaves nothing to train on.
            KeyError: a loss without a weight.
        """
        weighted = {name: weights[name] * loss.float() for name, loss in losses.items() if weights[name] != 0}
        if not weighted:
            raise ConfigError(
                [f"the weights of all losses ({', '.join(losses) or 'none given'}) are 0: raise one of them"]
            )
        total = torch.stack(list(weighted.values())).sum()
        backward(total)
        magnitudes = {name: value.detach().abs() for name, value in weighted.items()}
        whole = torch.stack(list(magnitudes.values())).sum().clamp_min(torch.finfo(torch.float32).tiny)
        zero = torch.zeros_like(whole)
        return {name: magnitudes.get(name, zero) / whole for name in losses}
