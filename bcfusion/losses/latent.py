"""Losses on latent variables: the distribution of variational networks, the frames of codecs."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.requirements import one_of, require

Reduction = Literal["sum", "mean"]


class KlLoss(nn.Module):
    r"""Kullback-Leibler divergence of the latent Gaussian from the standard one, in nats.

    Kingma and Welling 2014, "Auto-encoding variational Bayes", appendix B: :math:`\frac{1}{2} \sum (\mu^2 + \sigma^2 -
    \ln \sigma^2 - 1)`, per item, then the mean over items.

    :math:`\sigma^2 - 1` is computed as ``expm1(log_var)``: near the standard Gaussian, where the two terms in the
    variance nearly cancel, nothing is lost to rounding. Value and gradient are finite for ``log_var`` up to 80.

    ``lengths`` are not used, since only the network knows the rate of its latent frames: frames of padding count like
    the others.

    Args:
        reduction: over the latent dimensions of an item. ``sum``: the divergence itself, which grows with the number of
            latent frames; ``mean``: per latent dimension, the same scale for segments of any length.

    Raises:
        ConfigError: another ``reduction``.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        require(self, one_of(get_args(Reduction), reduction=reduction))
        super().__init__()
        self.reduction = reduction

    def forward(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """Return a float32 scalar, in nats, from mean and log variance of the latent variables, both ``(B, ...)``.

        Raises:
            ValueError: the shapes differ, or there is no latent dimension.
        """
        if mu.shape != log_var.shape or mu.ndim < 2:
            raise ValueError(f"mu and log_var must both be (B, ...), got {tuple(mu.shape)} and {tuple(log_var.shape)}")
        mu, log_var = mu.float().flatten(1), log_var.float().flatten(1)
        divergence = 0.5 * (mu.square() + torch.expm1(log_var) - log_var)
        per_item = divergence.sum(-1) if self.reduction == "sum" else divergence.mean(-1)
        return per_item.mean()


class LatentL1Loss(nn.Module):
    """Absolute difference of two latents, mean over an item's frames and their numbers, then over items.

    Of a codec whose encoder is taught: between what it makes of the sensor and what it made of the target before.
    """

    def forward(self, latent: Tensor, target_latent: Tensor, latent_mask: Tensor) -> Tensor:
        """Return a float32 scalar from two latents ``(B, D, N)`` and the mask ``(B, N)`` of frames that count.

        An item without frames counts as 0.

        Raises:
            ValueError: other shapes.
        """
        batch, _, frames = latent.shape
        if latent.shape != target_latent.shape or latent_mask.shape != (batch, frames):
            shapes = tuple(latent.shape), tuple(target_latent.shape), tuple(latent_mask.shape)
            raise ValueError(f"the latents must be (B, D, N), and the mask (B, N), not {shapes}")
        error = (latent.float() - target_latent.float()).abs().mean(1)
        valid = error.masked_fill(~latent_mask, 0.0).sum(-1)
        return (valid / latent_mask.sum(-1).clamp_min(1)).mean()
