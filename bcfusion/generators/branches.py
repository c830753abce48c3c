"""Generators inside other generators: one as a part of a network, or one per sensor side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion.contracts import Fitted, Generator
from bcfusion.nn.delay import Delay
from bcfusion.nn.frequency_norm import FrequencyNormalised
from bcfusion.nn.network import WaveformNetwork, estimate_of
from bcfusion.requirements import require

#: builds a generator when called with ``in_channels``; in a YAML a ``_target_`` with ``_partial_: true``
Build = Callable[..., nn.Module]


class Inner(nn.Module):
    """A generator as a part of a network: ``(B, S, T) -> (B, 1, T)`` for whole hops, late by ``lookahead``.

    Args:
        network: anything that fulfils :class:`bcfusion.contracts.Generator`. Of a WaveformNetwork only the body is
            called, so that it streams inside a streaming network; any other is called as a whole, and its output is
            aligned.
        sample_rate: required of the network, in Hz.
        late: samples by which its input is late.

    Attributes:
        hop: the network's.
        delay: the network's.
        causal: whether it is causal and can stream.
        lookahead: samples.

    Raises:
        ConfigError: another sample rate, or a network that has to measure the training set (``fit``).
    """

    def __init__(self, network: nn.Module, sample_rate: int, late: int = 0) -> None:
        spec = cast("Generator", network)
        same_rate = spec.sample_rate == sample_rate
        require(
            network,
            (not isinstance(network, Fitted), "measures the training set, which it cannot do inside another network"),
            (same_rate, f"works at {spec.sample_rate} Hz, but the network around it at {sample_rate} Hz"),
        )
        super().__init__()
        self.network = network
        self.hop, self.delay = spec.hop, spec.delay
        self.causal = spec.causal and isinstance(network, WaveformNetwork)  # any other has no state for a stream
        self.lookahead = network.lookahead if isinstance(network, WaveformNetwork) else 0
        for part in network.modules():
            if isinstance(part, FrequencyNormalised):
                part.late += late  # statistics compare its input with the target

    def forward(self, inputs: Tensor) -> Tensor:
        whole = not isinstance(self.network, WaveformNetwork)
        output = self.network(inputs) if whole else cast("WaveformNetwork", self.network).body(inputs)
        return estimate_of(output)


class Branches(nn.Module):
    """``(B, S, T) -> (B, S, T)``: one generator per sensor, all equally late.

    Args:
        build: builds the generator of one sensor.
        last: builds the generator of the last sensor; None: ``build``.
        sensors: S.
        sample_rate: required of all of them, in Hz.

    Attributes:
        hop: samples, the least common multiple of theirs.
        causal: whether all are causal.
        lookahead: samples.
        delay: the longest; None if one depends on the whole file.

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
        """Restore whole hops, late by ``lookahead``."""
        pairs = zip(self.parts, self.waits, strict=True)
        return torch.cat([wait(part(inputs[:, [sensor]])) for sensor, (part, wait) in enumerate(pairs)], dim=1)
