"""Distance between what the discriminators see in the estimate and in the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.losses.adversarial import Reduction, check_choice, reduce_list

Normalization = Literal["none", "reference"]


class FeatureMatchingLoss(nn.Module):
    """Mean absolute difference of discriminator features (MelGAN, Kumar et al. 2019).

    Each layer gives the mean over an item's features; layers are averaged or added up within a sub-discriminator, then
    sub-discriminators are, then items are averaged. The target's features are constants: no gradient goes through
    them. ``lengths`` are not asked for: behind an item's length both signals are padding, and the features there still
    see its end.

    Args:
        normalization: ``none``; or ``reference``: each layer's distance is divided by the mean magnitude of the item's
            target features in that layer (EnCodec, Defossez et al. 2022), a constant for the gradient, so that no layer
            wins or loses influence by the scale of its features.
        eps: least mean magnitude to divide by, for layers that do not respond to a silent target.
        per_channel: of a layer's channels the ``mean`` (MelGAN, HiFi-GAN, EnCodec) or the ``sum`` (SEANet, eq. 4, whose
            norm is divided by time alone); no difference under ``reference``, where numerator and denominator agree.
        per_layer: of a sub-discriminator's layers the ``mean`` (SEANet, EnCodec) or the ``sum`` (MelGAN, HiFi-GAN), by
            which a sub-discriminator with more layers has more say.
        per_discriminator: of sub-discriminators the ``mean`` (SEANet, EnCodec) or the ``sum`` (MelGAN, HiFi-GAN). A
            weight that was published for sums means the same here only with sums and the same discriminators.

    Raises:
        ConfigError: another ``normalization``, ``per_channel``, ``per_layer`` or ``per_discriminator``.
    """

    def __init__(
        self,
        normalization: Normalization = "none",
        eps: float = 1e-3,
        per_channel: Reduction = "mean",
        per_layer: Reduction = "mean",
        per_discriminator: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_choice(self, "normalization", normalization, get_args(Normalization))
        check_choice(self, "per_channel", per_channel, get_args(Reduction))
        check_choice(self, "per_layer", per_layer, get_args(Reduction))
        check_choice(self, "per_discriminator", per_discriminator, get_args(Reduction))
        self.normalization = normalization
        self.eps = eps
        self.per_channel = per_channel
        self.per_layer = per_layer
        self.per_discriminator = per_discriminator

    def forward(self, estimate_judgements: Sequence[Judgement], target_judgements: Sequence[Judgement]) -> Tensor:
        """Scalar float32 from the judgements of the same sub-discriminators, features ``(B, ...)``.

        Raises:
            ValueError: no judgement, a judgement without features, or not the same number of judgements or layers.
        """
        if not estimate_judgements:
            raise ValueError("no sub-discriminator gave a judgement")
        distances = []
        for of_estimate, of_target in zip(estimate_judgements, target_judgements, strict=True):
            if not of_estimate.features:
                raise ValueError("feature matching needs a discriminator that gives features")
            layers = zip(of_estimate.features, of_target.features, strict=True)
            distances.append(reduce_list([self._distance(*layer) for layer in layers], self.per_layer))
        return reduce_list(distances, self.per_discriminator).mean()

    def _distance(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Distance of each item ``(B,)`` in one layer."""
        if estimate.shape != target.shape:
            raise ValueError(f"features of {tuple(estimate.shape)} and {tuple(target.shape)} cannot be compared")
        reference = target.detach().float().flatten(1)
        distance = (estimate.float().flatten(1) - reference).abs().mean(-1)
        if self.normalization == "reference":
            return distance / reference.abs().mean(-1).clamp_min(self.eps)
        return distance * target.shape[1] if self.per_channel == "sum" else distance
