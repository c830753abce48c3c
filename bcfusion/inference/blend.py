"""Less of a network: its output mixed with the sensor that it starts from, as a network again.

A network that removes too much is a frequent complaint, and the remedy is a mixture. The mixture here is a network
itself, so that whole files, streams and exported graphs have it alike.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.errors import ConfigError
from bcfusion.nn.delay import Delay
from bcfusion.nn.network import estimate_of, least_frame_of, lookahead_of
from bcfusion.nn.streaming import StreamingModule
from bcfusion.run.bundle import bundle_of

__all__ = ["Blend", "blended", "input_share"]


def input_share(strength: float = 1.0, limit_db: float | None = None) -> float:
    """Return the share g of the input in ``g x + (1 - g) y``, x the sensor and y the network's output.

    Args:
        strength: 1 is the network alone, 0 the sensor alone; g = 1 - strength.
        limit_db: instead, by how many dB at most a component of the sensor is attenuated; g = 10^(-limit_db / 20).

    Raises:
        ConfigError: a strength outside 0 to 1, a negative limit, or both.
    """
    problems = []
    if not 0 <= strength <= 1:
        problems.append(f"strength={strength:g} must be from 0 to 1")
    if limit_db is not None and not limit_db >= 0:
        problems.append(f"limit_db={limit_db:g} must be at least 0")
    if limit_db is not None and strength != 1:
        problems.append("give either a strength or a limit in dB")
    if problems:
        raise ConfigError(problems)
    return 1 - strength if limit_db is None else 10 ** (-limit_db / 20)


def blended(generator: nn.Module, strength: float = 1.0, limit_db: float | None = None) -> nn.Module:
    """Return the generator itself if nothing of the input is wanted, else a :class:`Blend` of both.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        strength: see :func:`input_share`.
        limit_db: likewise.

    Raises:
        ConfigError: see :func:`input_share`.
    """
    share = input_share(strength, limit_db)
    return Blend(generator, share) if share else generator


class Blend(StreamingModule):
    """``g x + (1 - g) y``: y the output of a network, x the sensor that it starts from (its ``skip_channel``).

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`. Its bundle is that of the mixture, too.
        share: g, 0 to 1.
    """

    provides: tuple[str, ...] = ()

    def __init__(self, generator: nn.Module, share: float) -> None:
        super().__init__()
        spec = cast("Generator", generator)
        self.generator, self.share = generator, share
        self.sample_rate, self.in_channels, self.hop = spec.sample_rate, spec.in_channels, spec.hop
        self.causal = spec.causal and isinstance(generator, StreamingModule)  # another one keeps no state
        self.delay = spec.delay
        self.skip_channel = int(getattr(generator, "skip_channel", -1)) % spec.in_channels
        self.lookahead = lookahead_of(spec)
        self.least_frame = least_frame_of(generator)
        self.late = Delay(self.lookahead)
        if bundle := bundle_of(generator):
            vars(self)["bundle"] = bundle
        self.train(generator.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Restore ``(B, S, T)`` to ``(B, 1, T)``; a stream is late by ``lookahead`` samples."""
        estimate = estimate_of(self.generator(inputs))
        sensor = inputs[:, self.skip_channel : self.skip_channel + 1]
        if self.is_streaming and inputs.shape[-1]:
            sensor = self.late(sensor)
        return self.share * sensor + (1 - self.share) * estimate
