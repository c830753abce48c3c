"""Simulated sensors, one file each, and the few lines that all of them need.

A simulator fulfils :class:`bcfusion.contracts.Simulator`: clean air-conducted speech in, one sensor's signal of the
same length out, everything random drawn from the generator that is handed in.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from bcfusion.contracts import BatchSimulator, BodySimulator, Simulator
from bcfusion.errors import ConfigError


def simulate(
    simulator: Simulator,
    air: Tensor,
    sample_rate: int,
    generator: torch.Generator,
    training: bool,
    body: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Calls any simulator, with ``body`` where it models the wearer: for simulators that stand within others."""
    if models_body(simulator) and body is not None:
        return simulator(air, sample_rate, generator, training, body=body)
    return simulator(air, sample_rate, generator, training)


def models_body(simulator: Simulator | None) -> TypeGuard[BodySimulator]:
    """Whether a simulator is called with a generator of the wearer."""
    return isinstance(simulator, BodySimulator) and simulator.models_body


def simulate_batch(
    simulator: Simulator,
    air: Tensor,
    sample_rate: int,
    generators: Sequence[torch.Generator],
    training: bool,
    bodies: Sequence[torch.Generator] | None = None,
) -> dict[str, Tensor]:
    """Runs any simulator on a batch: at once where it can, else item by item on the CPU.

    Args, result: as of :meth:`bcfusion.contracts.BatchSimulator.batch`. ``bodies`` go to simulators of a wearer alone.
    """
    if isinstance(simulator, BatchSimulator):
        return simulator.batch(air, sample_rate, generators, training, bodies)
    made = [
        simulate(simulator, item, sample_rate, generator, training, None if bodies is None else bodies[number])
        for number, (item, generator) in enumerate(zip(air.cpu(), generators, strict=True))
    ]
    return {key: torch.stack([one[key] for one in made]).to(air.device) for key in made[0]}


class Batched(ABC):
    """A :class:`bcfusion.contracts.BatchSimulator` that writes ``batch`` alone: one signal is a batch of one."""

    def __call__(
        self,
        air: Tensor,
        sample_rate: int,
        generator: torch.Generator,
        training: bool,
        *,
        body: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """For clean speech ``air (1, T)`` the sensor's ``signal (1, T)`` float32.

        Without ``body`` what models the wearer is drawn from ``generator`` too.
        """
        made = self.batch(air[None], sample_rate, [generator], training, None if body is None else [body])
        return {name: signals[0] for name, signals in made.items()}

    @abstractmethod
    def batch(
        self,
        air: Tensor,
        sample_rate: int,
        generators: Sequence[torch.Generator],
        training: bool,
        bodies: Sequence[torch.Generator] | None = None,
    ) -> dict[str, Tensor]:
        """See :meth:`bcfusion.contracts.BatchSimulator.batch`."""


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
