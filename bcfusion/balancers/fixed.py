"""The weighted sum; and what all balancers share: which losses join, and how their shares are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from bcfusion.contracts import Anchor
from bcfusion.errors import ConfigError


def joining(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The losses whose weight is not 0. The others enter no graph, so that not even a NaN of theirs reaches a gradient.

    Raises:
        ConfigError: every weight is 0, which leaves nothing to train on.
        KeyError: a loss without a weight.
    """
    chosen = {name: loss for name, loss in losses.items() if weights[name] != 0}
    if not chosen:
        raise ConfigError([f"the weights of all losses ({', '.join(losses) or 'none given'}) are 0: raise one of them"])
    return chosen


def shares(magnitudes: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, float | Tensor]:
    """Each magnitude's share in their sum, 0 to 1, for all ``names``: 0 for those without one, or where all are 0."""
    whole = torch.stack(list(magnitudes.values())).sum().clamp_min(torch.finfo(torch.float32).tiny)
    zero = torch.zeros_like(whole)
    return {name: magnitudes.get(name, zero) / whole for name in names}


class FixedBalancer(nn.Module):
    """Minimises the sum of ``weight * loss``, with the weights as they are given. It has no state.

    Fulfils :class:`bcfusion.contracts.Balancer`.
    """

    #: the sum has the same gradient wherever it is measured
    anchor = "output"

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, float],
        anchor: Anchor,
        backward: Callable[[Tensor], None],
    ) -> dict[str, float | Tensor]:
        """One call of ``backward`` with the gradient of the weighted sum. A loss of weight 0 is left out.

        Args:
            losses: scalars by name. weights: at least one for each loss.
            anchor: gives the gradient of the sum; single losses are not measured.
            backward: the trainer's own backward pass of the generator.

        Returns:
            For each loss its share ``|weight * loss|`` in the sum of these, 0 to 1, detached and on the loss's device;
            0 for all where every loss is exactly 0. A share of the sum stands in for that of the gradient, which would
            cost a backward pass for each loss.

        Raises:
            ConfigError: every weight is 0, which leaves nothing to train on.
            KeyError: a loss without a weight.
        """
        weighted = {name: weights[name] * loss.float() for name, loss in joining(losses, weights).items()}
        backward(anchor.gradient(torch.stack(list(weighted.values())).sum()))
        return shares({name: value.detach().abs() for name, value in weighted.items()}, losses)
