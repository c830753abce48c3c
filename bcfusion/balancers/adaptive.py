"""The adaptive adversarial weight of VQGAN.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021, eq. 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bcfusion.balancers.fixed import joining, shares
from bcfusion.contracts import Anchor
from bcfusion.errors import ConfigError


class AdaptiveBalancer(nn.Module):
    r"""Scales the adversarial losses so that their gradient follows that of the reconstruction losses.

    With R the weighted sum of all other losses and A the adversarial loss without its weight w, the generator follows
    the gradient of :math:`R + \lambda w A`, where :math:`\lambda = \min(\|\nabla R\| / (\|\nabla A\| + \epsilon),
    \lambda_{max})` counts as a constant: a weight of 0.8 makes the adversarial gradient 0.8 times as large as that of
    all reconstruction losses together. Several adversarial losses are one, their weighted mean, of the sum of their
    weights. It has no state.

    Lambda is 1 in a step that has no adversarial loss (it joins later) or nothing but adversarial losses: the balancer
    is then the plain weighted sum. A loss whose gradient is not finite makes the whole gradient non-finite, which the
    trainer's own guard skips and counts.

    Fulfils :class:`bcfusion.contracts.Balancer`.

    Args:
        anchor: where gradients are measured: ``output``, or a parameter of the generator (VQGAN: the last layer).
        adversarial: names of the losses that are scaled; all others are reconstruction.
        eps: bounds lambda where the adversarial gradient vanishes, in units of its norm. The published 1e-4 is meant
            for the last layer. At the output the gradient of a mean over samples has a norm of the order of
            1 / sqrt(samples), and an adversarial one may well be as small as 1e-4: choose less there.
        max_weight: the largest lambda.

    Raises:
        ConfigError: numbers out of range, or no adversarial loss is named.
    """

    def __init__(
        self,
        anchor: str = "output",
        adversarial: Sequence[str] = ("adversarial",),
        eps: float = 1e-4,
        max_weight: float = 1e4,
    ) -> None:
        super().__init__()
        problems = [
            f"balancer.{name}: must be a number above 0, not {value}"
            for name, value in (("eps", eps), ("max_weight", max_weight))
            if not value > 0
        ]
        if isinstance(adversarial, str) or not adversarial:
            problems.append(f"balancer.adversarial: must be a list of names of losses, not {adversarial!r}")
        if problems:
            raise ConfigError(problems)
        self.anchor = anchor
        self.adversarial = frozenset(adversarial)
        self.eps = eps
        self.max_weight = max_weight

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, float],
        anchor: Anchor,
        backward: Callable[[Tensor], None],
    ) -> dict[str, float | Tensor]:
        """One call of ``backward``; each loss is measured once, and what is measured makes up the gradient.

        Args:
            losses: scalars by name. weights: at least one for each loss; a loss of weight 0 is left out.
            anchor: measures the losses' gradients.
            backward: the trainer's own backward pass of the generator.

        Returns:
            For each loss the norm of its part of the gradient over the sum of these norms.

        Raises:
            ConfigError: every weight is 0, which leaves nothing to train on.
            KeyError: a loss without a weight.
        """
        gradients = {name: weights[name] * anchor.gradient(loss) for name, loss in joining(losses, weights).items()}
        adversarial = [name for name in gradients if name in self.adversarial]
        reconstruction = [name for name in gradients if name not in self.adversarial]
        if not adversarial or not reconstruction:
            norms = dict(zip(gradients, anchor.norms(list(gradients.values())), strict=True))
            backward(_sum(list(gradients.values())))
            return shares(norms, losses)

        of_reconstruction = _sum([gradients[name] for name in reconstruction])
        of_adversarial = _sum([gradients[name] for name in adversarial])
        reconstruction_norm, adversarial_norm, *single = anchor.norms(
            [of_reconstruction, of_adversarial, *gradients.values()]
        )
        whole_weight = sum(weights[name] for name in adversarial)
        factor = (reconstruction_norm / (adversarial_norm / whole_weight + self.eps)).clamp_max(self.max_weight)
        backward(of_reconstruction + factor * of_adversarial)
        norms = dict(zip(gradients, single, strict=True))
        return shares({name: factor * norm if name in adversarial else norm for name, norm in norms.items()}, losses)


def _sum(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(gradients)).sum(0) if len(gradients) > 1 else gradients[0]
