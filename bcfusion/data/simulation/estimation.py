"""Measuring a sensor's response on recorded pairs of body and air.

The H1 estimate, cross spectrum over the air's power spectrum, is the best linear response where all that does not fit
is noise. In a body sensor it is not: on eight real pairs of a throat and a headset microphone the coherence is 0.5 to
0.8 below 500 Hz, but 0.1 to 0.4 from 1 to 6 kHz, although the throat's speech lies 20 to 35 dB above its own noise
there. What is not coherent is speech on another path, through tissue, with a response that changes from sound to sound.
H1 lacks it and is 2 to 10 dB too low. The ratio of the powers, noise floors subtracted, has it. So the response is a
blend in decibels of the two by coherence: H1, which no noise gets into, where they are coherent, the ratio where they
are not. H1 lies -10 log10(coherence) below the ratio, so the blend is at most 1.6 dB below it. Of long-term spectra of
four pairs, predicted from the four others, H1 misses bands by 2.7 dB on average, the blend by 2.3.

How the response changes from sound to sound is measured too, on short-time spectra smoothed over frequency: the ratio
of body to air in a frame deviates by 5 to 11 dB, a part of which follows from the level of air (its slope).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from bcfusion.audio.level import active_level
from bcfusion.data.simulation.calibration import Response
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

#: length of a frame in seconds, and how many of them lie over each sample
FRAME_SECONDS = 0.032
OVERLAP = 4
#: frames that a recording needs at least
FRAMES = 16
#: dB below the loudest frame of air down to which a frame is speech
ACTIVE_RANGE = 35.0
#: share of the frames, the quietest of air, that are pauses
PAUSE_SHARE = 0.1
#: octaves, standard deviation of the smoothing over frequency
SMOOTHING = 1.0 / 6.0
#: Hz under which the response is that at this frequency: microphones hear no speech there
LOWEST = 50.0
#: share of a power that the subtraction of its noise floor leaves at least: 10 dB of suppression
LEFT = 0.1
#: dB above its floor that a frame's band must be, in both signals, to tell of the short-time ratio
CLEAR = 6.0
#: frames from which on a deviation is one
COUNTED = 20
#: what a slope is kept within: at -1 body would not hear what air does, and is but its floor
SLOPES = (-0.8, 0.0)
#: power that stands for none, far below the rounding of 16 bits
TINY = 1e-20


@dataclass(frozen=True)
class Pair:
    """One recording: ``body (T,)`` and ``air (T,)``, aligned and of one polarity.

    ``lag`` in seconds and ``polarity`` are what was undone.
    """

    id: str
    body: np.ndarray
    air: np.ndarray
    lag: float = 0.0
    polarity: int = 1


def grid(sample_rate: int) -> np.ndarray:
    """Frequencies in Hz, ``(F,)``, at which responses are measured at a sample rate."""
    return np.fft.rfftfreq(_frame(sample_rate), 1.0 / sample_rate)


def measure(identity: str, pairs: Iterable[Pair], sample_rate: int) -> Response:
    """Measure one wearer's response on all of the wearer's recordings.

    Args:
        identity: of the wearer.
        pairs: read one after the other, only sums are kept. One that is shorter than 16 frames (some 0.15 s), or of
            which a signal is silent, is left out with a warning.
        sample_rate: of all, in Hz.

    Raises:
        DataError: none is left; the last one's problem.
    """
    sums = _Sums(sample_rate)
    problem = DataError(f"{identity}: no recording")
    for pair in pairs:
        try:
            sums.add(pair)
        except DataError as error:
            problem = error
            logger.warning("%s; it is left out", error)
    if not sums.seen:
        raise problem
    return sums.response(identity)


@dataclass
class _Sums:
    """What is kept of the recordings of a wearer: sums over frames of speech, each relative to the level of its air."""

    sample_rate: int
    air: np.ndarray = field(init=False)
    body: np.ndarray = field(init=False)
    cross: np.ndarray = field(init=False)
    floors: np.ndarray = field(init=False)  # of air and body
    # of the short-time ratio y over the level x of air, in dB, about the means of a recording: count, xx, xy, yy
    moments: np.ndarray = field(init=False)
    frames: int = 0
    seen: list[Pair] = field(default_factory=list)

    def __post_init__(self) -> None:
        bins = len(grid(self.sample_rate))
        self.window = np.hanning(_frame(self.sample_rate) + 1)[:-1]
        self.smoothing = _smoothing(grid(self.sample_rate))
        self.air, self.body, self.cross = np.zeros(bins), np.zeros(bins), np.zeros(bins, dtype=np.complex128)
        self.floors, self.moments = np.zeros((2, bins)), np.zeros((4, bins))

    def add(self, pair: Pair) -> None:
        level = active_level(torch.from_numpy(pair.air)[None], self.sample_rate)
        if len(pair.air) < len(self.window) * (1 + FRAMES / OVERLAP) or level == 0.0 or not pair.body.any():
            seconds = len(pair.air) / self.sample_rate
            raise DataError(f"{pair.id}: {seconds:.2f} s of body and air, or one of them silent: nothing to measure")
        air, body = (_spectra(signal / level, self.window) for signal in (pair.air, pair.body))
        energy = np.sum(np.abs(air) ** 2, axis=1)
        speech = energy > energy.max() * 10.0 ** (-ACTIVE_RANGE / 10.0)
        pause = energy <= np.quantile(energy, PAUSE_SHARE)
        powers = [np.abs(frames[speech]) ** 2 for frames in (air, body)]
        # the median of pauses is not moved by a breath or a rub; of an exponential distribution it is log(2) times mean
        floors = [np.median(np.abs(frames[pause]) ** 2, axis=0) / np.log(2.0) for frames in (air, body)]
        self.air += powers[0].sum(axis=0)
        self.body += powers[1].sum(axis=0)
        self.cross += np.sum(air[speech].conj() * body[speech], axis=0)
        self.floors += len(powers[0]) * np.stack(floors)
        bands = [power @ self.smoothing.T for power in powers]
        heard = [self.smoothing @ floor * 10.0 ** (CLEAR / 10.0) for floor in floors]
        clear = (bands[0] > heard[0]) & (bands[1] > heard[1])
        self.moments += _moments(_decibels(bands[0]), _decibels(bands[1]) - _decibels(bands[0]), clear)
        self.frames += len(powers[0])
        self.seen.append(Pair(pair.id, pair.body[:0], pair.air[:0], pair.lag, pair.polarity))

    def response(self, identity: str) -> Response:
        coherence = np.abs(self.cross) ** 2 / np.maximum(self.air * self.body, TINY)
        h1 = _decibels(np.abs(self.cross) ** 2) - 2.0 * _decibels(self.air)
        ratio = _decibels(_above(self.body, self.floors[1])) - _decibels(_above(self.air, self.floors[0]))
        # a bin of H1 has the relative variance (1 - coherence) / (2 n coherence): its inverse is the bin's weight
        weight = np.clip(coherence / np.maximum(1.0 - coherence, TINY), 1e-2, 1e2)
        h1 = self._held(self.smoothing @ (weight * h1) / (self.smoothing @ weight))
        ratio = self._held(self.smoothing @ ratio)
        coherence = self._held(self.smoothing @ coherence)
        deviation, slope, residual = self._short_time()
        density = 2.0 * self.floors[1] / self.frames / (np.sum(self.window**2) * self.sample_rate)
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
        )

    def _short_time(self) -> np.ndarray:
        """Deviation, slope and residual ``(3, F)``; bins that are rarely clear take them from their neighbours."""
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
    """``(F, F)``, rows of sum 1: means over a Gaussian of 1/6 octave to either side, and at least of a bin."""
    width = np.maximum(frequencies * (2.0**SMOOTHING - 1.0), frequencies[1])[:, None]
    kernel = np.exp(-0.5 * ((frequencies - frequencies[:, None]) / width) ** 2)
    kernel[:, frequencies < LOWEST] = 0.0  # where nothing is heard there is nothing to be had
    return kernel / kernel.sum(axis=1, keepdims=True)


def _moments(level: np.ndarray, ratio: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Count and second moments ``(4, F)`` over the chosen frames of ``(frames, F)``, about their means."""
    count = np.maximum(chosen.sum(axis=0), 1)
    x, y = (np.where(chosen, value - np.sum(value * chosen, axis=0) / count, 0.0) for value in (level, ratio))
    return np.stack([chosen.sum(axis=0), np.sum(x * x, axis=0), np.sum(x * y, axis=0), np.sum(y * y, axis=0)])


def _above(power: np.ndarray, floor: np.ndarray) -> np.ndarray:
    return np.maximum(power - floor, LEFT * power)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10.0 * np.log10(np.maximum(power, TINY))
