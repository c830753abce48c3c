"""What every metric shares: the checks before a score, and the running mean of an ``update``/``compute`` loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bcfusion.contracts import Skip

SILENCE_POWER = 1e-16
"""Mean square, after the mean is removed, under which a signal in [-1, 1] counts as silent: -160 dB full scale.

One step of 24-bit audio has -138 dB, so nothing that was ever recorded lies below.
"""


class MetricBase(ABC):
    """A quality measure of one utterance, fulfilling :class:`bcfusion.contracts.Metric`.

    A subclass sets ``names`` and ``higher_is_better`` and implements :meth:`_measure`. :meth:`score` is for one
    utterance and keeps nothing; :meth:`update`, :meth:`compute` and :meth:`reset` average over many.

    Attributes:
        names: of the values, each with its direction in ``higher_is_better`` (None: information only).
        skipped: reasons for which items could not be scored since the last :meth:`reset`, counted.
    """

    names: tuple[str, ...]
    higher_is_better: Mapping[str, bool | None]

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self._sums: dict[str, float] = {}
        self._scored = 0

    def score(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Score one utterance.

        Args:
            estimate: ``(T,)`` restored speech in [-1, 1]. target: ``(T,)`` clean speech. sample_rate: of both, in Hz.

        Returns:
            One finite value for each name in ``names``.

        Raises:
            Skip: the audio cannot be scored (empty, of two lengths, not finite, or as the subclass says).
            ValueError: an array is not one-dimensional, which is an error of the caller.
        """
        estimate, target = checked(estimate, target)
        with np.errstate(all="ignore"):  # what overflows ends in a score that is not finite
            values = self._measure(estimate, target, sample_rate)
        if not all(math.isfinite(value) for value in values.values()):
            raise Skip("non-finite score")
        return values

    @abstractmethod
    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Score finite float64 arrays ``(T,)`` of equal length T >= 1, or raise Skip."""

    def update(self, estimate: Any, target: Any, lengths: Sequence[int] | None = None, *, sample_rate: int) -> None:
        """Score a batch, item by item; an item that cannot be scored is counted in ``skipped``.

        Args:
            estimate: ``(B, 1, T)``, or ``(T,)`` for one item; NumPy arrays or torch tensors on any device.
            target: as ``estimate``.
            lengths: ``(B,)`` valid samples of each item, what lies behind is ignored; None: all of T.
            sample_rate: of both, in Hz.

        Raises:
            ValueError: shapes that do not belong together.
        """
        estimates, targets = _items(estimate), _items(target)
        valid = [estimates.shape[1]] * len(estimates) if lengths is None else [int(length) for length in lengths]
        if not len(estimates) == len(targets) == len(valid):
            raise ValueError(f"{len(estimates)} estimates, {len(targets)} targets and {len(valid)} lengths")
        for one_estimate, one_target, length in zip(estimates, targets, valid, strict=True):
            try:
                values = self.score(one_estimate[:length], one_target[:length], sample_rate)
            except Skip as reason:
                self.skipped[str(reason)] += 1
                continue
            self._scored += 1
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def compute(self) -> dict[str, float]:
        """Return the mean of each value over the items scored since :meth:`reset`; NaN where there are none."""
        return {name: self._sums[name] / self._scored if self._scored else math.nan for name in self.names}

    def reset(self) -> None:
        """Forget all items."""
        self.skipped = Counter()
        self._sums = {}
        self._scored = 0


def checked(estimate: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both signals as float64 ``(T,)``, T >= 1.

    Raises:
        Skip: they are empty, of two lengths, or not finite.
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
    """Whether ``signal (T,)`` holds nothing but an offset (see :data:`SILENCE_POWER`)."""
    return float(np.var(signal)) <= SILENCE_POWER


def resample(signal: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Resample ``(T,)`` between two rates in Hz with SciPy's polyphase filter, to ``ceil(T * target / source)``.

    The signal itself where they are equal.
    """
    if source_rate == target_rate:
        return signal
    from scipy.signal import resample_poly  # slow to import, and most runs are at a rate that needs no resampling

    divisor = math.gcd(source_rate, target_rate)
    return resample_poly(signal, target_rate // divisor, source_rate // divisor)


def _items(signal: Any) -> np.ndarray:
    """Give ``(B, T)`` from ``(B, 1, T)`` or ``(T,)``, leaving torch by its own methods, so that it is not imported."""
    if hasattr(signal, "detach"):
        signal = signal.detach().cpu().double().numpy()  # NumPy has no bfloat16
    array = np.asarray(signal)
    if array.ndim == 1:
        return array[np.newaxis]
    if array.ndim == 3 and array.shape[1] == 1:
        return array[:, 0]
    raise ValueError(f"expected (B, 1, T) or (T,), not {array.shape}")
