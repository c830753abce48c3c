"""Simulated sensors, one per file, and the few functions that all of them need.

A simulator fulfils :class:`bcfusion.contracts.Simulator`: it makes one sensor's signal from clean air-conducted speech,
of the same length, and draws everything random from the generators of its :class:`bcfusion.contracts.Draw`.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bcfusion.contracts import BatchSimulator, Draw, Simulator
from bcfusion.requirements import Rule


def simulate_batch(simulator: Simulator, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
    """Run any simulator on a batch: at once if it takes batches, else item by item on the CPU.

    Arguments and result are those of :meth:`bcfusion.contracts.BatchSimulator.batch`.
    """
    if isinstance(simulator, BatchSimulator):
        return simulator.batch(air, draws)
    made = [simulator(item, draw) for item, draw in zip(air.cpu(), draws, strict=True)]
    return {key: torch.stack([one[key] for one in made]).to(air.device) for key in made[0]}


def takes_a_draw(name: str, simulator: Any) -> Rule:
    """Return the rule, for :func:`bcfusion.requirements.require`, that ``simulator`` has the present signature.

    Simulators used to take ``(air, sample_rate, generator, training)``; a user's own class may still do so.

    Args:
        name: how the message calls the simulator: its argument or sensor.
        simulator: what was given; None passes.
    """
    entry = simulator if inspect.isroutine(simulator) else type(simulator)
    calls = [simulator, getattr(simulator, "batch", None)]
    return (
        all(call is None or _takes_two(call) for call in calls),
        f"{name}={entry.__module__}.{entry.__qualname__} must be called as simulator(air, draw), and its batch(), if "
        "any, as batch(air, draws): sample_rate, generator, body and training are attributes of the "
        "bcfusion.contracts.Draw",
    )


def _takes_two(call: Any) -> bool:
    try:
        inspect.signature(call).bind("air", "draw")
    except TypeError:
        return False
    return True


class Batched(ABC):
    """A :class:`bcfusion.contracts.BatchSimulator` that implements ``batch`` alone: one signal is a batch of one."""

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        """See :class:`bcfusion.contracts.Simulator`."""
        return {name: signals[0] for name, signals in self.batch(air[None], [draw]).items()}

    @abstractmethod
    def batch(self, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """See :meth:`bcfusion.contracts.BatchSimulator.batch`."""


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw one number from U(low, high)."""
    return low + (high - low) * float(torch.rand(1, generator=generator, dtype=torch.float64))


def choice(count: int, generator: torch.Generator) -> int:
    """Draw one integer from 0 .. count - 1, all equally likely."""
    return int(torch.randint(count, (1,), generator=generator))


def known_names(options: Iterable[str], **lists: Sequence[str]) -> list[str]:
    """Return a message for each argument that is not one or more names out of ``options``; a rule of requirements."""
    known = list(options)
    return [
        f"{argument}={list(names)} must be one or more of {', '.join(known)}"
        for argument, names in lists.items()
        if not names or not set(names) <= set(known)
    ]


def pair(values: Sequence[float]) -> tuple[float, float]:
    """Return a range, checked by :func:`bcfusion.requirements.ascending`, as a tuple."""
    low, high = values
    return float(low), float(high)


def reflect(signal: Tensor, pad: int) -> Tensor:
    """Mirror a signal at its first and its last sample.

    Unlike ``torch.nn.functional.pad`` this takes a pad longer than the signal, which is then mirrored repeatedly; a
    single sample is held.

    Args:
        signal: ``(..., T)``, T of at least one sample.
        pad: samples to add on either side.

    Returns:
        ``(..., pad + T + pad)``.
    """
    length = signal.shape[-1]
    if pad < length:
        before, after = signal[..., 1 : pad + 1].flip(-1), signal[..., length - 1 - pad : length - 1].flip(-1)
        return torch.cat([before, signal, after], dim=-1)
    period = max(2 * (length - 1), 1)
    index = torch.arange(-pad, length + pad, device=signal.device).remainder(period)
    return signal[..., torch.minimum(index, period - index)]


def settling_time(pole_radius: float, decibels: float = 100.0) -> int:
    """Return the samples after which a recursive filter's response has decayed by ``decibels``, by its outermost pole.

    Args:
        pole_radius: magnitude of the outermost pole, below 1.
        decibels: of decay.
    """
    if pole_radius <= 0.0:
        return 1
    return max(1, math.ceil(-decibels / (20.0 * math.log10(pole_radius))))
