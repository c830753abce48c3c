"""Log mel spectrogram, the input of vocoders: it streams and exports, and every gradient through it is finite."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor

from bcfusion.errors import AudioError
from bcfusion.nn.padding import pad
from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.nn.spectral import magnitude
from bcfusion.nn.stft import Stft
from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import above, at_least, require

# Power added to each bin under the root, so that the gradient of a magnitude is finite at 0. HiFi-GAN's 1e-9 would
# lift silence by a fifth of the floor.
MAGNITUDE_EPS = 1e-12


def mel_bands(sample_rate: int, n_mels: int, f_min: float, f_max: float | None) -> list[str]:
    """Return a message, for ``require``, for each rule that the bands of a mel filter bank break."""
    highest = sample_rate / 2 if f_max is None else f_max
    ordered = 0 <= f_min < highest <= sample_rate / 2
    edges = [] if ordered else [f"f_min={f_min}, f_max={highest} must be 0 <= f_min < f_max <= {sample_rate / 2} Hz"]
    return edges + at_least(1, n_mels=n_mels)


def mel_filters(
    owner: object, sample_rate: int, n_fft: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None
) -> Tensor:
    """Return librosa's mel filter bank ``(F, n_mels)``: Slaney's scale (linear below 1 kHz), triangles of equal area.

    Args:
        owner: whose arguments the others are, for error messages.
        sample_rate: in Hz.
        n_fft: points of the transform; F = n_fft // 2 + 1.
        n_mels: bands.
        f_min: lower edge of the lowest band, in Hz.
        f_max: upper edge of the highest band, in Hz; None: half the sample rate.

    Raises:
        ConfigError: bands so narrow that no bin falls into one.
    """
    highest = sample_rate / 2 if f_max is None else f_max
    with torch.device("cpu"):  # the values are needed here, which a network built on the meta device does not have
        filters = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, f_min, highest, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
    empty = int((filters.amax(0) == 0).sum())
    require(
        owner, (not empty, f"no bin falls into {empty} of n_mels={n_mels} bands: lower n_mels or raise n_fft={n_fft}")
    )
    return filters


class LogMel(StreamingModule):
    r"""Waveform ``(B, 1, T)`` to log mel magnitudes ``(B, n_mels, N)``, N = T / hop_length; T is a multiple of the hop.

    :math:`\ln(M|X| + \epsilon)` with the mel filter bank M of :func:`mel_filters`, as in HiFi-GAN (Kong et al. 2020).
    Frame j holds the ``win_length`` samples up to the end of hop j, under a periodic Hann window: see
    :class:`bcfusion.nn.stft.Stft`. Causal.

    Args:
        sample_rate: in Hz.
        n_fft: of the STFT, in samples.
        hop_length: likewise.
        win_length: likewise.
        n_mels: bands.
        f_min: lower edge of the lowest band, in Hz.
        f_max: upper edge of the highest band, in Hz; None: half the sample rate.
        floor: mel magnitude added to each band, of a signal in [-1, 1] and a window that is not normalised; 1e-5 is
            about the quantisation noise of 16-bit audio. Silence is at ln(floor).

    Attributes:
        filters: M, ``(n_mels, F)``.
        bins: F = n_fft // 2 + 1.
        settings: the arguments, by name.

    Raises:
        ConfigError: an impossible STFT, band edges that are not 0 <= f_min < f_max <= sample_rate / 2, no band, bands
            so narrow that no bin falls into one, or a floor that is not above 0.
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
        require(self, mel_bands(sample_rate, n_mels, f_min, f_max), above(0, floor=floor))
        super().__init__()
        sizes = {"n_fft": n_fft, "hop_length": hop_length, "win_length": win_length, "n_mels": n_mels}
        bands = {"f_min": f_min, "f_max": f_max, "floor": floor}
        self.settings: dict[str, Any] = {"sample_rate": sample_rate, **sizes, **bands}
        self.stft = Stft(n_fft, hop_length, win_length)
        self.sample_rate, self.n_mels, self.floor = sample_rate, n_mels, floor
        self.bins = self.stft.bins
        filters = mel_filters(self, sample_rate, n_fft, n_mels, f_min, f_max).T.numpy()
        self.register_buffer("filters", filter_tensor(filters), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return ``(B, n_mels, T / hop_length)`` of ``(B, 1, T)``, a whole file or a chunk, of whole hops.

        Raises:
            AudioError: more than one channel.
            StreamingError: T is not a multiple of ``hop_length``.
        """
        if waveform.ndim != 3 or waveform.shape[1] != 1:
            raise AudioError(f"LogMel takes (batch, 1, time), not {tuple(waveform.shape)}")
        real, imag = self.stft(waveform)
        return self.of_magnitude(magnitude(real.squeeze(1), imag.squeeze(1), MAGNITUDE_EPS))

    def mirrored(self, waveform: Tensor, edge: int, eps: float) -> Tensor:
        """Return log mel magnitudes as HiFi-GAN's code computes them: ``ln(max(M sqrt(|X|^2 + eps), floor))``.

        Frame j holds the ``win_length`` samples from ``j hop_length - edge`` on. For whole files.

        Args:
            waveform: ``(B, 1, T)``, T a multiple of the hop.
            edge: samples by which the file is continued at either end by its mirror image.
            eps: power added to each bin.

        Returns:
            ``(B, n_mels, T / hop_length)`` if ``win_length - hop_length`` is twice ``edge``.
        """
        kernel = self.stft.kernel
        with full_precision(waveform):
            x = pad(waveform, edge, edge, "reflect").to(kernel.dtype)
            real, imag = F.conv1d(x, kernel, stride=self.stft.hop_length).chunk(2, dim=1)
            return (self.filters @ magnitude(real, imag, eps)).clamp_min(self.floor).log()

    def of_magnitude(self, spectrum: Tensor) -> Tensor:
        """Return log mel magnitudes ``(B, n_mels, N)`` of non-negative magnitudes ``(B, F, N)`` of this STFT."""
        with full_precision(spectrum):
            return (self.filters @ spectrum.to(self.filters.dtype) + self.floor).log()

    def extra_repr(self) -> str:
        return f"sample_rate={self.sample_rate}, n_mels={self.n_mels}, floor={self.floor}"
