"""Loss between mel spectrograms."""

from __future__ import annotations

import torch
import torchaudio.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.losses.stft import Stft, mean_over_frames, power
from bcfusion.losses.valid import valid_samples

# Power added to each bin under the root, as in HiFi-GAN: the gradient of a magnitude is finite at 0.
MAGNITUDE_EPS = 1e-9


class LogMelLoss(nn.Module):
    r"""Mean absolute difference of log mel magnitudes (Kong et al. 2020, "HiFi-GAN"), per item, then over items.

    The mean of :math:`|\ln(M|S| + \epsilon) - \ln(M|E| + \epsilon)|` over frames and bands, where M is the mel filter
    bank of librosa that HiFi-GAN uses: Slaney's scale (linear below 1 kHz), triangles of equal area. Natural
    logarithm: a gain of 6 dB costs 0.69. Public versions clamp at :math:`\epsilon` instead of adding it; added, a band
    that is still empty in the estimate keeps a gradient. Frames are centred on multiples of the hop with zeros around
    the item, where HiFi-GAN's stand half a hop later and reflect the signal.

    Defaults are HiFi-GAN's, in samples at its 22.05 kHz. HiFi-GAN+ (Su et al. 2021), for bandwidth extension, listens
    to the new band alone: ``n_mels=128, f_min=4000``.

    Args:
        sample_rate: in Hz.
        n_fft: points of the STFT. hop_length: samples between frames. win_length: samples of the Hann window.
        n_mels: bands.
        f_min: lower edge of the lowest band, in Hz.
        f_max: upper edge of the highest band, in Hz; ``None``: half the sample rate.
        floor: mel magnitude added to each band, of a signal in [-1, 1] and a window that is not normalised; 1e-5 is
            about the quantisation noise of 16-bit audio.

    Raises:
        ConfigError: an impossible STFT, band edges that are not 0 <= f_min < f_max <= sample_rate / 2, a floor of 0, or
            bands so narrow that no bin falls into one.
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
    ) -> None:
        super().__init__()
        highest = sample_rate / 2 if f_max is None else f_max
        problems = []
        if not 0 <= f_min < highest <= sample_rate / 2:
            problems.append(
                f"LogMelLoss: f_min={f_min}, f_max={highest}: need 0 <= f_min < f_max <= {sample_rate / 2} Hz"
            )
        if n_mels < 1:
            problems.append(f"LogMelLoss: n_mels={n_mels} must be at least 1")
        if floor <= 0:
            problems.append(f"LogMelLoss: floor={floor} must be above 0")
        if problems:
            raise ConfigError(problems)
        self.stft = Stft(n_fft, hop_length, win_length)
        self.floor = floor
        filters = F.melscale_fbanks(
            n_fft // 2 + 1, f_min, highest, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )  # (F, M)
        empty = int((filters.amax(0) == 0).sum())
        if empty:
            raise ConfigError(
                [f"LogMelLoss: no bin falls into {empty} of n_mels={n_mels} bands: lower n_mels or raise n_fft={n_fft}"]
            )
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Scalar float32 from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: shapes other than these.
        """
        with torch.autocast(estimate.device.type, enabled=False):  # magnitudes near the floor need float32
            estimate, target, _ = valid_samples(estimate, target, lengths)
            distance = (self._log_mel(estimate) - self._log_mel(target)).abs()
            return mean_over_frames(distance, self.stft.frames(lengths)).mean()

    def _log_mel(self, signal: Tensor) -> Tensor:
        """Log mel spectrogram ``(B, N, M)`` of ``(B, T)``."""
        magnitude = (power(self.stft(signal)) + MAGNITUDE_EPS).sqrt()
        return (magnitude @ self.filters + self.floor).log()
