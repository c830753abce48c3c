"""The order of training: a pure function of seed and position.

Resuming is starting the same function elsewhere: nothing of the loader, its workers or the global random state has to
be saved.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bcfusion.data.seeding import generator_for


class BatchSchedule:
    """Which items make up which batch, without end.

    The permutations of the epochs are concatenated and cut into batches, so no batch is short, none is dropped, and a
    corpus of fewer items than a batch simply continues into its next epochs. Global batch ``g`` of ``W`` ranks consists
    of the ``W * batch_size`` places from ``g * W * batch_size``; each rank takes its own part of them.

    Args:
        n_items: items of an epoch.
        batch_size: of one rank.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        start_batch: where iteration begins.
    """

    def __init__(
        self, n_items: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start_batch: int = 0
    ) -> None:
        if n_items < 1 or batch_size < 1 or not 0 <= rank < world_size or start_batch < 0:
            raise ValueError(
                f"no schedule for n_items={n_items}, batch_size={batch_size}, rank={rank} of {world_size}, "
                f"start_batch={start_batch}"
            )
        self.n_items = n_items
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch
        self._permutations: dict[int, torch.Tensor] = {}

    def batch(self, number: int) -> list[tuple[int, int]]:
        """Return the items ``(epoch, index)`` of this rank in global batch ``number``."""
        first = (number * self.world_size + self.rank) * self.batch_size
        places = (divmod(place, self.n_items) for place in range(first, first + self.batch_size))
        return [(epoch, int(self._permutation(epoch)[place])) for epoch, place in places]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        number = self.start_batch
        while True:
            yield self.batch(number)
            number += 1

    def _permutation(self, epoch: int) -> torch.Tensor:
        if epoch not in self._permutations:
            # batches only move forward, so the latest permutation and the one before it are enough
            self._permutations = {known: order for known, order in self._permutations.items() if known == epoch - 1}
            generator = generator_for(self.seed, "order", epoch)
            self._permutations[epoch] = torch.randperm(self.n_items, generator=generator)
        return self._permutations[epoch]
