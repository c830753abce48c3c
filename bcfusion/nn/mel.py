"""Log mel spectrogram, the input of vocoders: streams and exports, and any gradient through it is finite."""

from __future__ import annotations

from typing import Any

import torch
import torchaudio.functional as F
from torch import Tensor

from bcfusion.errors import AudioError, ConfigError
from bcfusion.nn.precision import full_precision
from bcfusion.nn.spectral import magnitude
from bcfusion.nn.stft import Stft
from bcfusion.nn.streaming import StreamingModule

# Power added to each bin under the root: the gradient of a magnitude is finite at 0. HiFi-GAN's 1e-9 would lift
# silence by a fifth of the floor.
MAGNITUDE_EPS = 1e-12


class LogMel(StreamingModule):
    r"""Waveform ``(B, 1, T)`` to log mel magnitudes ``(B, n_mels, N)``, N = T / hop_length; T is whole hops.

    :math:`\ln(M|X| + \epsilon)` with the mel filter bank M of librosa, as in HiFi-GAN (Kong et al. 2020): Slaney's
    scale (linear below 1 kHz), triangles of equal area. Frame j holds the ``win_length`` samples up to the end of hop
    j, under a periodic Hann window: see :class:`bcfusion.nn.stft.Stft`. Causal.

    Args:
        sample_rate: in Hz.
        n_fft, hop_length, win_length: of the STFT, in samples.
        n_mels: bands.
        f_min: lower edge of the lowest band, in Hz.
        f_max: upper edge of the highest band, in Hz; None: half the sample rate.
        floor: mel magnitude added to each band, of a signal in [-1, 1] and a window that is not normalised; 1e-5 is
            about the quantisation noise of 16-bit audio. Silence is at ln(floor).

    Attributes:
        filters: M, ``(n_mels, F)``. bins: F = n_fft // 2 + 1. settings: the arguments, by name.

    Raises:
        ConfigError: an impossible STFT, band edges that are not 0 <= f_min < f_max <= sample_rate / 2, no band, a floor
            of 0, or bands so narrow that no bin falls into one.
    """

    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        win_length: int,
        n_mels: int,
        f_min: float = 0.0,
        f_max: float | None = None,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        highest = sample_rate / 2 if f_max is None else f_max
        problems = []
        if not 0 <= f_min < highest <= sample_rate / 2:
            problems.append(f"LogMel: f_min={f_min}, f_max={highest}: need 0 <= f_min < f_max <= {sample_rate / 2} Hz")
        if n_mels < 1:
            problems.append(f"LogMel: n_mels={n_mels} must be at least 1")
        if floor <= 0:
            problems.append(f"LogMel: floor={floor} must be above 0")
        if problems:
            raise ConfigError(problems)
        sizes = {"n_fft": n_fft, "hop_length": hop_length, "win_length": win_length, "n_mels": n_mels}
        bands = {"f_min": f_min, "f_max": f_max, "floor": floor}
        self.settings: dict[str, Any] = {"sample_rate": sample_rate, **sizes, **bands}
        self.stft = Stft(n_fft, hop_length, win_length)
        self.sample_rate, self.n_mels, self.floor = sample_rate, n_mels, floor
        self.bins = self.stft.bins
        with torch.device("cpu"):  # values are looked at, which a network built on the meta device has none of
            filters = F.melscale_fbanks(
                self.bins, f_min, highest, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
            ).T.numpy()  # (n_mels, F)
        empty = int((filters.max(axis=1) == 0).sum())
        if empty:
            raise ConfigError(
                [f"LogMel: no bin falls into {empty} of n_mels={n_mels} bands: lower n_mels or raise n_fft={n_fft}"]
            )
        with torch.inference_mode(False):
            self.register_buffer("filters", torch.tensor(filters, dtype=torch.get_default_dtype()), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """``(B, n_mels, T / hop_length)`` of ``(B, 1, T)``, as a whole file or in chunks of whole hops.

        Raises:
            AudioError: more than one channel. StreamingError: T is not a multiple of ``hop_length``.
        """
        if waveform.ndim != 3 or waveform.shape[1] != 1:
            raise AudioError(f"LogMel takes (batch, 1, time), not {tuple(waveform.shape)}")
        real, imag = self.stft(waveform)
        return self.of_magnitude(magnitude(real.squeeze(1), imag.squeeze(1), MAGNITUDE_EPS))

    def of_magnitude(self, spectrum: Tensor) -> Tensor:
        """Log mel magnitudes ``(B, n_mels, N)`` of magnitudes ``(B, F, N)``, at least 0, of this STFT."""
        with full_precision(spectrum):
            return (self.filters @ spectrum.to(self.filters.dtype) + self.floor).log()

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"sample_rate={self.sample_rate}, n_mels={self.n_mels}, floor={self.floor}"
