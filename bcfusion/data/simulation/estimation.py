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
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from bcfusion.audio.level import active_level
from bcfusion.data.simulation.bands import TINY, band_centres, band_weights
from bcfusion.data.simulation.calibration import Calibration, Response
from bcfusion.data.simulation.frames import (
    ACTIVE_RANGE,
    LOWEST,
    NEAR_SPEECH,
    OVERLAP,
    decibels,
    frame_length,
    grid,
    hann,
    means_over_frequency,
    spectra,
)
from bcfusion.data.simulation.noise_floor import noise_floor, swing
from bcfusion.data.simulation.short_time_fit import BandFrames, fit
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

#: fewest frames of a recording that is measured
FRAMES = 16
#: smallest share of a power that remains after its noise floor is subtracted: at most 10 dB of suppression
LEFT = 0.1
#: dB by which a frame's band must exceed the floor, in both signals, to count in the short-time ratio
CLEAR = 6.0
#: fewest frames for a deviation to be computed
COUNTED = 20
#: limits of a slope: at -1 body would be independent of air, nothing but its noise floor
SLOPES = (-0.8, 0.0)
#: frames, 27 minutes, from which the short-time model is learnt at most
MOST_FRAMES = 200_000


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
    frames = Evenly()
    for identity, pairs in wearers:
        try:
            responses.append(measure(identity, pairs, sample_rate, frames))
        except DataError as error:
            logger.warning("%s is left out: %s", identity, error)
    if not responses:
        raise DataError("no recording could be measured; see the warnings")
    step = (frame_length(sample_rate) // OVERLAP) / sample_rate
    short_time = fit(frames.kept, band_centres(sample_rate), step)
    return Calibration(sensor, sample_rate, grid(sample_rate), tuple(responses), short_time)


def measure(identity: str, pairs: Iterable[Pair], sample_rate: int, frames: Evenly | None = None) -> Response:
    """Measure one wearer's response on all recordings of the wearer.

    Args:
        identity: of the wearer.
        pairs: consumed one at a time; only sums are kept. A pair that is shorter than 16 frames (about 0.15 s), or in
            which a signal is silent, is left out with a warning.
        sample_rate: of all pairs, in Hz.
        frames: where the band powers of each recording are added, for the fit of the short-time model.

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
            frames.add(BandFrames(identity, *found))
    if not sums.seen:
        raise problem
    return sums.response(identity)


class Evenly:
    """Keeps recordings up to a total number of frames; beyond that every second one, then every fourth, and so on.

    Args:
        most: frames, unless a single recording has more.
    """

    def __init__(self, most: int = MOST_FRAMES) -> None:
        self.most = most
        self.kept: list[BandFrames] = []
        self._seen, self._every = 0, 1

    def add(self, recording: BandFrames) -> None:
        """Keep a recording if it is its turn."""
        if self._seen % self._every == 0:
            self.kept.append(recording)
        self._seen += 1
        while len(self.kept) > 1 and sum(len(one.speech) for one in self.kept) > self.most:
            self.kept = self.kept[::2]
            self._every *= 2


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
        self.window = hann(self.sample_rate)
        self.smoothing = means_over_frequency(grid(self.sample_rate))
        self.bands = band_weights(band_centres(self.sample_rate), grid(self.sample_rate))
        self.air, self.body, self.cross = np.zeros(bins), np.zeros(bins), np.zeros(bins, dtype=np.complex128)
        self.floors, self.moments = np.zeros((2, bins)), np.zeros((4, bins))

    def add(self, pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Add a recording; return its bands of air and body, which frames are speech, and the bands' floors."""
        level = active_level(torch.from_numpy(pair.air)[None], self.sample_rate)
        if len(pair.air) < len(self.window) * (1 + FRAMES / OVERLAP) or level == 0.0 or not pair.body.any():
            seconds = len(pair.air) / self.sample_rate
            raise DataError(f"{pair.id}: {seconds:.2f} s of body and air are too short, or one is silent")
        air, body = (spectra(signal / level, self.window) for signal in (pair.air, pair.body))
        heard = body.any(axis=1)  # zeros that somebody has put into a file say nothing about the sensor's noise
        if heard.sum() < FRAMES:
            raise DataError(f"{pair.id}: body is silent but for {heard.sum()} frames")
        air, body = air[heard], body[heard]
        energy = np.sum(np.abs(air) ** 2, axis=1)
        speech = energy > energy.max() * 10.0 ** (-ACTIVE_RANGE / 10.0)
        every = [np.abs(frames) ** 2 for frames in (air, body)]
        powers = [power[speech] for power in every]
        pause = ~(np.convolve(speech, np.ones(2 * NEAR_SPEECH + 1), "same") > 0.0)
        floors = [noise_floor(power, float(pause.mean()), self.sample_rate) for power in every]
        if (variance := swing(every[1][pause], self.sample_rate)) is not None:
            self.swings.append((int(pause.sum()), variance))
        self.air += powers[0].sum(axis=0)
        self.body += powers[1].sum(axis=0)
        self.cross += np.sum(air[speech].conj() * body[speech], axis=0)
        self.floors += len(powers[0]) * np.stack(floors)
        bands = [power @ self.smoothing.T for power in powers]
        limits = [self.smoothing @ floor * 10.0 ** (CLEAR / 10.0) for floor in floors]
        clear = (bands[0] > limits[0]) & (bands[1] > limits[1])
        self.moments += _moments(decibels(bands[0]), decibels(bands[1]) - decibels(bands[0]), clear)
        self.frames += len(powers[0])
        self.seen.append(Pair(pair.id, pair.body[:0], pair.air[:0], pair.lag, pair.polarity))
        of_bands = [power @ self.bands.T for power in every]
        return of_bands[0], of_bands[1], speech, np.stack([self.bands @ floor for floor in floors])

    def response(self, identity: str) -> Response:
        coherence = np.abs(self.cross) ** 2 / np.maximum(self.air * self.body, TINY)
        h1 = decibels(np.abs(self.cross) ** 2) - 2.0 * decibels(self.air)
        body, air = (
            _above(*pair, self.smoothing) for pair in ((self.body, self.floors[1]), (self.air, self.floors[0]))
        )
        ratio = decibels(body) - decibels(air)
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
            noise_db=self._held(self.smoothing @ decibels(density)),
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
