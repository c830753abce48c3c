"""Generators inside of generators: one as a part of a network, or one for each sensor side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion.contracts import Fitted, Generator
from bcfusion.errors import ConfigError
from bcfusion.nn.delay import Delay
from bcfusion.nn.network import WaveformNetwork, estimate_of

#: makes a generator when called with ``in_channels``; in a YAML a ``_target_`` with ``_partial_: true``
Build = Callable[..., nn.Module]


class Inner(nn.Module):
    """A generator as a part: ``(B, S, T) -> (B, 1, T)`` for whole hops, late by ``lookahead``.

    Args:
        network: any that fulfils :class:`bcfusion.contracts.Generator`. Of one of ours the body is called, so that it
            streams inside of a streaming network; another is called whole, and gives what is aligned.
        sample_rate: that it must have, in Hz.

    Attributes:
        hop, delay: the network's. causal: whether it is causal and can stream. lookahead: samples.

    Raises:
        ConfigError: another sample rate, or statistics of the training set that it would have to take (``fit``).
    """

    def __init__(self, network: nn.Module, sample_rate: int) -> None:
        super().__init__()
        spec = cast("Generator", network)
        if isinstance(network, Fitted):
            name = type(network).__name__
            raise ConfigError([f"{name} takes statistics from the training set, and cannot do so inside of a network"])
        if spec.sample_rate != sample_rate:
            name = type(network).__name__
            raise ConfigError([f"{name} works at {spec.sample_rate} Hz, the network around it at {sample_rate} Hz"])
        self.network = network
        self.hop, self.delay = spec.hop, spec.delay
        self.causal = spec.causal and isinstance(network, WaveformNetwork)  # another has no state for a stream
        self.lookahead = network.lookahead if isinstance(network, WaveformNetwork) else 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Whole hops."""
        whole = not isinstance(self.network, WaveformNetwork)
        output = self.network(inputs) if whole else cast("WaveformNetwork", self.network).body(inputs)
        return estimate_of(output)


class Branches(nn.Module):
    """``(B, S, T) -> (B, S, T)``: what a generator of its own makes of each sensor, all equally late.

    Args:
        build: makes the generator of one sensor. last: makes that of the last sensor, where it is another one.
        sensors: S. sample_rate: that they all must have, in Hz.

    Attributes:
        hop: samples, the least common multiple of theirs. causal: whether all are. lookahead: samples. delay: the
            longest, None where one hears the whole file.

    Raises:
        ConfigError: generators of another sample rate.
    """

    def __init__(self, build: Build, last: Build | None, sensors: int, sample_rate: int) -> None:
        super().__init__()
        builds = [build] * (sensors - 1) + [last or build]
        parts = [Inner(make(in_channels=1), sample_rate) for make in builds]
        self.parts = nn.ModuleList(parts)
        self.hop = math.lcm(*(part.hop for part in parts))
        self.causal = all(part.causal for part in parts)
        self.lookahead = max(part.lookahead for part in parts)
        self.waits = nn.ModuleList(Delay(self.lookahead - part.lookahead) for part in parts)
        delays = [part.delay for part in parts if part.delay is not None]
        self.delay = max(delays) if len(delays) == len(parts) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Whole hops, late by ``lookahead``."""
        pairs = zip(self.parts, self.waits, strict=True)
        return torch.cat([wait(part(inputs[:, [sensor]])) for sensor, (part, wait) in enumerate(pairs)], dim=1)
