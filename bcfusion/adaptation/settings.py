"""How a network is adapted."""

from __future__ import annotations

from dataclasses import dataclass

from bcfusion.requirements import above, at_least, require, within

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How a network is adapted.

    Attributes:
        minutes: that everything may take, unless ``steps`` is set.
        steps: of each fold's training; then time plays no part, and the result is the same bit by bit. None: as many as
            fit into ``minutes``.
        fresh: start from random weights instead of the model's, which the report compares them with.
        share: of the crops of a batch that are made from speech by a simulation of the sensor, in [0, 0.95].
        lr: learning rate.
        batch_size: crops of a batch.
        segment_seconds: length of a crop.
        seed: of everything that is drawn.
        processes: that train folds at once, of one thread each on a CPU with as many cores; None: one for each core,
            at most one for each fold.

    Raises:
        ConfigError: a number is out of range.
    """

    minutes: float = 5.0
    steps: int | None = None
    fresh: bool = False
    share: float = 0.5
    lr: float = 1e-3
    batch_size: int = 16
    segment_seconds: float = 2.0
    seed: int = 0
    processes: int | None = None

    def __post_init__(self) -> None:
        require(
            "adapt",
            above(0, minutes=self.minutes, lr=self.lr, segment_seconds=self.segment_seconds),
            at_least(1, batch_size=self.batch_size),
            [] if self.steps is None else at_least(1, steps=self.steps),
            [] if self.processes is None else at_least(1, processes=self.processes),
            within(0, 0.95, share=self.share),
        )
