"""Generators side by side, one per sensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bcfusion.nn.delay import Delay
from bcfusion.nn.inner import Build, Inner, looking_ahead
from bcfusion.nn.network import least_frame_of


class Branches(nn.Module):
    """``(B, S, T) -> (B, S, T)``: one generator per sensor, all equally late.

    Args:
        build: builds the generator of one sensor.
        last: builds the generator of the last sensor; None: ``build``.
        sensors: S.
        sample_rate: required of all of them, in Hz.
        lookahead_ms: additional look-ahead of all of them; 0: that of their own argument.

    Attributes:
        hop: samples, the least common multiple of theirs.
        causal: whether all are causal.
        lookahead: samples.
        least_frame: the longest, in seconds.
        delay: the longest; None if one depends on the whole file.

    Raises:
        ConfigError: generators of another sample rate, or that take no additional look-ahead.
    """

    def __init__(
        self, build: Build, last: Build | None, sensors: int, sample_rate: int, lookahead_ms: float = 0.0
    ) -> None:
        super().__init__()
        builds = [build] * (sensors - 1) + [last or build]
        parts = [Inner(looking_ahead(make, lookahead_ms)(in_channels=1), sample_rate) for make in builds]
        self.parts = nn.ModuleList(parts)
        self.hop = math.lcm(*(part.hop for part in parts))
        self.causal = all(part.causal for part in parts)
        self.lookahead = max(part.lookahead for part in parts)
        self.least_frame = max(least_frame_of(part.network) for part in parts)
        self.waits = nn.ModuleList(Delay(self.lookahead - part.lookahead) for part in parts)
        delays = [part.delay for part in parts if part.delay is not None]
        self.delay = max(delays) if len(delays) == len(parts) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Restore whole hops, late by ``lookahead``."""
        pairs = zip(self.parts, self.waits, strict=True)
        return torch.cat([wait(part(inputs[:, [sensor]])) for sensor, (part, wait) in enumerate(pairs)], dim=1)
