"""Distance between the discriminators' features of the estimate and of the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.losses.adversarial import Reduction, reduce_list
from bcfusion.requirements import above, one_of, require

Normalization = Literal["none", "reference", "estimate"]
NormalizedOver = Literal["item", "batch"]
PerLayer = Literal["mean", "sum", "last"]


class FeatureMatchingLoss(nn.Module):
    """Mean absolute difference of discriminator features (MelGAN, Kumar et al. 2019).

    Each layer contributes the mean over an item's features; first the layers of a sub-discriminator are averaged or
    added up, then the sub-discriminators, then items are averaged. The target's features are constants: no gradient
    flows through them. ``lengths`` are not used: past the end of an item both signals are padding, and the features
    there still see its end.

    Args:
        normalization: ``none``; or ``reference``: each layer's distance is divided by the mean magnitude of the item's
            target features in that layer (EnCodec, Defossez et al. 2022), a constant for the gradient, so that the
            scale of its features gives no layer more or less influence; or ``estimate``: by that of the estimate's
            features, through which the gradient flows (the public code of EBEN): the generator is also rewarded for
            estimates with larger features.
        normalized_over: the mean magnitude is that of the ``item``, or of the whole ``batch`` (public code of EnCodec
            and EBEN), where loud items count more than quiet ones.
        eps: least mean magnitude to divide by, for layers that do not respond to a silent target.
        per_channel: over a layer's channels, the ``mean`` (MelGAN, HiFi-GAN, EnCodec) or the ``sum`` (SEANet, eq. 4,
            whose norm is divided by time only); no difference with ``reference``, where it cancels.
        per_layer: over a sub-discriminator's layers, the ``mean`` (SEANet, EnCodec) or the ``sum`` (MelGAN, HiFi-GAN),
            which gives a sub-discriminator with more layers more influence; or ``last``, the sum over the number of
            layers that the LAST sub-discriminator has (the public code of EBEN, where the last one has 6 layers and the
            others 7).
        per_discriminator: over sub-discriminators, the ``mean`` (SEANet, EnCodec) or the ``sum`` (MelGAN, HiFi-GAN). A
            weight that was published for sums means the same here only with sums and the same discriminators.
        logits: whether the logits count as one more layer (the public code of HiFi-GAN).

    Raises:
        ConfigError: another ``normalization``, ``normalized_over``, ``per_channel``, ``per_layer`` or
            ``per_discriminator``, or ``eps`` is not above 0.
    """

    def __init__(
        self,
        normalization: Normalization = "none",
        normalized_over: NormalizedOver = "item",
        eps: float = 1e-3,
        per_channel: Reduction = "mean",
        per_layer: PerLayer = "mean",
        per_discriminator: Reduction = "mean",
        logits: bool = False,
    ) -> None:
        require(
            self,
            one_of(get_args(Normalization), normalization=normalization),
            one_of(get_args(NormalizedOver), normalized_over=normalized_over),
            one_of(get_args(Reduction), per_channel=per_channel, per_discriminator=per_discriminator),
            one_of(get_args(PerLayer), per_layer=per_layer),
            above(0, eps=eps),
        )
        super().__init__()
        self.normalization = normalization
        self.normalized_over = normalized_over
        self.eps = eps
        self.per_channel = per_channel
        self.per_layer = per_layer
        self.per_discriminator = per_discriminator
        self.logits = logits

    def forward(self, estimate_judgements: Sequence[Judgement], target_judgements: Sequence[Judgement]) -> Tensor:
        """Return a float32 scalar from the judgements of the same sub-discriminators, with features ``(B, ...)``.

        Raises:
            ValueError: no judgement, a judgement without features, or unequal numbers of judgements or layers.
        """
        if not estimate_judgements:
            raise ValueError("no sub-discriminator gave a judgement")
        distances = []
        layers_of_last = len(estimate_judgements[-1].features)
        for of_estimate, of_target in zip(estimate_judgements, target_judgements, strict=True):
            if not of_estimate.features:
                raise ValueError("feature matching needs a discriminator that gives features")
            layers = zip(of_estimate.features, of_target.features, strict=True)
            per_layer = [self._distance(*layer) for layer in layers]
            if self.logits:
                per_layer.append(self._distance(of_estimate.logits, of_target.logits))
            if self.per_layer == "last":
                distances.append(reduce_list(per_layer, "sum") / layers_of_last)
            else:
                distances.append(reduce_list(per_layer, self.per_layer))
        return reduce_list(distances, self.per_discriminator).mean()

    def _distance(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each item ``(B,)`` in one layer."""
        if estimate.shape != target.shape:
            raise ValueError(f"features of {tuple(estimate.shape)} and {tuple(target.shape)} cannot be compared")
        reference, compared = target.detach().float().flatten(1), estimate.float().flatten(1)
        distance = (compared - reference).abs().mean(-1)
        if self.normalization != "none":
            magnitude = (reference if self.normalization == "reference" else compared).abs().mean(-1)
            if self.normalized_over == "batch":
                magnitude = magnitude.mean()
            return distance / magnitude.clamp_min(self.eps)
        return distance * target.shape[1] if self.per_channel == "sum" else distance
