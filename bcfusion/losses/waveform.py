"""Losses between waveforms: mean absolute and squared error, its root, signal-to-noise ratios."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.losses.valid import valid_samples
from bcfusion.requirements import above, is_number, require, within


class L1Loss(nn.Module):
    """Mean absolute error over an item's valid samples, then over items: a short item counts as much as a long one.

    With pre-emphasis it is the error of :math:`y_n = x_n - a x_{n-1}` (:math:`x_{-1} = 0`) of both signals. Speech
    falls by 6 to 12 dB per octave, so that the plain error is nearly all below 1 kHz, where a body sensor needs the
    least help; a = 0.95 compensates for most of that.

    Args:
        pre_emphasis: a, in [0, 1); 0 is the plain error.

    Raises:
        ConfigError: ``pre_emphasis`` is out of range.
    """

    def __init__(self, pre_emphasis: float = 0.0) -> None:
        require(
            self,
            (
                is_number(pre_emphasis) and 0.0 <= pre_emphasis < 1.0,
                f"pre_emphasis={pre_emphasis} must be at least 0 and below 1",
            ),
        )
        super().__init__()
        self.pre_emphasis = pre_emphasis

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        estimate, target, valid = valid_samples(estimate, target, lengths)
        error = estimate - target
        if self.pre_emphasis:  # linear, so that the filtered error is the error of the filtered signals
            error = error - self.pre_emphasis * F.pad(error, (1, 0))[..., :-1]
            error = error.masked_fill(~valid, 0.0)  # the sample after the last one still depends on it
        return (error.abs().sum(-1) / lengths.clamp_min(1)).mean()


class MseLoss(nn.Module):
    """Mean squared error over an item's valid samples, then over items: the power of the error, relative to full scale.

    As a square it is dominated by the loudest vowels; the mean absolute error spreads over more of the speech.
    """

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        estimate, target, _ = valid_samples(estimate, target, lengths)
        return ((estimate - target).square().sum(-1) / lengths.clamp_min(1)).mean()


class RmseLoss(nn.Module):
    """Root of the mean squared error over an item's valid samples, then the mean over items.

    Birnbaum et al. 2019, "Temporal FiLM", as in its public code. The root makes items of all levels count alike in the
    gradient, which has the same norm however small the error is; at an error of exactly 0 it is 0.
    """

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        estimate, target, _ = valid_samples(estimate, target, lengths)
        # vector_norm, unlike the root of a sum of squares, has a gradient of 0 at 0
        return (torch.linalg.vector_norm(estimate - target, dim=-1) / lengths.clamp_min(1).sqrt()).mean()


class SnrLoss(nn.Module):
    r"""Negative signal-to-noise ratio in dB, :math:`-10 \log_{10} ((P_s + \epsilon) / (P_{e-s} + \epsilon))`.

    P is the mean power over an item's valid samples; the mean over items is returned. Unlike
    :class:`SiSnrLoss` it depends on the level of the estimate: DPCRN (Le et al. 2021) is trained with it. An item whose
    target is silent has no ratio: it counts as 0 dB and has no gradient.

    Args:
        eps: regularising power, relative to full scale.
        silence_db: RMS level in dBFS at or below which a target is silence.

    Raises:
        ConfigError: ``eps`` is not above 0, or ``silence_db`` not from -300 to 0.
    """

    def __init__(self, eps: float = 1e-8, silence_db: float = -60.0) -> None:
        require(self, above(0, eps=eps), within(-300, 0, silence_db=silence_db))
        super().__init__()
        self.eps = eps
        self.silence_power = 10.0 ** (silence_db / 10.0)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar, in dB, from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        estimate, target, _ = valid_samples(estimate, target, lengths)
        count = lengths.clamp_min(1)
        target_power = target.square().sum(-1) / count
        noise_power = (estimate - target).square().sum(-1) / count
        decibels = 10.0 * (torch.log10(noise_power + self.eps) - torch.log10(target_power + self.eps))
        return torch.where(target_power <= self.silence_power, 0.0, decibels).mean()  # NaN is not silence


class SiSnrLoss(nn.Module):
    r"""Negative scale-invariant signal-to-noise ratio in dB (Le Roux et al. 2019, "SDR - half-baked or well done?").

    With the target scaled to the estimate, :math:`p = s \langle e, s \rangle / \|s\|^2`, an item's loss is :math:`-10
    \log_{10} ((P_p + \epsilon) / (P_{e-p} + \epsilon))`, P being the mean power over valid samples.

    The ratio is meaningless for a silent target, to which every estimate is orthogonal: such an item counts as 0 dB and
    has no gradient, and silence is left to the other losses. A silent estimate of an audible target is 0 dB as well.

    Args:
        zero_mean: remove each signal's own mean first (SI-SNR); without it a constant offset counts as noise (SI-SDR).
        eps: regularising power, relative to full scale. It bounds the loss at the power of the target over ``eps`` (-54
            dB for speech at -26 dBFS) and the gradient of a nearly perfect or nearly silent estimate.
        silence_db: RMS level in dBFS at or below which a target is silence.

    Raises:
        ConfigError: ``eps`` is not above 0, or ``silence_db`` not from -300 to 0.
    """

    def __init__(self, zero_mean: bool = True, eps: float = 1e-8, silence_db: float = -60.0) -> None:
        require(self, above(0, eps=eps), within(-300, 0, silence_db=silence_db))
        super().__init__()
        self.zero_mean = zero_mean
        self.eps = eps
        self.silence_power = 10.0 ** (silence_db / 10.0)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar, in dB, from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        estimate, target, valid = valid_samples(estimate, target, lengths)
        count = lengths.clamp_min(1)[:, None]
        if self.zero_mean:
            estimate = (estimate - estimate.sum(-1, keepdim=True) / count).masked_fill(~valid, 0.0)
            target = (target - target.sum(-1, keepdim=True) / count).masked_fill(~valid, 0.0)
        target_power = target.square().sum(-1, keepdim=True) / count
        # Items below the clamp are silent and are dropped at the end: the gain of all others is exact.
        gain = (estimate * target).sum(-1, keepdim=True) / count / target_power.clamp_min(self.silence_power)
        projection_power = gain.square() * target_power
        noise_power = (estimate - gain * target).square().sum(-1, keepdim=True) / count
        decibels = 10.0 * (torch.log10(noise_power + self.eps) - torch.log10(projection_power + self.eps))
        return torch.where(target_power <= self.silence_power, 0.0, decibels).mean()  # NaN is not silence
