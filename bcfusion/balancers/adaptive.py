"""The adaptive adversarial weight of VQGAN.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021, eq. 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bcfusion.balancers.base import LossBalancer
from bcfusion.contracts import Anchor
from bcfusion.requirements import above, require


class AdaptiveBalancer(LossBalancer):
    r"""Scales the adversarial losses so that their gradient follows the size of the reconstruction losses' gradient.

    With R the weighted sum of all other losses and A the adversarial loss without its weight w, the generator follows
    the gradient of :math:`R + \lambda w A`, where :math:`\lambda = \min(\|\nabla R\| / (\|\nabla A\| + \epsilon),
    \lambda_{max})` counts as a constant: a weight of 0.8 makes the adversarial gradient 0.8 times as large as the
    gradient of all reconstruction losses together. Several adversarial losses count as one, their weighted mean, with
    the sum of their weights. The balancer has no state.

    In a step without adversarial losses (they join later), or with nothing else, lambda is 1, which gives the plain
    weighted sum. A loss whose gradient is not finite makes the whole gradient non-finite, which the trainer's own guard
    skips and counts.

    Args:
        anchor: where gradients are measured: ``output``, or a parameter of the generator (VQGAN: the last layer).
        adversarial: names of the losses that are scaled; all others are reconstruction.
        eps: bounds lambda when the adversarial gradient vanishes, in units of its norm. The published 1e-4 is meant
            for the last layer. At the output the gradient of a mean over samples has a norm of the order of
            1 / sqrt(samples), and an adversarial one may well be as small as 1e-4: choose less there.
        max_weight: the largest lambda.

    Raises:
        ConfigError: a number is out of range, or no adversarial loss is named.
    """

    def __init__(
        self,
        anchor: str = "output",
        adversarial: Sequence[str] = ("adversarial",),
        eps: float = 1e-4,
        max_weight: float = 1e4,
    ) -> None:
        require(
            self,
            above(0, eps=eps, max_weight=max_weight),
            (
                adversarial and not isinstance(adversarial, str),
                f"adversarial={adversarial!r} must be a list of names of losses",
            ),
        )
        super().__init__(anchor)
        self.adversarial = frozenset(adversarial)
        self.eps = eps
        self.max_weight = max_weight

    def combine(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], anchor: Anchor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the gradient, made of one measurement per loss, and the norms of the losses' parts in it."""
        gradients = {name: weights[name] * anchor.gradient(loss) for name, loss in losses.items()}
        adversarial = [name for name in gradients if name in self.adversarial]
        reconstruction = [name for name in gradients if name not in self.adversarial]
        if not adversarial or not reconstruction:
            norms = dict(zip(gradients, anchor.norms(list(gradients.values())), strict=True))
            return _sum(list(gradients.values())), norms

        of_reconstruction = _sum([gradients[name] for name in reconstruction])
        of_adversarial = _sum([gradients[name] for name in adversarial])
        reconstruction_norm, adversarial_norm, *single = anchor.norms(
            [of_reconstruction, of_adversarial, *gradients.values()]
        )
        whole_weight = sum(weights[name] for name in adversarial)
        factor = (reconstruction_norm / (adversarial_norm / whole_weight + self.eps)).clamp_max(self.max_weight)
        norms = dict(zip(gradients, single, strict=True))
        scaled = {name: factor * norm if name in adversarial else norm for name, norm in norms.items()}
        return of_reconstruction + factor * of_adversarial, scaled


def _sum(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(gradients)).sum(0) if len(gradients) > 1 else gradients[0]
