"""Short-time objective intelligibility, classic and extended."""

from __future__ import annotations

import math
from functools import cache
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bcfusion.contracts import Skip
from bcfusion.metrics.base import MetricBase, skip_silence

INTERNAL_RATE = 10_000  # Hz, the rate at which STOI is defined
FRAME_LENGTH = 256  # samples at the internal rate
HOP_LENGTH = 128
N_FFT = 512
BANDS = 15
LOWEST_BAND = 150.0  # Hz, its centre
SEGMENT = 30  # frames, 0.4 s
DYNAMIC_RANGE = 40.0  # dB below the loudest frame of the target
CLIP = 1.0 + 10.0 ** (15.0 / 20.0)  # of a band's magnitude relative to the target: an SDR of -15 dB
TOO_SHORT = "fewer than 30 active frames"
EPS = np.finfo(np.float64).eps

Array = NDArray[np.float64]
Value = TypeVar("Value")


class Stoi(MetricBase):
    """Intelligibility from about 0 to 1, higher is better; named ``stoi``, or ``estoi`` if ``extended``.

    C. H. Taal et al., "An algorithm for intelligibility prediction of time-frequency weighted noisy speech", 2011; the
    extended form: J. Jensen and C. H. Taal, "An algorithm for predicting the intelligibility of speech masked by
    modulated noise maskers", 2016. The sample rate is arbitrary; signals are resampled to 10 kHz by the filter of the
    public implementations, whose values result (package ``pystoi``).

    What both forms need of an utterance is computed once: the resampled signals, and the bands of both without the
    pauses of the target. So they cost little more than one of them.

    An utterance is skipped if target or estimate is silent, or if fewer than 30 frames (0.4 s) are within 40 dB of the
    target's loudest one. A band that does not vary within a segment counts as uncorrelated.

    Args:
        extended: use the extended form, which also takes the correlation between bands into account.
    """

    def __init__(self, extended: bool = False) -> None:
        self.extended = extended
        self.names = ("estoi" if extended else "stoi",)
        self.higher_is_better = {self.names[0]: True}

    def _measure(self, estimate: Array, target: Array, sample_rate: int) -> dict[str, float]:
        skip_silence(target=target, estimate=estimate)
        if math.ceil(target.size * INTERNAL_RATE / sample_rate) <= FRAME_LENGTH:
            raise Skip(TOO_SHORT)
        of_target, of_estimate = _BANDS(target, estimate, sample_rate)
        if of_target.shape[1] < SEGMENT:
            raise Skip(TOO_SHORT)
        segments = _segments(of_target), _segments(of_estimate)
        return {self.names[0]: _extended(*segments) if self.extended else _classic(*segments)}


class _Recent:
    """The results for the signals that came last: metrics score one utterance after the other, several times each."""

    def __init__(self) -> None:
        self._resampled: dict[bytes, Array] = {}
        self._bands: dict[bytes, tuple[Array, Array]] = {}

    def __call__(self, target: Array, estimate: Array, sample_rate: int) -> tuple[Array, Array]:
        """Return the band magnitudes ``(bands, frames)`` of both signals where the target is active."""
        keys = [blake2b(signal.tobytes() + str(sample_rate).encode()).digest() for signal in (target, estimate)]
        key = b"".join(keys)
        if key not in self._bands:
            signals = [self._at_10_khz(*given, sample_rate) for given in zip(keys, (target, estimate), strict=True)]
            _keep(self._bands, key, _active_bands(*signals), 2)
        return self._bands[key]

    def _at_10_khz(self, key: bytes, signal: Array, sample_rate: int) -> Array:
        if sample_rate == INTERNAL_RATE:
            return signal
        if key not in self._resampled:
            _keep(self._resampled, key, _resample(signal, sample_rate), 3)
        return self._resampled[key]


_BANDS = _Recent()


def _keep(held: dict[bytes, Value], key: bytes, value: Value, most: int) -> None:
    while len(held) >= most:
        del held[next(iter(held))]
    held[key] = value


def _resample(signal: Array, sample_rate: int) -> Array:
    from scipy.signal import resample_poly  # slow to import

    divisor = math.gcd(INTERNAL_RATE, sample_rate)
    up, down = INTERNAL_RATE // divisor, sample_rate // divisor
    return np.asarray(resample_poly(signal, up, down, window=_lowpass(up, down)))


@cache
def _lowpass(up: int, down: int) -> Array:
    """Return the anti-aliasing filter of Octave's ``resample``: a Kaiser window of 60 dB, rolling off over a tenth."""
    rejection = 60.0
    cutoff = 1.0 / (2 * max(up, down))
    half = math.ceil((rejection - 8.0) / (28.714 * cutoff / 10))
    taps = np.arange(-half, half + 1)
    response = np.kaiser(2 * half + 1, 0.1102 * (rejection - 8.7)) * np.sinc(2 * cutoff * taps)
    return np.asarray(response / response.sum())


@cache
def _window() -> Array:
    return np.hanning(FRAME_LENGTH + 2)[1:-1]


@cache
def _band_matrix() -> Array:
    """Return which bins ``(bands, N_FFT / 2 + 1)`` belong to which third of an octave."""
    frequencies = np.linspace(0, INTERNAL_RATE, N_FFT + 1)[: N_FFT // 2 + 1]
    edges = LOWEST_BAND * 2.0 ** ((2 * np.arange(BANDS + 1) - 1) / 6)
    bins = np.square(frequencies - edges[:, None]).argmin(axis=1)
    places = np.arange(frequencies.size)
    return ((places >= bins[:-1, None]) & (places < bins[1:, None])).astype(np.float64)


def _frames(signal: Array) -> Array:
    """Return windowed frames ``(frames, FRAME_LENGTH)``; a last one that would end with the signal is left out."""
    count = max(0, -(-(signal.size - FRAME_LENGTH) // HOP_LENGTH))
    if not count:
        return np.zeros((0, FRAME_LENGTH))
    return np.asarray(sliding_window_view(signal, FRAME_LENGTH)[::HOP_LENGTH][:count] * _window())


def _active_bands(target: Array, estimate: Array) -> tuple[Array, Array]:
    frames = _frames(target)
    levels = 20 * np.log10(np.sqrt(np.einsum("ft,ft->f", frames, frames)) + EPS)
    active = levels > levels.max() - DYNAMIC_RANGE
    return _bands(_joined(frames[active])), _bands(_joined(_frames(estimate)[active]))


def _joined(frames: Array) -> Array:
    """Add frames, each HOP_LENGTH after the one before, to a signal."""
    halves = frames.reshape(len(frames), 2, HOP_LENGTH)
    signal = np.zeros((len(frames) + 1, HOP_LENGTH))
    signal[:-1] += halves[:, 0]
    signal[1:] += halves[:, 1]
    return signal.reshape(-1)


def _bands(signal: Array) -> Array:
    """Return the magnitudes of the bands, ``(bands, frames)``."""
    spectrum = np.fft.rfft(_frames(signal), n=N_FFT)
    return np.sqrt(_band_matrix() @ (np.square(spectrum.real) + np.square(spectrum.imag)).T)


def _segments(bands: Array) -> Array:
    """Return all segments of consecutive frames, ``(segments, bands, SEGMENT)``, without a copy."""
    return sliding_window_view(bands, SEGMENT, axis=1).transpose(1, 0, 2)


def _norm(segments: Array, axis: str) -> Array:
    """Return the Euclidean norm over ``b`` (bands) or ``t`` (frames)."""
    kept = "b" if axis == "t" else "t"
    norm = np.sqrt(np.einsum(f"mbt,mbt->m{kept}", segments, segments))
    return norm[:, :, None] if axis == "t" else norm[:, None, :]


def _classic(target: Array, estimate: Array) -> float:
    """Return the mean correlation of band envelopes (equations 3 to 6)."""
    scale = _norm(target, "t") / (_norm(estimate, "t") + EPS)
    clipped = np.minimum(estimate * scale, target * CLIP)
    clipped -= clipped.mean(axis=2, keepdims=True)
    centred = target - target.mean(axis=2, keepdims=True)
    products = np.einsum("mbt,mbt->mb", clipped, centred)
    norms = (_norm(clipped, "t") + EPS) * (_norm(centred, "t") + EPS)
    return float((products / norms[:, :, 0]).mean())


def _extended(target: Array, estimate: Array) -> float:
    """Return the mean correlation of spectra whose bands were normalised in time (equations 4 to 8)."""
    products = np.einsum("mbt,mbt->", _normalised(target), _normalised(estimate))
    return float(products / (SEGMENT * len(target)))


def _normalised(segments: Array) -> Array:
    """Give each band of each segment zero mean and unit norm over time, then each frame over the bands."""
    for axis, place in (("t", 2), ("b", 1)):
        largest = np.abs(segments).max(axis=place, keepdims=True)
        segments = segments - segments.mean(axis=place, keepdims=True)
        norm = _norm(segments, axis)
        varies = norm > 1e-13 * largest + np.finfo(np.float64).tiny
        segments *= np.where(varies, 1.0 / np.where(varies, norm, 1.0), 0.0)
    return segments
