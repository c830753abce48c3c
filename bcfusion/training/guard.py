"""Training that diverges: non-finite gradients are left out and counted, and outputs that are no sound end the run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bcfusion.errors import TrainingError
from bcfusion.training.ranks import gathered

#: Peak of an output, in units of full scale, that no speech reaches: 60 dB above it.
LARGEST_PEAK = 1000.0


def output_problem(estimate: np.ndarray, largest: float = LARGEST_PEAK) -> str | None:
    """Return what is wrong with an output ``(T,)``: not finite, or a peak above ``largest``; None if nothing is."""
    peak = float(np.abs(estimate).max(initial=0.0))  # a NaN anywhere makes it NaN
    if not np.isfinite(peak):
        return "is not finite"
    return f"reaches {peak:.2g} times full scale" if peak > largest else None


class Diverged(TrainingError):
    """The network gives outputs that are not finite, or far above full scale."""

    def __init__(self, step: int, item: str, problem: str, best_step: int = -1) -> None:
        if step == 0:
            super().__init__(
                f"at step 0, before any training: the output for {item} {problem}\n"
                "The initial weights are at fault: look at the network, or at the weights that init_from names."
            )
            return
        best = f" from the checkpoint of step {best_step}, the best so far (init_from=RUN)" if best_step > 0 else ""
        super().__init__(
            f"diverged at step {step}: the output for {item} {problem}\n"
            f"Lower optimizer.lr, or set trainer.clip.generator, and start again{best}."
        )


class StepGuard:
    """Counts the optimiser steps that were left out, and remembers the batches that led to them.

    Args:
        networks: names of the networks that take steps.
        max_bad_steps: number of bad steps in a row that ends the run; a step is bad if either network's was left out.

    Attributes:
        skipped: number of steps left out, by network.
    """

    def __init__(self, networks: Iterable[str], max_bad_steps: int) -> None:
        self.max_bad_steps = max_bad_steps
        self.skipped = dict.fromkeys(networks, 0)
        self._bad = False
        self._bad_in_a_row = 0
        # step, ids and losses of the batches of this optimiser step
        self._batches: list[tuple[int, list[str], list[Tensor]]] = []
        self._bad_batches: list[_BadBatch] = []  # of the bad steps in a row

    @property
    def next_ends(self) -> bool:
        """Whether the run ends if the next optimiser step is bad."""
        return self._bad_in_a_row >= self.max_bad_steps - 1

    def skip(self, network: str) -> None:
        """Count the present step of a network as left out."""
        self.skipped[network] += 1
        self._bad = True

    def batch_ends(self, step: int, ids: Iterable[str], ends_step: bool, losses: Iterable[Tensor] = ()) -> None:
        """Take note of a batch, and judge the optimiser step if the batch is its last one.

        The gradients that made a step bad are those of all ranks, so that all judge alike.

        Args:
            step: number of the batch.
            ids: of its items, on this rank.
            ends_step: whether an optimiser step ends with it.
            losses: scalars of this rank, by which its items are told from those of other ranks.

        Raises:
            NonFiniteSteps: ``max_bad_steps`` steps in a row were bad; on all ranks.
        """
        self._batches.append((step, list(ids), list(losses)))
        if not ends_step:
            return
        self._bad_in_a_row = self._bad_in_a_row + 1 if self._bad else 0
        bad = [_BadBatch(*batch[:2], all(map(_is_finite, batch[2]))) for batch in self._batches] if self._bad else []
        self._bad_batches = [*self._bad_batches, *bad] if self._bad else []
        self._bad, self._batches = False, []
        if self._bad_in_a_row >= self.max_bad_steps:
            raise NonFiniteSteps(self._bad_in_a_row, _blamed(gathered(self._bad_batches)))

    def state(self) -> dict[str, Any]:
        """Return the counts as plain containers."""
        return {"skipped_steps": dict(self.skipped), "bad_in_a_row": self._bad_in_a_row}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.skipped.update(state["skipped_steps"])
        self._bad_in_a_row = int(state["bad_in_a_row"])


class _BadBatch(NamedTuple):
    """A batch of one rank in a bad step; ``finite`` if its losses do not tell why the step was bad."""

    step: int
    ids: list[str]
    finite: bool


def _is_finite(loss: Tensor) -> bool:
    return bool(torch.isfinite(loss))


def _blamed(ranks: list[list[_BadBatch]]) -> list[tuple[int, list[str]]]:
    """Return step and ids of the batches with a loss that is not finite; of those of all ranks if that is none."""
    batches = sorted(itertools.chain.from_iterable(ranks), key=lambda batch: batch.step)
    blamed = [batch for batch in batches if not batch.finite] or batches
    return [(step, [name for batch in group for name in batch.ids]) for step, group in _by_step(blamed)]


def _by_step(batches: list[_BadBatch]) -> Iterator[tuple[int, Iterator[_BadBatch]]]:
    return itertools.groupby(batches, key=lambda batch: batch.step)


class NonFiniteSteps(TrainingError):
    """Too many steps in a row had a non-finite gradient.

    Attributes:
        batches: step and ids of the batches of these steps, of the ranks whose losses were not finite.
    """

    def __init__(self, count: int, batches: list[tuple[int, list[str]]]) -> None:
        self.batches = batches
        step, ids = batches[-1]
        super().__init__(
            f"diverged at step {step}: {count} steps in a row had a non-finite gradient. "
            f"Last batch: {', '.join(ids[:4])}{', ...' if len(ids) > 4 else ''}\n"
            "Lower optimizer.lr, set trainer.clip.generator, or listen to these files."
        )
