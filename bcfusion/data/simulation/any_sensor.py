"""Sensors of several kinds: each speaker wears one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bcfusion.contracts import Draw, Simulator
from bcfusion.data.simulation import Batched, simulate_batch, takes_a_draw
from bcfusion.errors import ConfigError
from bcfusion.requirements import check_rate, is_number, require


class AnySensor(Batched):
    """Draws for each speaker which simulator makes the sensor's signal.

    For networks that shall restore sensors that nobody has measured, and as a start for ``bcfusion adapt``. The kind is
    the first number drawn from ``draw.body``; the simulator draws from what follows, so that a speaker has one sensor
    in all utterances, as far as it models the wearer: ``low_pass`` draws its filter for each utterance.

    Args:
        kinds: simulators by name.
        shares: of the speakers, by name, relative to each other; a kind that is not named has 1, one with 0 is left
            out. Null: all kinds are equally likely.

    Attributes:
        shares: of the speakers, by kind; their sum is 1.
        reads_files: whether one of the kinds reads files.

    Raises:
        ConfigError: there is no kind, a share is negative or names no kind, or a kind returns room noise separately.
    """

    def __init__(self, kinds: Mapping[str, Simulator], shares: Mapping[str, float] | None = None) -> None:
        given = dict(shares or {})
        require(
            self,
            (len(kinds) > 0, "kinds names no simulator"),
            *(takes_a_draw(f"kinds.{name}", simulator) for name, simulator in kinds.items()),
            [
                f"kinds.{name} returns room noise separately, which others do not"
                for name, simulator in kinds.items()
                if getattr(simulator, "provides_noise", False)
            ],
            [f"shares.{name} is not one of the kinds: {', '.join(kinds)}" for name in given if name not in kinds],
            [
                f"shares.{name}={share!r} must be a number, 0 or more"
                for name, share in given.items()
                if not is_number(share) or not share >= 0
            ],
        )
        weights = torch.tensor([float(given.get(name, 1.0)) for name in kinds], dtype=torch.float64)
        require(self, (bool(weights.sum() > 0), "shares leave no kind"))
        self.kinds = dict(kinds)
        self.shares = dict(zip(kinds, (weights / weights.sum()).tolist(), strict=True))
        self.reads_files = any(getattr(simulator, "reads_files", False) for simulator in self.kinds.values())
        self._edges = weights.cumsum(0) / weights.sum()

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, that one of the kinds refuses.

        Raises:
            ConfigError: it does; the kind is named.
        """
        for name, simulator in self.kinds.items():
            try:
                check_rate(simulator, sample_rate)
            except ConfigError as error:
                raise ConfigError([f"kinds.{name}: {problem}" for problem in error.problems]) from error

    def kind(self, draw: Draw) -> str:
        """Return the name of the kind that the speaker wears; it takes one number from ``draw.body``."""
        number = torch.rand(1, generator=draw.body, dtype=torch.float64)
        index = int(torch.searchsorted(self._edges, number, right=True))
        return list(self.kinds)[min(index, len(self.kinds) - 1)]

    def batch(self, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Return the sensors' ``signal (B, 1, T)`` float32 for clean speech ``air (B, 1, T)``."""
        worn: dict[str, list[int]] = defaultdict(list)
        for item, draw in enumerate(draws):
            worn[self.kind(draw)].append(item)
        signal = torch.empty(air.shape, dtype=torch.float32, device=air.device)
        for name, items in worn.items():
            made = simulate_batch(self.kinds[name], air[items], [draws[item] for item in items])
            signal[items] = made["signal"].to(torch.float32)
        return {"signal": signal}
