"""Bands of equal width on the mel scale: what the short-time statistics of a measured sensor refer to."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

#: Hz, lower edge of the lowest band; below it there is no speech
LOWEST_EDGE = 60.0
#: width of a band on the mel scale: 40 bands up to 8 kHz
WIDTH = 67.0
#: dB about the mean power of a band to which levels are limited: further down there is only noise
LEVEL_LIMITS = (-40.0, 20.0)
TINY = 1e-20


def band_centres(sample_rate: int) -> np.ndarray:
    """Return the centres in Hz, ``(B,)``, of the bands up to half the sample rate; 40 at 16 kHz.

    The mel scale is that of O'Shaughnessy, 2595 log10(1 + f / 700 Hz).
    """
    low, high = _mel(np.array([LOWEST_EDGE, sample_rate / 2.0]))
    count = max(2, round((high - low) / WIDTH) - 1)
    return _hertz(np.linspace(low, high, count + 2)[1:-1])


def band_weights(centres: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Return the matrix ``(B, F)`` that turns a power spectrum into the mean power of each band.

    A band is a triangle from the centre of the band below it to that of the band above, and has at least one bin. A
    band with its centre above the highest frequency has weights of zero.

    Args:
        centres: ``(B,)``, ascending, B >= 2, in Hz.
        frequencies: ``(F,)``, equidistant, in Hz.
    """
    mel = _mel(centres)
    edges = _hertz(np.concatenate([[2 * mel[0] - mel[1]], mel, [2 * mel[-1] - mel[-2]]]))
    below, centre, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = np.minimum((frequencies - below) / (centre - below), (above - frequencies) / (above - centre)).clip(0.0)
    empty = weights.sum(axis=1) == 0.0
    weights[empty, np.abs(frequencies - centres[empty, None]).argmin(axis=1)] = 1.0
    weights[centres > frequencies[-1]] = 0.0
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), TINY)


@lru_cache(maxsize=16)
def band_matrices(centres: tuple[float, ...], bins: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Return ``(F, B)``, from a power spectrum to bands, and ``(B, F)``, from bands to a curve by interpolation.

    Args:
        centres: B of them, in Hz.
        bins: F, the number of equidistant frequencies from 0 to half the sample rate.
        sample_rate: in Hz.
    """
    frequencies = np.linspace(0.0, sample_rate / 2.0, bins)
    between = np.stack([np.interp(frequencies, centres, row) for row in np.eye(len(centres))])
    return (
        torch.from_numpy(band_weights(np.asarray(centres), frequencies).T).float(),
        torch.from_numpy(between).float(),
    )


def band_levels(power: Tensor, speech: Tensor) -> Tensor:
    """Return the level of each band in each frame of speech, in dB relative to the band's mean over speech.

    Args:
        power: of the bands, ``(..., frames, B)``.
        speech: 1 for a frame of speech, else 0, ``(..., frames, 1)``.

    Returns:
        ``(..., frames, B)``: of mean 0 over the frames of speech, and 0 in all other frames and in bands that are
        silent throughout.
    """
    count = speech.sum(dim=-2, keepdim=True).clamp_min(1.0)
    mean = (power * speech).sum(dim=-2, keepdim=True) / count
    level = 10.0 * torch.log10((power + TINY) / (mean + TINY))
    level = level.clamp(*LEVEL_LIMITS) * speech * (mean > TINY)
    return (level - level.sum(dim=-2, keepdim=True) / count) * speech


def frame_levels(power: Tensor, speech: Tensor) -> Tensor:
    """Return the level of each frame of speech in dB relative to the mean over speech, ``(..., frames, 1)``.

    Args:
        power: of the bands, ``(..., frames, B)``.
        speech: 1 for a frame of speech, else 0, ``(..., frames, 1)``; the level is 0 in all other frames.
    """
    total = power.sum(dim=-1, keepdim=True)
    mean = (total * speech).sum(dim=-2, keepdim=True) / speech.sum(dim=-2, keepdim=True).clamp_min(1.0)
    return (10.0 * torch.log10((total + TINY) / (mean + TINY))).clamp(*LEVEL_LIMITS) * speech


def _mel(frequency: np.ndarray) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + frequency / 700.0)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
