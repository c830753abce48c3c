"""Distance between what the discriminators see in the estimate and in the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError

Normalization = Literal["none", "reference"]


class FeatureMatchingLoss(nn.Module):
    """Mean absolute difference of discriminator features (MelGAN, Kumar et al. 2019).

    Each layer gives the mean over an item's features; layers are averaged within a sub-discriminator, then
    sub-discriminators, then items. The target's features are constants: no gradient goes through them. ``lengths`` are
    not asked for: behind an item's length both signals are padding, and the features there still see its end.

    Args:
        normalization: ``none``; or ``reference``: each layer's distance is divided by the mean magnitude of the item's
            target features in that layer (EnCodec, Defossez et al. 2022), a constant for the gradient, so that no layer
            wins or loses influence by the scale of its features.
        eps: least mean magnitude to divide by, for layers that do not respond to a silent target.

    Raises:
        ConfigError: another ``normalization``.
    """

    def __init__(self, normalization: Normalization = "none", eps: float = 1e-3) -> None:
        super().__init__()
        choices = get_args(Normalization)
        if normalization not in choices:
            raise ConfigError([f"normalization is {normalization!r}: choose one of {', '.join(choices)}"])
        self.normalization = normalization
        self.eps = eps

    def forward(self, estimate_judgements: Sequence[Judgement], target_judgements: Sequence[Judgement]) -> Tensor:
        """Scalar float32 from the judgements of the same sub-discriminators, features ``(B, ...)``.

        Raises:
            ValueError: no judgement, a judgement without features, or not the same number of judgements or layers.
        """
        if not estimate_judgements:
            raise ValueError("no sub-discriminator gave a judgement")
        per_discriminator = []
        for of_estimate, of_target in zip(estimate_judgements, target_judgements, strict=True):
            if not of_estimate.features:
                raise ValueError("feature matching needs a discriminator that gives features")
            layers = zip(of_estimate.features, of_target.features, strict=True)
            per_discriminator.append(torch.stack([self._distance(*layer) for layer in layers]).mean(0))
        return torch.stack(per_discriminator).mean()

    def _distance(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Distance of each item ``(B,)`` in one layer."""
        if estimate.shape != target.shape:
            raise ValueError(f"features of {tuple(estimate.shape)} and {tuple(target.shape)} cannot be compared")
        reference = target.detach().float().flatten(1)
        distance = (estimate.float().flatten(1) - reference).abs().mean(-1)
        if self.normalization == "reference":
            distance = distance / reference.abs().mean(-1).clamp_min(self.eps)
        return distance
