"""What all balancers share: which losses take part, the one backward pass, and the shares for the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bcfusion.contracts import Anchor
from bcfusion.errors import ConfigError


class LossBalancer(nn.Module):
    """Base of the balancers. A subclass makes the gradient in :meth:`combine`.

    Fulfils :class:`bcfusion.contracts.Balancer`.

    Attributes:
        anchor: where gradients are measured: ``output``, or the name of a parameter of the generator.
    """

    def __init__(self, anchor: str = "output") -> None:
        super().__init__()
        self.anchor = anchor

    def combine(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], anchor: Anchor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the gradient at the generator's output, and the magnitude of each loss's part in it.

        Args:
            losses: scalars by name, at least one, of weights other than 0.
            weights: by name, at least one for each loss.
            anchor: measures the losses' gradients.
        """
        raise NotImplementedError

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, float],
        anchor: Anchor,
        backward: Callable[[Tensor], None],
    ) -> dict[str, float | Tensor]:
        """Run the generator's backward pass with the combined gradient.

        Losses of weight 0 take no part, so that not even a NaN of theirs reaches a gradient.

        Args:
            losses: scalars by name.
            weights: by name, at least one for each loss.
            anchor: measures the losses' gradients.
            backward: the trainer's own backward pass of the generator; called once.

        Returns:
            The magnitude of each loss's part over the sum of all magnitudes, 0 to 1, detached and on the device of the
            loss; 0 for all losses if all magnitudes are 0.

        Raises:
            ConfigError: every weight is 0, which leaves nothing to train on.
            KeyError: a loss without a weight.
        """
        chosen = {name: loss for name, loss in losses.items() if weights[name] != 0}
        if not chosen:
            raise ConfigError(
                [f"the weights of all losses ({', '.join(losses) or 'none given'}) are 0: raise one of them"]
            )
        gradient, magnitudes = self.combine(chosen, weights, anchor)
        backward(gradient)
        whole = torch.stack(list(magnitudes.values())).sum().clamp_min(torch.finfo(torch.float32).tiny)
        zero = torch.zeros_like(whole)
        return {name: magnitudes.get(name, zero) / whole for name in losses}
