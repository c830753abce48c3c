"""A generator as a part of another network."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor, nn

from bcfusion.contracts import Fitted, Generator
from bcfusion.nn.frequency_norm import FrequencyNormalised
from bcfusion.nn.network import WaveformNetwork, estimate_of
from bcfusion.requirements import require

#: builds a generator when called with ``in_channels``; in a YAML a ``_target_`` with ``_partial_: true``
Build = Callable[..., nn.Module]


def takes(build: Build, argument: str) -> bool:
    """Return whether a builder, or the class whose arguments it holds, takes an argument of this name."""
    return argument in inspect.signature(getattr(build, "func", build)).parameters


def looking_ahead(build: Build, lookahead_ms: float) -> Build:
    """Return a builder whose generator has this additional look-ahead; 0 leaves the builder and its own as they are.

    Args:
        build: of a generator.
        lookahead_ms: see :class:`bcfusion.nn.network.WaveformNetwork`.

    Raises:
        ConfigError: a generator that has no additional look-ahead.
    """
    if not lookahead_ms:
        return build
    name = getattr(getattr(build, "func", build), "__name__", "the network")
    known = takes(build, "lookahead_ms")
    require(name, (known, f"lookahead_ms={lookahead_ms!r} is for causal networks; this one takes none: set it to 0"))
    return partial(build, lookahead_ms=lookahead_ms)


class Inner(nn.Module):
    """A generator as a part of a network: ``(B, S, T) -> (B, 1, T)`` for whole hops, late by ``lookahead``.

    Args:
        network: anything that fulfils :class:`bcfusion.contracts.Generator`. A WaveformNetwork is only run, not padded
            and trimmed, so that it streams inside a streaming network; any other is called as a whole, and its output
            is aligned.
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
            (
                not getattr(network, "learns_from", ()),
                "has a part that only a loss on its latent teaches: not in another",
            ),
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
        output = self.network(inputs) if whole else cast("WaveformNetwork", self.network).run(inputs)
        return estimate_of(output)
