"""Scale-invariant signal-to-distortion ratio, as it is and after the estimate's delay is undone."""

from __future__ import annotations

import math

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.base import MetricBase, is_silent

ENERGY_FLOOR = 1e-10  # of the estimate's energy: bounds the ratio to [-100, 100] dB


class SiSdr(MetricBase):
    """SI-SDR in dB: ``si_sdr``, ``si_sdr_aligned`` and the lag between the two signals, ``si_sdr_lag_ms``.

    J. Le Roux et al., "SDR - half-baked or well done?", 2019: with the projection ``p = (<e, t> / <t, t>) t`` of the
    estimate e on the target t, the ratio of ``|p|^2`` to ``|e - p|^2``. Both energies are floored at 1e-10 of the
    estimate's, so that a perfect estimate has 100 dB and one orthogonal to the target -100 dB.

    One sample of delay costs a good estimate nearly all of its SI-SDR without anyone hearing it, hence the second
    value: that of the samples in common once the estimate is moved by the integer lag (at most ``max_lag_ms``, and half
    of the utterance) at which the cross-correlation is largest in magnitude; an inverted signal aligns as well, as
    SI-SDR does not see the sign. The lag is POSITIVE where the estimate comes LATER than the target; it is information,
    neither good nor bad. ``si_sdr_aligned`` is never below ``si_sdr``: the correlation is no smaller at that lag, and
    the energies of the samples in common are no larger.

    Skipped where target or estimate is silent.

    Args:
        max_lag_ms: largest lag that is searched, in ms, either way. zero_mean: remove the mean of both signals first.

    Raises:
        ValueError: ``max_lag_ms`` is negative.
    """

    def __init__(self, max_lag_ms: float = 20.0, zero_mean: bool = True) -> None:
        super().__init__()
        if max_lag_ms < 0:
            raise ValueError(f"max_lag_ms must not be negative: {max_lag_ms}")
        self.max_lag_ms = max_lag_ms
        self.zero_mean = zero_mean
        self.names = ("si_sdr", "si_sdr_aligned", "si_sdr_lag_ms")
        self.higher_is_better = {"si_sdr": True, "si_sdr_aligned": True, "si_sdr_lag_ms": None}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if is_silent(target):
            raise Skip("target is silent")
        if is_silent(estimate):
            raise Skip("estimate is silent")
        if self.zero_mean:
            estimate, target = estimate - estimate.mean(), target - target.mean()
        raw = _ratio(estimate, target)
        lag = _lag(estimate, target, min(round(self.max_lag_ms * sample_rate / 1000), target.size // 2))
        common = target.size - abs(lag)
        early, late = max(-lag, 0), max(lag, 0)
        aligned = _ratio(estimate[late : late + common], target[early : early + common])
        return {"si_sdr": raw, "si_sdr_aligned": aligned, "si_sdr_lag_ms": 1000.0 * lag / sample_rate}


def _ratio(estimate: np.ndarray, target: np.ndarray) -> float:
    """SI-SDR of ``(T,)`` against ``(T,)`` in dB, between -100 and 100; -100 where one of them has no energy."""
    target_energy, floor = _inner(target, target), ENERGY_FLOOR * _inner(estimate, estimate)
    if target_energy == 0.0 or floor == 0.0:
        return -100.0
    projection = (_inner(estimate, target) / target_energy) * target
    residual = estimate - projection
    signal_energy = max(_inner(projection, projection), floor)
    return 10.0 * math.log10(signal_energy / max(_inner(residual, residual), floor))


def _inner(first: np.ndarray, second: np.ndarray) -> float:
    """Inner product without BLAS, whose threads cost more than they give here and change the last digits."""
    return float(np.sum(first * second))


def _lag(estimate: np.ndarray, target: np.ndarray, limit: int) -> int:
    """Samples by which ``estimate`` comes later than ``target``, within +-limit, from their cross-correlation."""
    n_fft = 1 << (target.size + limit).bit_length()  # more than T + limit: no lag within the limit wraps around
    spectrum = np.fft.rfft(estimate, n_fft) * np.conj(np.fft.rfft(target, n_fft))
    correlation = np.abs(np.fft.irfft(spectrum, n_fft))
    lags = np.array(sorted(range(-limit, limit + 1), key=abs))  # on a tie (periodic signals) the smallest lag wins
    candidates = correlation[lags]
    return int(lags[np.argmax(candidates >= candidates.max() * (1 - 1e-9))])
