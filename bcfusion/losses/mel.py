"""Loss between mel spectrograms."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from bcfusion.losses.stft import ComplexSpectrogram, Flooring, Padding, mean_over_frames, power
from bcfusion.losses.valid import valid_samples
from bcfusion.nn.mel import mel_bands, mel_filters
from bcfusion.requirements import above, one_of, require


class LogMelLoss(nn.Module):
    r"""Mean absolute difference of log mel magnitudes (Kong et al. 2020, "HiFi-GAN"), per item, then over items.

    The mean of :math:`|\ln(M|S| + \epsilon) - \ln(M|E| + \epsilon)|` over frames and bands, M being the mel filter bank
    of HiFi-GAN, see :func:`bcfusion.nn.mel.mel_filters`. Natural logarithm: a gain of 6 dB costs 0.69. Public versions
    clamp at :math:`\epsilon` instead of adding it; added, a band that is still empty in the estimate keeps a gradient.
    Frames are centred on multiples of the hop with zeros around the item; HiFi-GAN's are half a hop later, and mirror
    the signal: its public code is ``flooring="clamped", padding="reflect", between_hops=True``.

    Defaults are HiFi-GAN's, in samples at its 22.05 kHz. HiFi-GAN+ (Su et al. 2021), for bandwidth extension, uses the
    new band only: ``n_mels=128, f_min=4000``.

    Args:
        sample_rate: in Hz.
        n_fft: points of the STFT.
        hop_length: samples between frames.
        win_length: samples of the Hann window.
        n_mels: bands.
        f_min: lower edge of the lowest band, in Hz.
        f_max: upper edge of the highest band, in Hz; ``None``: half the sample rate.
        floor: mel magnitude added to each band, of a signal in [-1, 1] and a window that is not normalised; 1e-5 is
            about the quantisation noise of 16-bit audio.
        flooring: the floor is ``added``; or lesser magnitudes are ``clamped`` to it, where they have no gradient.
        padding: see :class:`bcfusion.losses.stft.ComplexSpectrogram`.
        between_hops: likewise.
        magnitude_eps: power added to each bin under the root, so that the gradient of a magnitude is finite at 0.

    Raises:
        ConfigError: an impossible STFT, band edges that are not 0 <= f_min < f_max <= sample_rate / 2, no band, bands
            so narrow that no bin falls into one, a floor or eps not above 0, or another ``flooring`` or ``padding``.
    """

    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int = 1024,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        floor: float = 1e-5,
        flooring: Flooring = "added",
        padding: Padding = "zeros",
        between_hops: bool = False,
        magnitude_eps: float = 1e-9,
    ) -> None:
        require(
            self,
            mel_bands(sample_rate, n_mels, f_min, f_max),
            above(0, floor=floor, magnitude_eps=magnitude_eps),
            one_of(get_args(Flooring), flooring=flooring),
        )
        super().__init__()
        self.stft = ComplexSpectrogram(n_fft, hop_length, win_length, padding, between_hops)
        self.floor = floor
        self.flooring = flooring
        self.magnitude_eps = magnitude_eps
        filters = mel_filters(self, sample_rate, n_fft, n_mels, f_min, f_max)
        self.register_buffer("filters", filters, persistent=False)  # (F, M)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):  # magnitudes near the floor need float32
            estimate, target, _ = valid_samples(estimate, target, lengths)
            distance = (self._log_mel(estimate) - self._log_mel(target)).abs()
            return mean_over_frames(distance, self.stft.frames(lengths)).mean()

    def _log_mel(self, signal: Tensor) -> Tensor:
        """Return the log mel spectrogram ``(B, N, M)`` of ``(B, T)``."""
        magnitude = (power(self.stft(signal)) + self.magnitude_eps).sqrt()
        mel = magnitude @ self.filters
        return (mel.clamp_min(self.floor) if self.flooring == "clamped" else mel + self.floor).log()
