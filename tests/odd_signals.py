"""Signals that no recording should hold and some do: silence, denormal numbers, full scale, a constant, NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

RATE = 16000
SHORT = 2400  # samples, shorter than some windows and longer than others
LONG = 21 * RATE  # longer than any receptive field: what grows with time shows by then


def _noise(samples: int) -> Tensor:
    return 0.07 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def _square(samples: int) -> Tensor:
    """Full scale, 100 Hz."""
    return 1.0 - 2.0 * (torch.arange(samples) // (RATE // 200) % 2)


def _with(value: float) -> Callable[[int], Tensor]:
    def make(samples: int) -> Tensor:
        signal = _noise(samples)
        signal[samples // 2] = value
        return signal

    return make


#: finite signals ``(T,)`` by name, of any number of samples
FINITE: dict[str, Callable[[int], Tensor]] = {
    "noise": _noise,
    "silence": torch.zeros,
    "denormals": lambda samples: 1e-39 * _noise(samples),  # below 1.2e-38, the least normal number of float32
    "faint": lambda samples: 1e-20 * _noise(samples),  # whose squares are 0 in float32
    "square": _square,
    "dc": torch.ones,
}
#: what no file may hold
BROKEN: dict[str, Callable[[int], Tensor]] = {
    "NaN": _with(torch.nan),
    "Inf": _with(torch.inf),
    "-Inf": _with(-torch.inf),
}


def batch(names: Iterable[str], samples: int, channels: int = 1) -> Tensor:
    """Return the named signals as ``(B, channels, samples)``."""
    signals = FINITE | BROKEN
    return torch.stack([signals[name](samples) for name in names])[:, None].repeat(1, channels, 1)
