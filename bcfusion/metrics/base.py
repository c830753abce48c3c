"""What metrics share: the base class with the checks before a score, silence, and resampling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from bcfusion.contracts import Skip

SILENCE_POWER = 1e-16
"""Mean square, without the mean, up to which a signal in [-1, 1] counts as silent: -160 dB full scale.

One step of 24-bit audio is -138 dB, so no recording is below it.
"""
SHORTEST_SECONDS = 0.25  #: of what PESQ and the networks can score
TOO_SHORT = "shorter than 0.25 s"  #: reason for which an utterance is skipped


class MetricBase(ABC):
    """A quality measure of one utterance that fulfils :class:`bcfusion.contracts.Metric`.

    A subclass sets the attributes and implements :meth:`_measure`.

    Attributes:
        names: of the values.
        higher_is_better: direction of each value; None: information only.
    """

    names: tuple[str, ...]
    higher_is_better: Mapping[str, bool | None]

    def score(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Score one utterance.

        Args:
            estimate: ``(T,)`` restored speech in [-1, 1].
            target: ``(T,)`` clean speech.
            sample_rate: of both, in Hz.

        Returns:
            One finite value for each name in ``names``.

        Raises:
            Skip: the signals cannot be scored (empty, of different lengths, not finite, or for a reason that the
                subclass documents).
            ValueError: an array is not one-dimensional, which is an error of the caller.
        """
        estimate, target = checked(estimate, target)
        with np.errstate(all="ignore"):  # an overflow results in a score that is not finite
            values = self._measure(estimate, target, sample_rate)
        if not all(math.isfinite(value) for value in values.values()):
            raise Skip("non-finite score")
        return values

    @abstractmethod
    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Score finite float64 arrays ``(T,)`` of equal length T >= 1, or raise Skip."""


def checked(estimate: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both signals as float64 ``(T,)``, T >= 1.

    Raises:
        Skip: they are empty, of different lengths, or not finite.
        ValueError: an array is not one-dimensional, which is an error of the caller.
    """
    estimate, target = np.asarray(estimate, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if estimate.ndim != 1 or target.ndim != 1:
        raise ValueError(f"a metric scores (T,) arrays, not {estimate.shape} against {target.shape}")
    if estimate.shape != target.shape:
        raise Skip("estimate and target differ in length")
    if estimate.size == 0:
        raise Skip("empty")
    if not np.isfinite(target).all():
        raise Skip("non-finite target")
    if not np.isfinite(estimate).all():
        raise Skip("non-finite estimate")
    return estimate, target


def is_silent(signal: np.ndarray) -> bool:
    """Return whether ``signal (T,)`` is nothing but an offset; see :data:`SILENCE_POWER`."""
    return float(np.var(signal)) <= SILENCE_POWER


def skip_silence(**signals: np.ndarray) -> None:
    """Raise Skip with the name of the first of the signals ``(T,)`` that is silent."""
    for name, signal in signals.items():
        if is_silent(signal):
            raise Skip(f"{name} is silent")


def resample(signal: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Resample ``(T,)`` between two rates in Hz with SciPy's polyphase filter, to ``ceil(T * target / source)``.

    If the rates are equal, the signal itself is returned.
    """
    if source_rate == target_rate:
        return signal
    from scipy.signal import resample_poly  # slow to import, and most runs need no resampling

    divisor = math.gcd(source_rate, target_rate)
    return resample_poly(signal, target_rate // divisor, source_rate // divisor)
