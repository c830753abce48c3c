"""Distances between short frames of target and estimate, from which the composite measures are computed."""

from __future__ import annotations

import numpy as np

WINDOW_SECONDS = 0.03
KEPT = 0.95  # share of the frames, those with the smallest distances, that is averaged
LARGEST_PEAK_WEIGHT = 20.0  # Klatt's K_max
LOCAL_PEAK_WEIGHT = 1.0  # Klatt's K_locmax
SMALLEST_RESPONSE = 0.00148  # of a critical-band filter, about 28 dB down

# Centres and bandwidths of 25 critical bands in Hz: Klatt's filters as tabulated by Loizou, 70 Hz apart at first.
# The table ends below 3.8 kHz; wide-band speech is rated with the same bands.
BAND_CENTRES = (
    50.0, 120.0, 190.0, 260.0, 330.0, 400.0, 470.0, 540.0, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30,
    1288.72, 1442.54, 1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63,
)  # fmt: skip
BANDWIDTHS = (
    70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823,
    168.154, 183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136,
)  # fmt: skip


def windowed_frames(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return frames ``(N, W)`` of ``signal (T,)``: 30 ms under a Hann window, with a hop of a quarter.

    The last frame that would fit is left out, as in the authors' program for the composite measures: N is 0 for
    signals shorter than a frame and a quarter.
    """
    size = round(WINDOW_SECONDS * sample_rate)
    hop = size // 4
    if signal.size < size + hop:
        return np.zeros((0, size))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1))
    return np.lib.stride_tricks.sliding_window_view(signal, size)[::hop][:-1] * window


def nearest_mean(distances: np.ndarray) -> float:
    """Return the mean of the smallest 95 % of ``distances (N,)``, N >= 1, so that a few outliers have no effect."""
    kept = max(round(KEPT * distances.size), 1)
    return float(np.sort(distances)[:kept].mean())


def segmental_snr(target: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Return the signal-to-noise ratio of each frame ``(N, W)`` in dB, limited to -10 to 35: ``(N,)``."""
    noise = np.square(target - estimate).sum(axis=1)
    signal = np.square(target).sum(axis=1)
    floor = np.finfo(np.float64).tiny
    return np.clip(10 * np.log10(np.maximum(signal, floor) / np.maximum(noise, floor)), -10.0, 35.0)


def log_likelihood_ratio(target: np.ndarray, estimate: np.ndarray, order: int) -> np.ndarray:
    """Return the log-likelihood ratio of each pair of frames: ``(N,)``, not negative, 0 for equal envelopes.

    Itakura's distance between all-pole envelopes: with the linear prediction polynomials a_t of the target and a_e of
    the estimate, and the autocorrelation matrix R_t of the target's frame, ``log (a_e R_t a_e / a_t R_t a_t)``.

    Args:
        target: ``(N, W)``, no frame silent.
        estimate: ``(N, W)``.
        order: of the linear prediction.
    """
    correlation = _autocorrelation(target, order)
    of_target, of_estimate = prediction(correlation), prediction(_autocorrelation(estimate, order))
    lags = np.abs(np.subtract.outer(np.arange(order + 1), np.arange(order + 1)))
    matrices = correlation[:, lags]
    own, other = (np.einsum("ni,nij,nj->n", a, matrices, a) for a in (of_target, of_estimate))
    return np.log(np.maximum(other / own, 1.0))  # below 1 only by rounding: a_t minimises the form


def _autocorrelation(frames: np.ndarray, order: int) -> np.ndarray:
    """Return the autocorrelation ``(N, order + 1)``; a white floor of -90 dB keeps band-limited frames regular."""
    size = frames.shape[1]
    correlation = np.stack([np.sum(frames[:, lag:] * frames[:, : size - lag], axis=1) for lag in range(order + 1)], 1)
    correlation[:, 0] = correlation[:, 0] * (1 + 1e-9) + np.finfo(np.float64).tiny
    return correlation


def prediction(correlation: np.ndarray) -> np.ndarray:
    """Return linear prediction polynomials ``(N, P + 1)`` with leading 1, from autocorrelations ``(N, P + 1)``.

    It is the Levinson-Durbin recursion for all frames at once.
    """
    count, terms = correlation.shape
    polynomial = np.zeros((count, terms))
    polynomial[:, 0] = 1.0
    error = correlation[:, 0].copy()
    for step in range(1, terms):
        reflection = -np.sum(polynomial[:, :step] * correlation[:, step:0:-1], axis=1) / error
        polynomial[:, 1 : step + 1] += reflection[:, np.newaxis] * polynomial[:, step - 1 :: -1][:, :step]
        error = error * (1 - np.square(reflection))
    return polynomial


def weighted_spectral_slope(target: np.ndarray, estimate: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the weighted spectral slope distance of each pair of frames ``(N, W)``: ``(N,)``, 0 for equal spectra.

    D. Klatt, "Prediction of perceived phonetic distance from critical-band spectra", 1982: squared differences of the
    slopes between neighbouring critical bands, in dB, weighted by how close the level of a band is to the largest peak
    of its spectrum and to its nearest peak; the weights of both spectra are averaged.
    """
    filters = critical_bands(2 ** (2 * target.shape[1] - 1).bit_length(), sample_rate)
    levels = [_band_levels(frames, filters) for frames in (target, estimate)]
    slopes = [np.diff(level, axis=1) for level in levels]
    weights = sum(_peak_weights(level, slope) for level, slope in zip(levels, slopes, strict=True)) / 2
    return np.sum(weights * np.square(slopes[0] - slopes[1]), axis=1) / np.sum(weights, axis=1)


def critical_bands(n_fft: int, sample_rate: int) -> np.ndarray:
    """Return filters ``(25, n_fft // 2)``: Gaussians of equal area at the critical bands, 0 below 0.0015."""
    per_hertz = n_fft / sample_rate
    bins = np.arange(n_fft // 2)
    centres = np.floor(np.array(BAND_CENTRES) * per_hertz)[:, np.newaxis]
    widths = np.array(BANDWIDTHS)[:, np.newaxis]
    filters = np.exp(-11 * np.square((bins - centres) / (widths * per_hertz))) * (min(BANDWIDTHS) / widths)
    return np.where(filters > SMALLEST_RESPONSE, filters, 0.0)


def _band_levels(frames: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return the level of each critical band in dB, ``(N, 25)``, not below -100."""
    n_fft = 2 * filters.shape[1]
    spectrum = np.fft.rfft(frames, n_fft, axis=1)[:, :-1]
    # einsum instead of a matrix product: BLAS and its threads change the last digits
    power = np.einsum("nk,bk->nb", np.square(spectrum.real) + np.square(spectrum.imag), filters)
    return 10 * np.log10(np.maximum(power, 1e-10))


def _peak_weights(levels: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Return Klatt's weights ``(N, 24)`` of the slopes of one spectrum, from band levels ``(N, 25)`` in dB.

    The nearest peak of a band is in the direction in which the level rises. To the right, the published measure takes
    the level of the band BEFORE the peak; the coefficients of the composite measures were fitted to that, so it stays.
    """
    count = slopes.shape[1]
    nearest = np.empty_like(slopes)
    on_the_right = levels[:, count - 1]
    for position in reversed(range(count)):
        if position + 1 < count:
            climbs_on = slopes[:, position + 1] > 0
            on_the_right = np.where(climbs_on, on_the_right, levels[:, position])
        nearest[:, position] = on_the_right
    on_the_left = levels[:, 0]
    for position in range(count):
        climbs = slopes[:, position] > 0
        nearest[:, position] = np.where(climbs, nearest[:, position], on_the_left)
        on_the_left = np.where(climbs, levels[:, position + 1], on_the_left)
    below = levels[:, :-1]
    to_largest = LARGEST_PEAK_WEIGHT / (LARGEST_PEAK_WEIGHT + levels.max(axis=1, keepdims=True) - below)
    return to_largest * LOCAL_PEAK_WEIGHT / (LOCAL_PEAK_WEIGHT + nearest - below)
