"""Fit of the short-time model of a sensor to the band powers of its recordings.

The ratio of body to air in a frame is regressed on the levels of all bands of air, about the mean of each recording, so
that what differs between wearers and recordings does not matter. A ridge penalty keeps it safe with little speech; its
strength is the one that predicts best what it was not fitted to: other wearers, else other recordings of the wearer,
else other stretches of the recording. It draws the weights towards a slope over the level in the same band, so the
model is never much worse than that slope.

The sensor's own noise is subtracted from the power of body. Where body is at its noise floor, the ratio is only known
to be below a limit. To leave such frames out would make the ratio too high and its deviation too small; to take the
floor for speech would make the deviation too large. They count as censored: the expectation of the ratio, given that
it is below the limit, takes its place, by expectation maximisation of the Gaussian model (J. Tobin, "Estimation of
Relationships for Limited Dependent Variables", Econometrica 26, 1958). Where air is at its own floor the ratio counts
as unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import log_ndtr

from bcfusion.data.simulation.bands import TINY, band_levels, frame_levels
from bcfusion.data.simulation.frames import decibels
from bcfusion.data.simulation.short_time import ShortTime

logger = logging.getLogger(__name__)

#: strengths of the penalty that are tried, in dB² for each frame; the last one leaves nothing but the slopes
RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e6)
#: most folds of the validation, and most frames of the regression: beyond that, frames are skipped evenly
FOLDS, FRAMES = 8, 12000
#: fewest frames of speech in all recordings
FEWEST = 150
#: iterations of expectation maximisation
ITERATIONS = 8
#: powers of speech and noise together over that of the noise, from which on the ratio counts as known
KNOWN = 2.0
#: fewest known values of a pair of bands, or of frames, from which a correlation is computed
COUNTED = 20
#: limits of the decay: a factor of two at most over 12 dB
DECAYS = (0.0, 0.06)
#: seconds after which the residual counts as independent
MEMORY_SECONDS = 0.24


@dataclass(frozen=True)
class BandFrames:
    """The band powers of one recording, aligned.

    Attributes:
        wearer: who wore the sensor.
        air: ``(frames, B)``.
        body: ``(frames, B)``.
        speech: whether a frame is speech, ``(frames,)``.
        floors: noise powers of air and body, ``(2, B)``.
    """

    wearer: str
    air: np.ndarray
    body: np.ndarray
    speech: np.ndarray
    floors: np.ndarray


@dataclass(frozen=True)
class _Ratios:
    """Frames of speech of all recordings: levels of air and ratios in dB ``(n, B)``, and what is known of each ratio.

    ``loudness`` is the level of the frame, ``(n, 1)``. ``recording`` and ``fold`` number what a frame belongs to. A
    ratio that is neither ``known`` nor ``below`` (known to be at most the value) is unknown.
    """

    level: np.ndarray
    loudness: np.ndarray
    ratio: np.ndarray
    known: np.ndarray
    below: np.ndarray
    recording: np.ndarray
    fold: np.ndarray

    def chosen(self, which: np.ndarray) -> _Ratios:
        return _Ratios(*(value[which] for value in vars(self).values()))


def fit(recordings: Sequence[BandFrames], centres: np.ndarray, step: float) -> ShortTime | None:
    """Fit the model, or return None, with a warning, if there is too little speech.

    Args:
        recordings: of all wearers.
        centres: of the bands, ``(B,)``, in Hz.
        step: seconds from frame to frame.
    """
    total = sum(int(one.speech.sum()) for one in recordings)
    if total < FEWEST:
        logger.warning(
            "%.1f s of speech are too little to learn how the sensor follows the spectrum of air; at least %.1f s are "
            "needed. It follows the level of air in each band alone",
            total * step,
            FEWEST * step,
        )
        return None
    names, folds = _folds(recordings)
    parts = [_ratios(one, number, fold) for number, (one, fold) in enumerate(zip(recordings, folds, strict=True))]
    everything = _Ratios(
        *(np.concatenate(values) for values in zip(*(vars(part).values() for part in parts), strict=True))
    )
    few = everything.chosen(np.arange(0, len(everything.fold), -(-len(everything.fold) // FRAMES)))
    ridge, explained, by_level = _validated(few)
    weights, deviation = _regression(few, ridge)
    residual, known = _residual(everything, weights)
    decay = _decay(residual, known, everything.loudness)
    scale = np.exp(-decay * everything.loudness)
    squares = [np.sum(values**2 * known, axis=0) for values in (residual, residual / scale)]
    memory = _memory(parts, weights, decay, step)
    # to subtract a recording's mean takes away this share of the variance, at all lags
    lost = (2.0 * memory.sum() - 1.0) * len(parts) / total
    return ShortTime(
        centres,
        weights,
        deviation * np.sqrt((1.0 + lost) * squares[1] / np.maximum(squares[0], TINY)),
        decay,
        _correlation(residual / scale, known),
        (memory + lost) / (1.0 + lost),
        step,
        ridge,
        round(explained, 3),
        round(by_level, 3),
        names,
    )


def _folds(recordings: Sequence[BandFrames]) -> tuple[str, list[np.ndarray]]:
    """Return what is left out in turn, and the fold of each frame of speech of each recording."""
    wearers = list(dict.fromkeys(one.wearer for one in recordings))
    sizes = [int(one.speech.sum()) for one in recordings]
    if len(wearers) > 1:
        numbers = [wearers.index(one.wearer) % FOLDS for one in recordings]
        return "wearers", [np.full(size, number) for size, number in zip(sizes, numbers, strict=True)]
    if len(recordings) > 1:
        return "recordings", [np.full(size, number % FOLDS) for number, size in enumerate(sizes)]
    return "stretches", [np.arange(size) * FOLDS // size for size in sizes]


def _ratios(one: BandFrames, number: int, fold: np.ndarray) -> _Ratios:
    speech = torch.from_numpy(one.speech[:, None].astype(np.float64))
    level, loudness = (of(torch.from_numpy(one.air), speech).numpy()[one.speech] for of in (band_levels, frame_levels))
    air, body = one.air[one.speech], one.body[one.speech]
    heard, below = air >= KNOWN * one.floors[0], body < KNOWN * one.floors[1]
    clean = [power - floor for power, floor in zip((air, body), one.floors, strict=True)]
    reference = decibels(np.where(heard, clean[0], air))
    # a power of twice the floor leaves speech as loud as the floor: the limit of what is known to be below it
    ratio = decibels(np.where(below, (KNOWN - 1.0) * one.floors[1], clean[1])) - reference
    return _Ratios(level, loudness, ratio, heard & ~below, heard & below, np.full(len(air), number), fold)


def _validated(ratios: _Ratios) -> tuple[float, float, float]:
    """Return the best ridge and the shares of the variance explained by spectrum and by level, on frames left out."""
    left = np.zeros((len(RIDGES) + 2, ratios.ratio.shape[1]))  # squares: about the mean, of level, of each ridge
    for fold in np.unique(ratios.fold):
        rest, out = ratios.chosen(ratios.fold != fold), ratios.chosen(ratios.fold == fold)
        filled = _filled(rest, RIDGES[1])[0]
        level, ratio = _centred(rest.level, rest.recording), _centred(filled, rest.recording)
        slope = np.diag(_slope(level, ratio))
        models = [np.zeros_like(slope), slope, *(_ridge(level, ratio, ridge) for ridge in RIDGES)]
        for place, weights in enumerate(models):
            residual, known = _residual(out, weights)
            left[place] += np.sum(residual**2 * known, axis=0)
    sums = left.sum(axis=1)
    best = int(np.argmin(sums[2:]))
    explained = 1.0 - sums / max(sums[0], TINY)
    return RIDGES[best], float(explained[2 + best]), float(explained[1])


def _regression(ratios: _Ratios, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights ``(B, B)`` and the deviation ``(B,)`` of the residual."""
    filled, deviation = _filled(ratios, ridge)
    level, ratio = (_centred(values, ratios.recording) for values in (ratios.level, filled))
    return _ridge(level, ratio, ridge), deviation


def _filled(ratios: _Ratios, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Return ratios with expectations in place of those that are not known, and the deviation of the residual."""
    filled = np.where(ratios.known | ratios.below, ratios.ratio, 0.0)
    unseen = ~(ratios.known | ratios.below)
    mean = _means(filled, ratios.recording, ~unseen)
    filled = np.where(unseen, mean, filled)
    level = _centred(ratios.level, ratios.recording)
    deviation = np.maximum(np.std(filled - mean, axis=0), 0.1)
    for _ in range(ITERATIONS):
        mean = _means(filled, ratios.recording)
        expected = mean + level @ _ridge(level, filled - mean, ridge).T
        above = (ratios.ratio - expected) / deviation
        # mean and variance of a Gaussian cut off at `above`
        hazard = np.exp(-0.5 * above**2 - 0.5 * np.log(2.0 * np.pi) - log_ndtr(above))
        cut = np.clip(1.0 - above * hazard - hazard**2, 0.0, 1.0)
        spread = np.where(ratios.known, 0.0, np.where(unseen, 1.0, cut)) * deviation**2
        filled = np.where(ratios.known, ratios.ratio, np.where(unseen, expected, expected - deviation * hazard))
        deviation = np.maximum(np.sqrt(np.mean((filled - expected) ** 2 + spread, axis=0)), 0.1)
    return filled, deviation


def _ridge(level: np.ndarray, ratio: np.ndarray, ridge: float) -> np.ndarray:
    """Return ``(B, B)``, rows for bands of the ratio; the penalty draws it towards the slopes over the same band."""
    slope = _slope(level, ratio)
    penalty = ridge * len(level) * np.eye(level.shape[1])
    more = np.linalg.solve(level.T @ level + penalty, level.T @ (ratio - level * slope))
    return np.diag(slope) + more.T


def _slope(level: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    return np.asarray(np.sum(level * ratio, axis=0) / (np.sum(level**2, axis=0) + TINY))


def _means(values: np.ndarray, recording: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of the recording of each frame, ``(n, B)``, over its known values."""
    weight = np.ones_like(values) if known is None else known.astype(np.float64)
    of_each = np.zeros_like(values)
    for number in np.unique(recording):
        own = recording == number
        of_each[own] = np.sum(values[own] * weight[own], axis=0) / np.maximum(np.sum(weight[own], axis=0), 1.0)
    return of_each


def _centred(values: np.ndarray, recording: np.ndarray) -> np.ndarray:
    return values - _means(values, recording)


def _residual(ratios: _Ratios, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model leaves of the known ratios, about their mean, 0 elsewhere; and which are known."""
    left = ratios.ratio - ratios.level @ weights.T
    return (left - _means(left, ratios.recording, ratios.known)) * ratios.known, ratios.known


def _decay(residual: np.ndarray, known: np.ndarray, loudness: np.ndarray) -> np.ndarray:
    """Return by how much the logarithm of the deviation falls per dB of loudness, ``(B,)``.

    It maximises the likelihood of a Gaussian whose logarithmic variance is linear in loudness, by Fisher's scoring.
    """
    count = np.maximum(known.sum(axis=0), 1)
    loud = (loudness - np.sum(loudness * known, axis=0) / count) * known
    spread = np.maximum(np.sum(loud**2, axis=0), TINY)
    decay = np.zeros(residual.shape[1])
    for _ in range(ITERATIONS):
        squares = (residual * np.exp(decay * loud)) ** 2 * known
        excess = squares / np.maximum(squares.sum(axis=0) / count, TINY) - 1.0
        decay = (decay - 0.5 * np.sum(loud * excess, axis=0) / spread).clip(*DECAYS)
    return np.where(count >= COUNTED, decay, 0.0)


def _correlation(residual: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the correlation between bands over frames in which both are known, made positive semidefinite."""
    counts = known.T.astype(np.float64) @ known
    squares = (residual**2).T @ known  # of the row's band where the column's is known too
    found = residual.T @ residual / np.sqrt(np.maximum(squares * squares.T, TINY))
    found = np.where(counts >= COUNTED, found, 0.0)
    np.fill_diagonal(found, 1.0)
    values, vectors = np.linalg.eigh(found)
    found = vectors @ np.diag(values.clip(1e-3)) @ vectors.T
    scale = np.sqrt(np.diag(found))
    return found / np.outer(scale, scale)


def _memory(parts: Sequence[_Ratios], weights: np.ndarray, decay: np.ndarray, step: float) -> np.ndarray:
    """Return the correlation of the residual over time, a mean over bands, 0 to 0.24 s; pauses are skipped over."""
    lags = round(MEMORY_SECONDS / step) + 1
    products, squares, counts = np.zeros(lags), np.zeros(lags), np.zeros(lags)
    for part in parts:
        residual, known = _residual(part, weights)
        residual = residual * np.exp(decay * part.loudness)
        for lag in range(min(lags, len(residual))):
            both = known[lag:] * known[: len(known) - lag]
            early, late = residual[: len(residual) - lag] * both, residual[lag:] * both
            products[lag] += np.sum(early * late)
            squares[lag] += np.sqrt(np.sum(early**2) * np.sum(late**2))
            counts[lag] += np.sum(both)
    memory = np.where(counts >= COUNTED, products / np.maximum(squares, TINY), 0.0)
    memory[0] = 1.0
    return memory
