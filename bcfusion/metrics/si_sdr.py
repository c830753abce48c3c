"""Scale-invariant signal-to-distortion ratio, with and without compensation of the estimate's delay."""

from __future__ import annotations

import math

import numpy as np

from bcfusion.metrics.base import MetricBase, skip_silence
from bcfusion.requirements import at_least, require

ENERGY_FLOOR = 1e-10  # of the estimate's energy: limits the ratio to [-100, 100] dB


class SiSdr(MetricBase):
    """SI-SDR in dB: ``si_sdr``, ``si_sdr_aligned``, and the lag between the two signals, ``si_sdr_lag_ms``.

    J. Le Roux et al., "SDR - half-baked or well done?", 2019: with the projection ``p = (<e, t> / <t, t>) t`` of the
    estimate e on the target t, the ratio of ``|p|^2`` to ``|e - p|^2``. Both energies are limited to 1e-10 of the
    estimate's or more, so a perfect estimate has 100 dB and one orthogonal to the target -100 dB.

    An inaudible delay of one sample costs a good estimate nearly all of its SI-SDR, hence the second value: SI-SDR of
    the common samples after the estimate is shifted by the integer lag (at most ``max_lag_ms``, and half of the
    utterance) at which the cross-correlation is largest in magnitude. An inverted signal aligns as well, since SI-SDR
    ignores the sign. The lag is POSITIVE if the estimate comes LATER than the target; it is information, neither good
    nor bad. ``si_sdr_aligned`` is never below ``si_sdr``: the correlation is no smaller at that lag, and the energies
    of the common samples are no larger.

    An utterance is skipped if target or estimate is silent.

    Args:
        max_lag_ms: largest lag that is searched in either direction, in ms.
        zero_mean: whether to remove the mean of both signals first.

    Raises:
        ConfigError: ``max_lag_ms`` is negative.
    """

    def __init__(self, max_lag_ms: float = 20.0, zero_mean: bool = True) -> None:
        require(self, at_least(0, max_lag_ms=max_lag_ms))
        self.max_lag_ms = max_lag_ms
        self.zero_mean = zero_mean
        self.names = ("si_sdr", "si_sdr_aligned", "si_sdr_lag_ms")
        self.higher_is_better = {"si_sdr": True, "si_sdr_aligned": True, "si_sdr_lag_ms": None}

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        skip_silence(target=target, estimate=estimate)
        if self.zero_mean:
            estimate, target = estimate - estimate.mean(), target - target.mean()
        raw = _ratio(estimate, target)
        lag = _lag(estimate, target, min(round(self.max_lag_ms * sample_rate / 1000), target.size // 2))
        common = target.size - abs(lag)
        early, late = max(-lag, 0), max(lag, 0)
        aligned = _ratio(estimate[late : late + common], target[early : early + common])
        return {"si_sdr": raw, "si_sdr_aligned": aligned, "si_sdr_lag_ms": 1000.0 * lag / sample_rate}


def _ratio(estimate: np.ndarray, target: np.ndarray) -> float:
    """Return the SI-SDR of ``(T,)`` against ``(T,)`` in dB, from -100 to 100; -100 if one of them has no energy."""
    target_energy, floor = _inner(target, target), ENERGY_FLOOR * _inner(estimate, estimate)
    if target_energy == 0.0 or floor == 0.0:
        return -100.0
    projection = (_inner(estimate, target) / target_energy) * target
    residual = estimate - projection
    signal_energy = max(_inner(projection, projection), floor)
    return 10.0 * math.log10(signal_energy / max(_inner(residual, residual), floor))


def _inner(first: np.ndarray, second: np.ndarray) -> float:
    """Return the inner product, without BLAS: its threads cost more than they gain, and change the last digits."""
    return float(np.sum(first * second))


def _lag(estimate: np.ndarray, target: np.ndarray, limit: int) -> int:
    """Return by how many samples ``estimate`` is later than ``target``, within +-limit, from the cross-correlation."""
    n_fft = 1 << (target.size + limit).bit_length()  # more than T + limit, so that no lag within the limit wraps around
    spectrum = np.fft.rfft(estimate, n_fft) * np.conj(np.fft.rfft(target, n_fft))
    correlation = np.abs(np.fft.irfft(spectrum, n_fft))
    lags = np.array(sorted(range(-limit, limit + 1), key=abs))  # of equal peaks the smallest lag counts
    candidates = correlation[lags]
    return int(lags[np.argmax(candidates >= candidates.max() * (1 - 1e-9))])
