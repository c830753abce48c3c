"""A sensor's own noise: its stationary floor, and how much its level swings in pauses.

The floors are low quantiles over time, not the spectrum of those frames in which air is quietest: a wearer who is
silent breathes, swallows and moves, and a throat sensor hears that 3 to 15 dB above its own noise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bcfusion.data.simulation.bands import band_centres, band_weights
from bcfusion.data.simulation.frames import decibels, grid, hann, means_over_frequency, spectra

#: share of the frames in which a band counts as being at its noise floor; frames over which it is averaged before
QUIET_SHARE = 0.05
QUIET_FRAMES = 8
#: fewest frames of pause in which the swing is measured
PAUSE_FRAMES = 12


def noise_floor(power: np.ndarray, pauses: float, sample_rate: int) -> np.ndarray:
    """Return the power of stationary noise ``(F,)`` in the frames of a recording.

    A quantile of a smoothed power is below its mean, by a factor that is that of white noise.

    Args:
        power: ``(frames, F)`` over :func:`~bcfusion.data.simulation.frames.grid`.
        pauses: share of the frames that are no speech.
        sample_rate: in Hz.
    """
    quiet = np.quantile(_smoothed(power, means_over_frequency(grid(sample_rate))), QUIET_SHARE, axis=0)
    quantile = QUIET_SHARE / max(pauses, 2.0 * QUIET_SHARE)  # among the pauses
    return np.asarray(quiet / np.quantile(_smoothed_white_noise(sample_rate), quantile, axis=0))


def swing(power: np.ndarray, sample_rate: int) -> float | None:
    """Return the variance of the level in dB, beyond that of stationary noise; None: there are too few frames.

    Args:
        power: of frames of pause, none of them digitally silent, ``(frames, F)``.
        sample_rate: in Hz.
    """
    if len(power) < PAUSE_FRAMES:
        return None
    bands = band_weights(band_centres(sample_rate), grid(sample_rate)).T
    found, white = (np.var(decibels(one @ bands).mean(axis=1)) for one in (power, _white_noise(sample_rate)))
    return max(float(found - white), 0.0)


def _smoothed(power: np.ndarray, smoothing: np.ndarray) -> np.ndarray:
    """Return means of ``(frames, F)`` over frequency and over up to 8 frames."""
    count = min(QUIET_FRAMES, len(power))
    total = np.cumsum(np.concatenate([np.zeros((1, power.shape[1])), power @ smoothing.T]), axis=0)
    return np.maximum(total[count:] - total[:-count], 0.0) / count


@lru_cache(maxsize=4)
def _smoothed_white_noise(sample_rate: int) -> np.ndarray:
    """Return smoothed powers ``(frames, F)`` of 20 s of white noise, relative to their mean over time."""
    smoothed = _smoothed(_white_noise(sample_rate), means_over_frequency(grid(sample_rate)))
    return np.asarray(smoothed / smoothed.mean(axis=0))


@lru_cache(maxsize=4)
def _white_noise(sample_rate: int) -> np.ndarray:
    white = np.random.default_rng(0).standard_normal(20 * sample_rate)
    return np.asarray(np.abs(spectra(white, hann(sample_rate))) ** 2)
