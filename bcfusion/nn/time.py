"""Networks conditioned on the time of the path on which their input lies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bcfusion.requirements import above, at_least, require


class TimeConditioned(nn.Module):
    """A mix-in for networks whose layers depend on a time in [0, 1], one for each item of the batch.

    Whoever runs the network on a path sets the time around the call; without it, as in regression, it is 1, that of
    the source. Layers read it by :attr:`time`::

        with network.at_time(time):
            estimate = network(inputs)
    """

    _time: Tensor | None = None

    @contextmanager
    def at_time(self, time: Tensor) -> Iterator[None]:
        """Set the time ``(B,)`` of the passes in this context."""
        before, self._time = self._time, time
        try:
            yield
        finally:
            self._time = before

    def time(self, like: Tensor) -> Tensor:
        """Return the time ``(B,)`` of a batch ``(B, ...)``, in its dtype."""
        if self._time is None:
            return like.new_ones(like.shape[0])
        return self._time.to(like)


class TimeEmbedding(nn.Module):
    """Times ``(B,)`` in [0, 1] to vectors ``(B, channels)``: sines and cosines, then two linear layers with SiLU.

    The frequencies are a geometric series, from one period over all times up to ``highest`` (after Vaswani et al. 2017,
    "Attention is all you need", section 3.5, for times of this range).

    Args:
        channels: of the vectors.
        waves: sines, and as many cosines.
        highest: periods in [0, 1] of the fastest wave.

    Raises:
        ConfigError: sizes below one.
    """

    frequencies: Tensor

    def __init__(self, channels: int, waves: int = 16, highest: float = 128.0) -> None:
        require(self, at_least(1, channels=channels, waves=waves), above(1, highest=highest))
        super().__init__()
        steps = torch.linspace(0, math.log(highest), waves, dtype=torch.float64).exp()
        self.register_buffer("frequencies", (2 * math.pi * steps).float(), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * waves, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())

    def forward(self, time: Tensor) -> Tensor:
        phases = time.to(self.frequencies)[:, None] * self.frequencies
        embedded: Tensor = self.layers(torch.cat([phases.sin(), phases.cos()], dim=1))
        return embedded
