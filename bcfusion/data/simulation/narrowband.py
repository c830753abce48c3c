"""Narrow-band speech for bandwidth extension: low-passed by a random filter, decimated, and resampled back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import signal as scipy_signal
from torch import Tensor

from bcfusion.contracts import Draw
from bcfusion.data.simulation import choice, known_names, pair, reflect, settling_time, uniform
from bcfusion.requirements import ascending, is_number, require, whole

#: samples at the narrow rate to which the resampler's kernel extends on either side, twice (down and up), and a margin
RESAMPLER_REACH = 160
#: most samples by which the borders are mirrored to let a recursive filter settle
MAXIMAL_SETTLING = 4096


class Lowpass(NamedTuple):
    """A zero-phase low-pass. ``apply`` maps ``(1, T)`` to ``(1, T)``; ``settling`` is its reach in samples."""

    apply: Callable[[np.ndarray], np.ndarray]
    settling: int


#: ``family(order, cutoff, sample_rate, generator)``, cutoff and sample rate in Hz
Family = Callable[[int, float, int, torch.Generator], Lowpass]


class Narrowband:
    """Simulates a narrow-band channel: what remains of speech after sampling at ``rate``.

    In training the family, order and cutoff of a filter are drawn for every segment, so that a network does not learn
    one filter and fail on all others. If the sample rate is a multiple of ``rate``, the filtered signal is decimated by
    dropping samples: a gentle filter aliases, as in a real device. At other ratios the decimation needs interpolation,
    which is free of aliasing. In evaluation there is one fixed filter, the Kaiser-windowed sinc of the resampler
    ("kaiser_best"), and nothing is random. That resampler also restores the sample rate, so nothing is left above
    ``rate / 2`` in either case.

    All filters have zero phase (recursive ones run forwards and backwards, which doubles their attenuation in
    decibels), and sample 0 stays sample 0: the result is aligned with its target and has the same length.

    Source: S. Sulun and M. E. P. Davies, "On filter generalization for music bandwidth extension using deep neural
    networks", 2021, for the random families.

    Args:
        rate: sample rate of the narrow-band signal in Hz, below the sample rate of the speech.
        cutoff_range: cutoff in training, relative to ``rate / 2``, drawn uniformly; within (0, 1].
        orders: lowest and highest order of the recursive filters, both included.
        families: names in ``FAMILIES``, all equally likely.

    Raises:
        ConfigError: an argument is out of range; or, by :meth:`check_rate` and when called, ``rate`` is not below
            the sample rate.
    """

    def __init__(
        self,
        rate: int = 8000,
        cutoff_range: Sequence[float] = (0.8, 1.0),
        orders: Sequence[int] = (2, 10),
        families: Sequence[str] = ("butterworth", "chebyshev", "chebyshev2", "elliptic", "bessel", "sinc"),
    ) -> None:
        require(
            self,
            (
                is_number(rate) and rate > 0 and rate == int(rate),
                f"rate={rate!r} must be a whole number of Hz, above 0",
            ),
            ascending(0.01, 1, cutoff_range=cutoff_range),
            ascending(1, 20, orders=orders) or whole(orders=orders),
            known_names(FAMILIES, families=families),
        )
        self.rate = int(rate)
        self.cutoff_range = pair(cutoff_range)
        self.orders = tuple(map(int, orders))
        self.families = tuple(families)

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, that is no higher than the narrow one.

        Raises:
            ConfigError: ``rate`` is not below it.
        """
        require(self, (self.rate < sample_rate, f"rate={self.rate} must be below the sample rate, {sample_rate} Hz"))

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        """Return the narrow-band ``signal (1, T)`` float32, at the sample rate of ``air (1, T)``."""
        sample_rate = draw.sample_rate
        self.check_rate(sample_rate)
        lowpass = self._lowpass(sample_rate, draw.generator) if draw.training else None
        # a pad of whole periods of the two rates, so that decimation keeps sample 0 on its grid
        period = sample_rate // math.gcd(sample_rate, self.rate)
        reach = math.ceil(RESAMPLER_REACH * sample_rate / self.rate) + (lowpass.settling if lowpass else 0)
        pad = math.ceil(reach / period) * period
        wide = reflect(air.to(torch.float32), pad)
        if lowpass is not None:
            # filtered in double precision; the copy in single is contiguous, unlike the reversed view of sosfiltfilt
            wide = torch.from_numpy(lowpass.apply(wide.numpy().astype(np.float64)).astype(np.float32, order="C"))
        if lowpass is not None and sample_rate % self.rate == 0:
            narrow = wide[..., :: sample_rate // self.rate]
        else:
            narrow = _resample(wide, sample_rate, self.rate)
        restored = _resample(narrow, self.rate, sample_rate)
        return {"signal": restored[..., pad : pad + air.shape[-1]].contiguous()}

    def _lowpass(self, sample_rate: int, generator: torch.Generator) -> Lowpass:
        family = FAMILIES[self.families[choice(len(self.families), generator)]]
        lowest, highest = self.orders
        order = lowest + choice(highest - lowest + 1, generator)
        cutoff = self.rate / 2 * uniform(*self.cutoff_range, generator)
        return family(order, cutoff, sample_rate, generator)


def _resample(signal: Tensor, from_rate: int, to_rate: int) -> Tensor:
    from bcfusion import audio

    return audio.resample(signal, from_rate, to_rate)


def butterworth(order: int, cutoff: float, sample_rate: int, generator: torch.Generator) -> Lowpass:
    """Design a Butterworth filter: flat; -6 dB at the cutoff after both passes."""
    return _recursive(scipy_signal.butter(order, cutoff, fs=sample_rate, output="sos"))


def chebyshev(order: int, cutoff: float, sample_rate: int, generator: torch.Generator) -> Lowpass:
    """Design a Chebyshev filter of the first kind: 0.05 to 1 dB of ripple per pass, up to the cutoff."""
    ripple = uniform(0.05, 1.0, generator)
    return _recursive(scipy_signal.cheby1(order, ripple, cutoff, fs=sample_rate, output="sos"))


def chebyshev2(order: int, cutoff: float, sample_rate: int, generator: torch.Generator) -> Lowpass:
    """Design a Chebyshev filter of the second kind: flat; 30 to 60 dB of attenuation per pass; -6 dB at the cutoff."""
    attenuation = uniform(30.0, 60.0, generator)
    # scipy wants the edge of the stop band; in the analogue prototype that is `ratio` times the half-power frequency
    ratio = math.cosh(math.acosh(math.sqrt(10.0 ** (attenuation / 10.0) - 1.0)) / order)
    edge = math.atan(ratio * math.tan(math.pi * cutoff / sample_rate)) * sample_rate / math.pi
    return _recursive(scipy_signal.cheby2(order, attenuation, edge, fs=sample_rate, output="sos"))


def elliptic(order: int, cutoff: float, sample_rate: int, generator: torch.Generator) -> Lowpass:
    """Design an elliptic filter: 0.05 to 1 dB of ripple up to the cutoff, then 30 to 60 dB of attenuation, per pass."""
    ripple, attenuation = uniform(0.05, 1.0, generator), uniform(30.0, 60.0, generator)
    return _recursive(scipy_signal.ellip(order, ripple, attenuation, cutoff, fs=sample_rate, output="sos"))


def bessel(order: int, cutoff: float, sample_rate: int, generator: torch.Generator) -> Lowpass:
    """Design a Bessel filter: no overshoot, the gentlest slope; -6 dB at the cutoff after both passes."""
    return _recursive(scipy_signal.bessel(order, cutoff, fs=sample_rate, norm="mag", output="sos"))


def sinc(order: int, cutoff: float, sample_rate: int, generator: torch.Generator) -> Lowpass:
    """Design a Kaiser-windowed sinc: 4 to 10 zero crossings per order and side, beta 4 to 14; -6 dB at the cutoff."""
    crossings = order * uniform(4.0, 10.0, generator)
    half = math.ceil(crossings * sample_rate / (2.0 * cutoff))
    beta = uniform(4.0, 14.0, generator)
    taps = scipy_signal.firwin(2 * half + 1, cutoff, window=("kaiser", beta), fs=sample_rate)

    def apply(wide: np.ndarray) -> np.ndarray:
        filtered: np.ndarray = scipy_signal.oaconvolve(wide, taps[None], mode="same", axes=-1)
        return filtered

    return Lowpass(apply, half)


def _recursive(sections: np.ndarray) -> Lowpass:
    """Apply second-order sections forwards and backwards; rounding would ruin the poles of a single polynomial."""
    poles = np.concatenate([np.roots(section[3:]) for section in sections])
    settling = settling_time(float(np.abs(poles).max()), decibels=60.0)
    # the steepest elliptic filters ring for a second, in a band of a few hertz: not worth a pad as long as the segment
    settling = min(settling, MAXIMAL_SETTLING)

    def apply(wide: np.ndarray) -> np.ndarray:
        filtered: np.ndarray = scipy_signal.sosfiltfilt(sections, wide, axis=-1, padtype=None)
        return filtered

    return Lowpass(apply, settling)


#: the random families by name, as in the argument ``families``
FAMILIES: Mapping[str, Family] = {
    function.__name__: function for function in (butterworth, chebyshev, chebyshev2, elliptic, bessel, sinc)
}
