"""Measurement of a sensor's response on recorded pairs of body and air.

The H1 estimate, cross spectrum over the air's power spectrum, is the best linear response if everything that does not
fit is noise. For a body sensor that is not so: on eight real pairs of a throat and a headset microphone the coherence
is 0.5 to 0.8 below 500 Hz, but 0.1 to 0.4 from 1 to 6 kHz, although the throat's speech is 20 to 35 dB above its own
noise there. The incoherent part is speech on another path, through tissue, with a response that changes from sound to
sound. H1 lacks it and is 2 to 10 dB too low. The ratio of the powers, with noise floors subtracted, includes it. So the
response is a blend of the two in decibels, weighted by coherence: H1, which is unaffected by noise, where the signals
are coherent, and the ratio where they are not. H1 is -10 log10(coherence) below the ratio, so the blend is at most
1.6 dB below it. When long-term spectra of four pairs are predicted from the four others, the mean error per band is
2.7 dB with H1 and 2.3 dB with the blend.

How the response changes from sound to sound is measured too, on short-time spectra smoothed over frequency: the ratio
of body to air in a frame deviates by 5 to 11 dB, part of which is explained by the level of air (the slope), and more
by its whole spectrum (:mod:`bcfusion.data.simulation.short_time_fit`).

The noise floors are low quantiles over time, not the spectrum of those frames in which air is quietest: a wearer who is
silent breathes, swallows and moves, and a throat sensor hears that 3 to 15 dB above its own noise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from bcfusion.audio.level import active_level
from bcfusion.data.simulation.bands import band_centres, band_weights
from bcfusion.data.simulation.calibration import Calibration, Response
from bcfusion.data.simulation.short_time_fit import BandFrames, fit
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

#: length of a frame in seconds, and how many frames overlap at each sample
FRAME_SECONDS = 0.032
OVERLAP = 4
#: fewest frames of a recording that is measured
FRAMES = 16
#: a frame counts as speech if it is at most this many dB below the loudest frame of air
ACTIVE_RANGE = 35.0
#: share of the frames in which a band counts as being at its noise floor; frames over which it is averaged before
QUIET_SHARE = 0.05
QUIET_FRAMES = 8
#: frames on either side of speech that do not count as a pause, and the fewest of a pause that is measured
NEAR_SPEECH = 8
PAUSE_FRAMES = 12
#: octaves, standard deviation of the smoothing over frequency
SMOOTHING = 1.0 / 6.0
#: Hz below which the response is held constant: there is no speech there
LOWEST = 50.0
#: smallest share of a power that remains after its noise floor is subtracted: at most 10 dB of suppression
LEFT = 0.1
#: dB by which a frame's band must exceed the floor, in both signals, to count in the short-time ratio
CLEAR = 6.0
#: fewest frames for a deviation to be computed
COUNTED = 20
#: limits of a slope: at -1 body would be independent of air, nothing but its noise floor
SLOPES = (-0.8, 0.0)
#: smallest power, to avoid the logarithm of 0; far below the rounding noise of 16 bits
TINY = 1e-20


@dataclass(frozen=True)
class Pair:
    """One recording: ``body (T,)`` and ``air (T,)``, aligned and of equal polarity.

    ``lag`` in seconds and ``polarity`` are those of the original recording, already removed.
    """

    id: str
    body: np.ndarray
    air: np.ndarray
    lag: float = 0.0
    polarity: int = 1


def grid(sample_rate: int) -> np.ndarray:
    """Return the frequencies in Hz, ``(F,)``, at which responses are measured at a sample rate."""
    return np.fft.rfftfreq(_frame(sample_rate), 1.0 / sample_rate)


def calibrate(sensor: str, wearers: Iterable[tuple[str, Iterable[Pair]]], sample_rate: int) -> Calibration:
    """Measure a sensor on recordings of one or more wearers.

    A wearer of whom nothing can be measured is left out with a warning.

    Args:
        sensor: its name.
        wearers: each with an identity and recordings, consumed one at a time as in :func:`measure`.
        sample_rate: of all pairs, in Hz.

    Raises:
        DataError: no wearer can be measured.
    """
    responses: list[Response] = []
    frames: list[BandFrames] = []
    for identity, pairs in wearers:
        try:
            responses.append(measure(identity, pairs, sample_rate, frames))
        except DataError as error:
            logger.warning("%s is left out: %s", identity, error)
    if not responses:
        raise DataError("no recording could be measured; see the warnings")
    step = (_frame(sample_rate) // OVERLAP) / sample_rate
    short_time = fit(frames, band_centres(sample_rate), step)
    return Calibration(sensor, sample_rate, grid(sample_rate), tuple(responses), short_time)


def measure(identity: str, pairs: Iterable[Pair], sample_rate: int, frames: list[BandFrames] | None = None) -> Response:
    """Measure one wearer's response on all recordings of the wearer.

    Args:
        identity: of the wearer.
        pairs: consumed one at a time; only sums are kept. A pair that is shorter than 16 frames (about 0.15 s), or in
            which a signal is silent, is left out with a warning.
        sample_rate: of all pairs, in Hz.
        frames: where the band powers of each recording are appended, for the fit of the short-time model.

    Raises:
        DataError: no pair can be measured; states the problem of the last one.
    """
    sums = _Sums(sample_rate)
    problem = DataError(f"{identity}: no recording")
    for pair in pairs:
        try:
            found = sums.add(pair)
        except DataError as error:
            problem = error
            logger.warning("%s; it is left out", error)
            continue
        if frames is not None:
            frames.append(BandFrames(identity, *found))
    if not sums.seen:
        raise problem
    return sums.response(identity)


@dataclass
class _Sums:
    """Sums over the frames of speech of a wearer's recordings, each recording relative to the level of its air."""

    sample_rate: int
    air: np.ndarray = field(init=False)
    body: np.ndarray = field(init=False)
    cross: np.ndarray = field(init=False)
    floors: np.ndarray = field(init=False)  # of air and body
    # of the short-time ratio y against the level x of air, in dB, about the means of a recording: count, xx, xy, yy
    moments: np.ndarray = field(init=False)
    frames: int = 0
    seen: list[Pair] = field(default_factory=list)
    swings: list[tuple[int, float]] = field(default_factory=list)  # frames of pause, variance of their level in dB

    def __post_init__(self) -> None:
        bins = len(grid(self.sample_rate))
        self.window = np.hanning(_frame(self.sample_rate) + 1)[:-1]
        self.smoothing = _smoothing(grid(self.sample_rate))
        self.bands = band_weights(band_centres(self.sample_rate), grid(self.sample_rate))
        self.air, self.body, self.cross = np.zeros(bins), np.zeros(bins), np.zeros(bins, dtype=np.complex128)
        self.floors, self.moments = np.zeros((2, bins)), np.zeros((4, bins))

    def add(self, pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Add a recording; return its bands of air and body, which frames are speech, and the bands' floors."""
        level = active_level(torch.from_numpy(pair.air)[None], self.sample_rate)
        if len(pair.air) < len(self.window) * (1 + FRAMES / OVERLAP) or level == 0.0 or not pair.body.any():
            seconds = len(pair.air) / self.sample_rate
            raise DataError(f"{pair.id}: {seconds:.2f} s of body and air are too short, or one is silent")
        air, body = (_spectra(signal / level, self.window) for signal in (pair.air, pair.body))
        energy = np.sum(np.abs(air) ** 2, axis=1)
        speech = energy > energy.max() * 10.0 ** (-ACTIVE_RANGE / 10.0)
        every = [np.abs(frames) ** 2 for frames in (air, body)]
        powers = [power[speech] for power in every]
        pause = ~(np.convolve(speech, np.ones(2 * NEAR_SPEECH + 1), "same") > 0.0)
        floors = [self._floor(power, float(pause.mean())) for power in every]
        self._pause(every[1][pause], floors[1])
        self.air += powers[0].sum(axis=0)
        self.body += powers[1].sum(axis=0)
        self.cross += np.sum(air[speech].conj() * body[speech], axis=0)
        self.floors += len(powers[0]) * np.stack(floors)
        bands = [power @ self.smoothing.T for power in powers]
        limits = [self.smoothing @ floor * 10.0 ** (CLEAR / 10.0) for floor in floors]
        clear = (bands[0] > limits[0]) & (bands[1] > limits[1])
        self.moments += _moments(_decibels(bands[0]), _decibels(bands[1]) - _decibels(bands[0]), clear)
        self.frames += len(powers[0])
        self.seen.append(Pair(pair.id, pair.body[:0], pair.air[:0], pair.lag, pair.polarity))
        of_bands = [power @ self.bands.T for power in every]
        return of_bands[0], of_bands[1], speech, np.stack([self.bands @ floor for floor in floors])

    def _floor(self, power: np.ndarray, pauses: float) -> np.ndarray:
        """Return the power of stationary noise ``(F,)`` in ``power (frames, F)``, given the share of the pauses.

        A quantile of a smoothed power is below its mean, by a factor that is that of white noise.
        """
        quiet = np.quantile(_smoothed(power, self.smoothing), QUIET_SHARE, axis=0)
        quantile = QUIET_SHARE / max(pauses, 2.0 * QUIET_SHARE)  # among the pauses
        return quiet / np.quantile(_smoothed_white_noise(self.sample_rate), quantile, axis=0)

    def _pause(self, power: np.ndarray, floor: np.ndarray) -> None:
        """Add how the level in pauses, ``(frames, F)``, swings more than that of stationary noise ``(F,)``."""
        if len(power) < PAUSE_FRAMES:
            return
        levels = _decibels((power @ self.bands.T) / (self.bands @ floor)).mean(axis=1)
        white = _decibels(_white_noise(self.sample_rate) @ self.bands.T).mean(axis=1)
        self.swings.append((len(power), max(float(np.var(levels) - np.var(white)), 0.0)))

    def response(self, identity: str) -> Response:
        coherence = np.abs(self.cross) ** 2 / np.maximum(self.air * self.body, TINY)
        h1 = _decibels(np.abs(self.cross) ** 2) - 2.0 * _decibels(self.air)
        body, air = (
            _above(*pair, self.smoothing) for pair in ((self.body, self.floors[1]), (self.air, self.floors[0]))
        )
        ratio = _decibels(body) - _decibels(air)
        # a bin of H1 has the relative variance (1 - coherence) / (2 n coherence): its inverse is the bin's weight
        weight = np.clip(coherence / np.maximum(1.0 - coherence, TINY), 1e-2, 1e2)
        h1 = self._held(self.smoothing @ (weight * h1) / (self.smoothing @ weight))
        ratio = self._held(ratio)
        coherence = self._held(self.smoothing @ coherence)
        deviation, slope, residual = self._short_time()
        density = 2.0 * self.floors[1] / self.frames / (np.sum(self.window**2) * self.sample_rate)
        counts, variances = np.array(self.swings or [(1, 0.0)]).T
        return Response(
            id=identity,
            recordings=tuple(pair.id for pair in self.seen),
            seconds=round(self.frames * len(self.window) / OVERLAP / self.sample_rate, 2),
            lag=round(float(np.median([pair.lag for pair in self.seen])), 6),
            polarity=1 if sum(pair.polarity for pair in self.seen) >= 0 else -1,
            level_ratio=round(float(10.0 * np.log10(self.body.sum() / self.air.sum())), 2),
            response_db=coherence * h1 + (1.0 - coherence) * ratio,
            h1_db=h1,
            ratio_db=ratio,
            coherence=coherence,
            deviation_db=self._held(deviation),
            slope=self._held(slope),
            residual_db=self._held(residual),
            noise_db=self._held(self.smoothing @ _decibels(density)),
            noise_swing_db=round(float(np.sqrt(np.sum(counts * variances) / np.sum(counts))), 2),
        )

    def _short_time(self) -> np.ndarray:
        """Return deviation, slope and residual, ``(3, F)``; bins that are rarely clear are interpolated."""
        count, xx, xy, yy = self.moments
        known = np.flatnonzero(count >= COUNTED)
        if not len(known):
            return np.zeros((3, len(count)))
        slope = np.clip(xy / np.maximum(xx, TINY), *SLOPES)
        left = yy - 2.0 * slope * xy + slope**2 * xx
        curves = [np.sqrt(yy / np.maximum(count, 1.0)), slope, np.sqrt(np.maximum(left, 0.0) / np.maximum(count, 1.0))]
        every = np.arange(len(count))
        return np.stack([self.smoothing @ np.interp(every, known, curve[known]) for curve in curves])

    def _held(self, curve: np.ndarray) -> np.ndarray:
        lowest = int(np.searchsorted(grid(self.sample_rate), LOWEST))
        return np.concatenate([np.full(lowest, curve[lowest]), curve[lowest:]])


def _frame(sample_rate: int) -> int:
    return 2 * round(FRAME_SECONDS * sample_rate / 2)


def _spectra(signal: np.ndarray, window: np.ndarray) -> np.ndarray:
    """``(frames, F)`` complex."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, len(window))[:: len(window) // OVERLAP]
    return np.fft.rfft(frames * window)


def _smoothing(frequencies: np.ndarray) -> np.ndarray:
    """Return ``(F, F)`` with rows of sum 1: means over a Gaussian of 1/6 octave, and at least of one bin."""
    width = np.maximum(frequencies * (2.0**SMOOTHING - 1.0), frequencies[1])[:, None]
    kernel = np.exp(-0.5 * ((frequencies - frequencies[:, None]) / width) ** 2)
    kernel[:, frequencies < LOWEST] = 0.0  # there is no speech to measure there
    return kernel / kernel.sum(axis=1, keepdims=True)


def _smoothed(power: np.ndarray, smoothing: np.ndarray) -> np.ndarray:
    """Return means of ``(frames, F)`` over frequency and over up to 8 frames."""
    count = min(QUIET_FRAMES, len(power))
    total = np.cumsum(np.concatenate([np.zeros((1, power.shape[1])), power @ smoothing.T]), axis=0)
    return np.maximum(total[count:] - total[:-count], 0.0) / count


@lru_cache(maxsize=4)
def _smoothed_white_noise(sample_rate: int) -> np.ndarray:
    """Return smoothed powers ``(frames, F)`` of 20 s of white noise, relative to their mean over time."""
    smoothed = _smoothed(_white_noise(sample_rate), _smoothing(grid(sample_rate)))
    return np.asarray(smoothed / smoothed.mean(axis=0))


@lru_cache(maxsize=4)
def _white_noise(sample_rate: int) -> np.ndarray:
    white = np.random.default_rng(0).standard_normal(20 * sample_rate)
    return np.asarray(np.abs(_spectra(white, np.hanning(_frame(sample_rate) + 1)[:-1])) ** 2)


def _moments(level: np.ndarray, ratio: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return count and second moments ``(4, F)``, about their means, of the chosen frames of ``(frames, F)``."""
    count = np.maximum(chosen.sum(axis=0), 1)
    x, y = (np.where(chosen, value - np.sum(value * chosen, axis=0) / count, 0.0) for value in (level, ratio))
    return np.stack([chosen.sum(axis=0), np.sum(x * x, axis=0), np.sum(x * y, axis=0), np.sum(y * y, axis=0)])


def _above(power: np.ndarray, floor: np.ndarray, smoothing: np.ndarray) -> np.ndarray:
    """Return the power ``(F,)`` above the noise floor, smoothed first: single bins may be below their floor.

    The smoothing is relative to the spectrum's trend, so that a steep spectrum is not raised by its louder side.
    """
    trend = np.exp(smoothing @ np.log(np.maximum(power, TINY)))
    total = smoothing @ (power / trend)
    return np.asarray(trend * np.maximum(smoothing @ ((power - floor) / trend), LEFT * total))


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10.0 * np.log10(np.maximum(power, TINY))
