"""Overlapping bands on an auditory scale: energies of bins into bands, and values of bands back to bins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.nn.stft import Window, window_samples
from bcfusion.requirements import at_least, one_of, require

Scale = Literal["mel", "erb"]

#: points per bin at which bands are integrated
_POINTS = 64


def mel(frequency: np.ndarray) -> np.ndarray:
    """Return Slaney's mel of frequencies in Hz: linear up to 1 kHz, logarithmic above."""
    above = 15.0 + 27.0 * np.log(np.maximum(frequency, 1000.0) / 1000.0) / np.log(6.4)
    return np.where(frequency < 1000.0, frequency * 3.0 / 200.0, above)


def erb(frequency: np.ndarray) -> np.ndarray:
    """Return the ERB-rate of frequencies in Hz (Glasberg & Moore 1990, eq. 4)."""
    return np.asarray(21.4 * np.log10(1.0 + 0.00437 * frequency))


SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"mel": mel, "erb": erb}


def band_weights(sample_rate: int, n_fft: int, n_bands: int, scale: Scale) -> np.ndarray:
    """Return weights ``(F, n_bands)`` that are not negative and sum to one over the bands at every bin.

    The bands are triangles on the scale, whose centres divide it into equal parts from 0 to half the sample rate; below
    the first centre and above the last one a band keeps its weight of one. A bin stands for the triangle from the bin
    below it to the one above, and its weight is the mean of the band under that triangle. So a band that is narrower
    than the distance of two bins still has its share of them.

    Args:
        sample_rate: in Hz.
        n_fft: points of the transform; F = n_fft // 2 + 1.
        n_bands: bands, at least 1.
        scale: ``mel`` or ``erb``.
    """
    bins = n_fft // 2 + 1
    offsets = (np.arange(2 * _POINTS) + 0.5) / _POINTS - 1.0  # of the points under a bin's triangle, in bins
    positions = np.arange(bins)[:, None] + offsets  # (F, points)
    share = (1.0 - np.abs(offsets)) * ((positions >= 0) & (positions <= n_fft / 2))
    highest = SCALES[scale](np.array(sample_rate / 2))
    frequencies = np.clip(positions, 0, n_fft / 2) * sample_rate / n_fft
    # on the scale, in units of the distance of two centres: those are at 0, 1 ... n_bands - 1
    place = np.clip(SCALES[scale](frequencies) / highest * (n_bands + 1) - 1.0, 0.0, n_bands - 1.0)
    weights = np.empty((bins, n_bands))
    for band in range(n_bands):
        weights[:, band] = (np.clip(1.0 - np.abs(place - band), 0.0, None) * share).sum(1)
    return np.asarray(weights / weights.sum(1, keepdims=True))


class Bands(nn.Module):
    """Energies of bands ``(..., n_bands, N)`` of a spectrogram, and values of bands interpolated to its bins.

    The energies are in units of the strongest bin of a sine at full scale. They add up to that of all bins.

    Args:
        sample_rate: in Hz.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        win_length: likewise.
        window: likewise.
        n_bands: bands; see :func:`band_weights`.
        scale: ``mel`` (Slaney's) or ``erb`` (Glasberg & Moore 1990).

    Attributes:
        weights: ``(F, n_bands)``, which sum to one over the bands.
        full_scale: largest magnitude of a sine at full scale in this STFT.

    Raises:
        ConfigError: no band, or another scale.
    """

    weights: Tensor

    def __init__(
        self, sample_rate: int, n_fft: int, win_length: int, window: Window, n_bands: int, scale: Scale = "mel"
    ) -> None:
        require(self, at_least(1, n_bands=n_bands), one_of(get_args(Scale), bands=scale))
        super().__init__()
        self.n_bands, self.scale = n_bands, scale
        self.full_scale = float(window_samples(window, win_length).sum()) / 2
        weights = filter_tensor(band_weights(sample_rate, n_fft, n_bands, scale))
        self.register_buffer("weights", weights, persistent=False)

    def energies(self, real: Tensor, imag: Tensor) -> Tensor:
        """Return ``(..., n_bands, N)`` of a spectrum's parts ``(..., F, N)``, see above."""
        with full_precision(real):
            power = ((real / self.full_scale).square() + (imag / self.full_scale).square()).to(self.weights.dtype)
            return F.linear(power.transpose(-1, -2), self.weights.T).transpose(-1, -2)

    def to_bins(self, values: Tensor) -> Tensor:
        """Return ``(..., F, N)`` interpolated from ``values (..., n_bands, N)``, constant beyond the outermost
        centres."""
        with full_precision(values):
            return F.linear(values.to(self.weights.dtype).transpose(-1, -2), self.weights).transpose(-1, -2)

    def densities(self, energies: Tensor) -> Tensor:
        """Return the energy of each bin ``(..., F, N)`` if ``energies (..., n_bands, N)`` are spread evenly over their
        bands."""
        return self.to_bins(energies / self.weights.sum(0)[:, None])

    def extra_repr(self) -> str:
        return f"n_bands={self.n_bands}, scale={self.scale}"


def log_energy(energies: Tensor) -> Tensor:
    """Return natural logarithms of energies, 200 dB below full scale at least, with a gradient at 0."""
    return (energies + 1e-20).log()
