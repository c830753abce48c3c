"""Parts of a generator that start from statistics of training batches: which there are, and their start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from bcfusion.contracts import Batch, StartsFromStatistics
from bcfusion.probe import device_of, moved


def parts_to_start(generator: nn.Module) -> list[StartsFromStatistics]:
    """Return the parts, the generator itself among them, that still wait for statistics."""
    return [part for part in generator.modules() if isinstance(part, StartsFromStatistics) and not part.started]


@torch.no_grad()
def start_from_statistics(generator: nn.Module, batches: Iterable[Batch]) -> None:
    """Start all parts of a generator that wait for statistics.

    One pass over the batches starts those that are inside no other, the next pass those that are inside one of these,
    and so on: what an outer part computes for an inner one changes when it starts.

    Args:
        generator: in evaluation mode.
        batches: training batches, on any device; each iteration over it is one pass over the same ones.

    Raises:
        DataError: there are no batches, or samples that are not finite.
    """
    device = device_of(generator)
    for parts in _levels(generator):
        waiting = parts_to_start(generator)
        try:
            for given in batches:
                batch = moved(given, device)
                for part in waiting:  # an inner one too, which then skips what is expensive
                    part.observe(batch)
                with torch.compiler.set_stance("force_eager"):  # another graph than that of the training
                    generator(batch["inputs"])
            for part in parts:
                part.start()
        finally:
            for part in waiting:
                part.observe(None)


def _levels(generator: nn.Module) -> Iterator[list[StartsFromStatistics]]:
    """Yield the parts that wait, the outermost first, each time those that are inside equally many others."""
    places = {
        f"{name}." if name else "": part
        for name, part in generator.named_modules()
        if isinstance(part, StartsFromStatistics) and not part.started
    }
    inside: dict[int, list[StartsFromStatistics]] = {}
    for place, part in places.items():
        inside.setdefault(sum(place.startswith(other) for other in places), []).append(part)
    for number in sorted(inside):
        yield inside[number]
