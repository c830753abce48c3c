"""A critic of magnitude spectrograms: it predicts the score of an estimate beside its target."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import apply_norm
from bcfusion.requirements import above, at_least, require, within

LAYERS = 4  # strided convolutions
# Power of a bin, relative to that of white noise of unit variance, below which compression is nearly linear: a root has
# no finite slope at 0.
_LEAST_POWER = 1e-6
_LEAST_RMS = 1e-4  # of a target, re full scale: a quieter one is not raised to unit level


class MagnitudeCritic(nn.Module):
    r"""Predict a normalised score of an estimate from two compressed magnitude spectrograms, estimate and target.

    The discriminator of MetricGAN (Fu et al. 2019, 2021) in the form of CMGAN (Cao et al. 2022) and MP-SENet (Lu et al.
    2023): four strided 2-D convolutions of 4 x 4 with instance norm and PReLU, whose channels double, the mean over
    time and frequency, two dense layers, and a sigmoid with a learnable slope. Convolutions and dense layers are under
    spectral norm.

    Both signals are divided by the RMS of the target, so that the score depends on the level of the estimate relative
    to the target, and on nothing absolute. 181,650 parameters with the defaults.

    Args:
        channels: of the first convolution.
        n_fft: samples of the Hann window and of the transform.
        hop_length: samples between frames.
        compression: exponent of the magnitudes.

    Attributes:
        least_samples: length of the shortest signal that it can judge.

    Raises:
        ConfigError: sizes below one, fewer than 64 points of the transform, a hop longer than the window, or a
            compression outside of (0, 1].
    """

    window: Tensor

    def __init__(self, channels: int = 16, n_fft: int = 512, hop_length: int = 128, compression: float = 0.3) -> None:
        require(
            self,
            at_least(1, channels=channels, hop_length=hop_length),
            # the last layer gives two bins then, and an instance norm in training needs more than one value
            at_least(2 ** (LAYERS + 2), n_fft=n_fft),
            (hop_length <= n_fft, f"hop_length={hop_length} must be at most n_fft={n_fft}"),
            above(0, compression=compression),
            within(0, 1, compression=compression),
        )
        super().__init__()
        self.n_fft, self.hop_length, self.compression = n_fft, hop_length, compression
        self.least_samples = n_fft + 2**LAYERS * hop_length
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / torch.linalg.vector_norm(window), persistent=False)
        widths = [2, *(channels * 2**layer for layer in range(LAYERS))]
        convolutions: list[nn.Module] = []
        for before, width in pairwise(widths):
            conv = nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False)
            apply_norm(conv, "spectral_norm")
            convolutions += [conv, nn.InstanceNorm2d(width, affine=True), nn.PReLU(width)]
        self.convolutions = nn.Sequential(*convolutions)
        hidden, score = nn.Linear(widths[-1], widths[-1] // 2 or 1), nn.Linear(widths[-1] // 2 or 1, 1)
        apply_norm(hidden, "spectral_norm")
        apply_norm(score, "spectral_norm")
        self.head = nn.Sequential(hidden, nn.PReLU(hidden.out_features), score)
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Return the predicted scores ``(B,)``, float32 in (0, 1), of ``estimate`` and ``target (B, 1, T)``.

        Raises:
            ValueError: the signals are shorter than ``least_samples``, or their shapes differ.
        """
        if estimate.shape != target.shape or estimate.shape[-1] < self.least_samples:
            raise ValueError(
                f"a critic judges two signals (B, 1, T) with T >= {self.least_samples}, not {tuple(estimate.shape)} "
                f"and {tuple(target.shape)}"
            )
        with torch.autocast(estimate.device.type, enabled=False):  # a half-precision FFT loses the quiet bins
            level = target.float().square().mean((1, 2), keepdim=True).sqrt().clamp_min(_LEAST_RMS)
            signals = torch.cat([estimate.float() / level, target.float() / level], dim=1)
        hidden = self.convolutions(self._spectrograms(signals)).mean((2, 3))
        return torch.sigmoid(self.slope * self.head(hidden).squeeze(1).float())

    def _spectrograms(self, signals: Tensor) -> Tensor:
        """Return the compressed magnitudes ``(B, 2, F, frames)`` of ``(B, 2, T)``."""
        with torch.autocast(signals.device.type, enabled=False):
            half = self.n_fft // 2
            frames = F.pad(signals, (half, self.n_fft - half)).unfold(-1, self.n_fft, self.hop_length)
            spectrum = torch.fft.rfft(frames * self.window)
            power = spectrum.real.square() + spectrum.imag.square()
            return (power + _LEAST_POWER).pow(self.compression / 2).transpose(2, 3)
