"""Spectra to be shaped where a sensor has none: noise, and copies of its lower band."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from bcfusion.nn.bands import Bands
from bcfusion.nn.precision import filter_tensor
from bcfusion.nn.spectral import Complex
from bcfusion.nn.stft import Window, window_samples
from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import require

#: frames after which the noise repeats: 4 s at 16 kHz and a hop of 256
_PERIOD = 256
#: energy relative to full scale, below which nothing is levelled
_SILENCE = 1e-20
#: part of the mean energy of a bin: bands that hold less are raised by no more than 60 dB
_HOLE = 1e-6


class NoiseSpectrum(StreamingModule):
    """The spectrum of white noise whose bins have a mean energy of one; the same noise in every file and every run.

    It is the STFT of a waveform that repeats after 256 hops. Neighbouring frames agree where they overlap, as those of
    a recording do. A stream keeps its position in it.

    Args:
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
    """

    table: Tensor

    def __init__(self, n_fft: int, hop_length: int, win_length: int, window: Window) -> None:
        super().__init__()
        samples = window_samples(window, win_length)
        noise = np.random.RandomState(0).standard_normal(_PERIOD * hop_length)  # a sequence that NumPy never changes
        starts = np.arange(_PERIOD)[:, None] * hop_length
        frames = noise[(starts + np.arange(win_length)) % len(noise)] * samples / math.sqrt((samples**2).sum())
        spectrum = np.fft.rfft(frames, n=n_fft)
        table = filter_tensor(np.stack([spectrum.real, spectrum.imag], axis=1))  # (frames, 2, F)
        self.register_buffer("table", table, persistent=False)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``position (B,)``, the next frame of the table."""
        return {"position": torch.zeros(batch_size, dtype=torch.int64, device=like.device)}

    def forward(self, like: Tensor) -> Complex:
        """Return the parts ``(B, F, N)`` of the next N frames, for a spectrum's part ``like (B, F, N)``."""
        start = self.recall("position") if self.is_streaming else torch.zeros_like(like[:, 0, 0], dtype=torch.int64)
        frames = (start[:, None] + torch.arange(like.shape[-1], device=like.device)) % _PERIOD
        if self.is_streaming:
            self.replace(position=(start + like.shape[-1]) % _PERIOD)
        real, imag = self.table[frames].unbind(2)  # each (B, N, F)
        return real.transpose(1, 2), imag.transpose(1, 2)


class FoldedSpectrum(nn.Module):
    """Mirror images and copies of the band below a cutoff, above it, all equally loud.

    With the cutoff c, a frequency f in [k c, (k + 1) c] is taken from (k + 1) c - f if k is odd and from f - k c if it
    is even: spectral folding as in :class:`bcfusion.generators.transposition.Transposition`, here on the bins of an
    STFT. A shift by m bins equals that of the waveform if its phase is the same in all frames, that is, if m times the
    hop is a multiple of ``n_fft``; the cutoff is held to this. Then each band is levelled: its energy per bin becomes
    the mean over the bins below the cutoff in the same frame, by 60 dB at most.

    Args:
        sample_rate: in Hz.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        cutoff_frequency: c in Hz.
        bands: those that are levelled.

    Raises:
        ConfigError: a cutoff that is not within the spectrum, or that folds with another phase in every frame.
    """

    upper: Tensor
    source: Tensor
    sign: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, cutoff_frequency: float, bands: Bands) -> None:
        step = n_fft // math.gcd(2 * hop_length, n_fft)  # bins: 2 c is shifted by a multiple of n_fft / hop_length
        place = cutoff_frequency * n_fft / sample_rate
        cutoff = round(place)
        grid = step * sample_rate / n_fft
        near = grid * max(1, min(int(place / step), (n_fft // 2 - 1) // step))
        require(
            self,
            (
                abs(place - cutoff) < 1e-6 and cutoff % step == 0 and 0 < cutoff < n_fft // 2,
                f"cutoff_frequency={cutoff_frequency:g} Hz cannot be folded on this STFT: it must be a multiple of "
                f"{grid:g} Hz below {sample_rate / 2:g} Hz, such as {near:g} Hz",
            ),
        )
        super().__init__()
        self.cutoff, self.bands = cutoff, bands
        bins = np.arange(n_fft // 2 + 1)
        copy = bins // cutoff
        mirrored = copy % 2 == 1
        upper = (bins >= cutoff).astype(float)
        self.register_buffer("upper", filter_tensor(upper[:, None]), persistent=False)
        # an image of real samples: the bins below zero are the conjugates of those above
        self.register_buffer("sign", filter_tensor(np.where(mirrored, -1.0, 1.0)[:, None]), persistent=False)
        source = torch.tensor(np.where(mirrored, (copy + 1) * cutoff - bins, bins - copy * cutoff))
        self.register_buffer("source", source, persistent=False)

    def forward(self, real: Tensor, imag: Tensor) -> Complex:
        """Return the parts ``(B, F, N)`` of the excitation, 0 below the cutoff, of a spectrum's parts ``(B, F, N)``."""
        folded = real[:, self.source] * self.upper, imag[:, self.source] * self.sign * self.upper
        energies = self.bands.energies(*folded)
        count = (self.bands.weights.T @ self.upper).clamp_min(1e-6)  # bins above the cutoff in each band
        own = self.bands.to_bins(energies / count)
        power = (real[:, : self.cutoff].square() + imag[:, : self.cutoff].square()).mean(1, keepdim=True)
        wanted = power / self.bands.full_scale**2
        factor = ((wanted + _SILENCE) / (own + _HOLE * wanted + _SILENCE)).sqrt()
        return folded[0] * factor, folded[1] * factor
