"""Simulated sensors, one file each, and the few lines that all of them need.

A simulator fulfils :class:`bcfusion.contracts.Simulator`: clean air-conducted speech in, one sensor's signal of the
same length out, everything random drawn from the generator that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bcfusion.errors import ConfigError


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number from U(low, high)."""
    return low + (high - low) * float(torch.rand(1, generator=generator, dtype=torch.float64))


def choice(count: int, generator: torch.Generator) -> int:
    """One integer of 0 .. count - 1, all equally likely."""
    return int(torch.randint(count, (1,), generator=generator))


def reflect(signal: Tensor, pad: int) -> Tensor:
    """Mirrors a signal at its first and its last sample.

    Unlike ``torch.nn.functional.pad`` it takes a pad longer than the signal, which is then mirrored again and again; a
    single sample is held.

    Args:
        signal: ``(..., T)``, T of at least one sample.
        pad: samples to add on either side.

    Returns:
        ``(..., pad + T + pad)``.
    """
    length = signal.shape[-1]
    period = max(2 * (length - 1), 1)
    index = torch.arange(-pad, length + pad, device=signal.device).remainder(period)
    return signal[..., torch.minimum(index, period - index)]


def settling_time(pole_radius: float, decibels: float = 100.0) -> int:
    """Samples after which the response of a recursive filter has decayed by ``decibels``, from its outermost pole."""
    if pole_radius <= 0.0:
        return 1
    return max(1, math.ceil(-decibels / (20.0 * math.log10(pole_radius))))


def checked_range(owner: str, name: str, value: Sequence[float], lowest: float, highest: float) -> tuple[float, float]:
    """Two finite numbers in ascending order within [lowest, highest], as a tuple.

    Raises:
        ConfigError: naming the owner's argument.
    """
    try:
        low, high = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ConfigError([f"{owner}: {name}={value!r} must be two numbers, [lowest, highest]"]) from None
    if not (math.isfinite(low) and math.isfinite(high) and lowest <= low <= high <= highest):
        raise ConfigError([f"{owner}: {name}=[{low:g}, {high:g}] must ascend within [{lowest:g}, {highest:g}]"])
    return low, high
