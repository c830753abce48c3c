"""From items to batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from math import prod
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import default_collate, get_worker_info

from bcfusion.contracts import Batch
from bcfusion.data.loading.memory import BatchMemory
from bcfusion.requirements import Rule
from bcfusion.system import memory

#: a sensor yet to be simulated: its channel, valid samples, seed of its generator, seed of the wearer's generator, and
#: seed of the augmentation's changes to the result, None without these
Pending = tuple[int, int, int, int, int | None]

_SIGNALS = ("inputs", "target", "noise", "air")


class _RequiredItem(TypedDict):
    inputs: Tensor
    target: Tensor
    length: int
    id: str
    unreadable: list[str]


class Item(_RequiredItem, total=False):
    """One utterance, or one crop of it.

    Attributes:
        inputs: ``(S, T)`` float32.
        target: ``(1, T)`` float32.
        length: valid samples; the rest is zero.
        id: of the row.
        unreadable: files that could not be read, in place of which this item was made.
        origin: the files of a training crop and the second at which it begins.
        noise: ``(1, T)``, if a simulator added room noise.
        air: ``(1, T)``, from which ``pending`` sensors are simulated.
        pending: sensors yet to be simulated; see :mod:`bcfusion.data.simulation.device_simulation`.
    """

    origin: str
    noise: Tensor
    air: Tensor
    pending: list[Pending]


def collate(items: Sequence[Item]) -> Batch:
    """Stack items, padded with zeros to the longest.

    Args:
        items: at least one.

    Returns:
        A :class:`~bcfusion.contracts.Batch`. It holds ``noise`` if every item does, and ``air`` and ``pending`` if
        every item has them.
    """
    longest = max(item["target"].shape[-1] for item in items)

    def stack(signals: Sequence[Tensor]) -> Tensor:
        padded = [
            signal if signal.shape[-1] == longest else pad(signal, (0, longest - signal.shape[-1]))
            for signal in signals
        ]
        # in a worker this stacks directly into the memory shared with the trainer
        stacked: Tensor = default_collate(padded)
        return stacked

    batch = Batch(
        inputs=stack([item["inputs"] for item in items]),
        target=stack([item["target"] for item in items]),
        lengths=torch.tensor([item["length"] for item in items], dtype=torch.int64),
        ids=[item["id"] for item in items],
        unreadable=[path for item in items for path in item["unreadable"]],
    )
    if all("origin" in item for item in items):
        batch["origins"] = [item["origin"] for item in items]
    noises = [item["noise"] for item in items if "noise" in item]
    if len(noises) == len(items):
        batch["noise"] = stack(noises)
    if all("pending" in item for item in items):
        batch["air"] = stack([item["air"] for item in items])
        batch["pending"] = [item["pending"] for item in items]
    return batch


class Filled:
    """A batch in a block of memory that the trainer shares: what it receives in place of this is the batch.

    Args:
        memory: has the block.
        block: its number.
        shapes: of the signals that follow each other in the block, by name.
        others: the values of the batch that are no signals; ``lengths`` as a list.
        names: the signals that belong to the batch.
    """

    def __init__(
        self,
        memory: BatchMemory,
        block: int,
        shapes: Mapping[str, tuple[int, ...]],
        others: Mapping[str, Any],
        names: Sequence[str],
    ) -> None:
        self._parts = memory, block, shapes, others, names

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, self._parts


def fill(items: Iterator[Item], count: int, memory: BatchMemory) -> Batch | Filled | None:
    """Copy items of one length into a batch, each as soon as it is made.

    Args:
        items: are taken until there are ``count`` or no more.
        count: at least one.
        memory: in which the batch is made, if a block is free.

    Returns:
        What :func:`collate` would return, in a reader process as :class:`Filled`; None if there are no items.
    """
    first = next(items, None)
    if first is None:
        return None
    shapes = {name: (count, *first[name].shape) for name in _SIGNALS if name in first}  # type: ignore[literal-required]
    size = sum(map(prod, shapes.values()))
    block = memory.take(4 * size)
    whole = torch.empty(size) if block is None else memory.samples(block, size, lent=False)
    signals = _cut(whole, shapes)
    names = dict.fromkeys(shapes)
    others: dict[str, Any] = {"lengths": [], "ids": [], "unreadable": [], "pending": [], "origins": []}
    try:
        for place, item in enumerate(chain([first], islice(items, count - 1))):
            for name in [name for name in names if name not in item]:
                del names[name]
            for name in names:
                signals[name][place] = item[name]  # type: ignore[literal-required]
            others["lengths"].append(item["length"])
            others["ids"].append(item["id"])
            others["unreadable"] += item["unreadable"]
            if "pending" in item:
                others["pending"].append(item["pending"])
            if "origin" in item:
                others["origins"].append(item["origin"])
    except BaseException:
        if block is not None:
            memory.free(block)
        raise
    if len(others["pending"]) < len(others["ids"]):
        names.pop("air", None)
        del others["pending"]
    if len(others["origins"]) < len(others["ids"]):
        del others["origins"]
    if block is None:
        return _batch(signals, others, names)
    filled = memory, block, shapes, others, list(names)
    return Filled(*filled) if get_worker_info() else _received(*filled)


def _received(
    memory: BatchMemory,
    block: int,
    shapes: Mapping[str, tuple[int, ...]],
    others: Mapping[str, Any],
    names: Sequence[str],
) -> Batch:
    whole = memory.samples(block, sum(map(prod, shapes.values())), lent=True)
    return _batch(_cut(whole, shapes), others, names)


def _cut(whole: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    parts = whole.split([prod(shape) for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _batch(signals: Mapping[str, Tensor], others: Mapping[str, Any], names: Iterable[str]) -> Batch:
    there = {name: signals[name][: len(others["ids"])] for name in names}
    return Batch(**there, **{**others, "lengths": torch.tensor(others["lengths"], dtype=torch.int64)})  # type: ignore[typeddict-item]


def memory_rules(batch_size: int, segment_seconds: float, sample_rate: int, sensors: int) -> list[Rule]:
    """Return the rule that two batches fit into this machine's memory: the one that is trained on, and the next."""
    needed = 2 * 4 * batch_size * segment_seconds * sample_rate * (sensors + 1)
    present = memory()
    if present is None:
        return []
    message = (
        f"reading {batch_size} crops of {segment_seconds:g} s takes {needed / 1e9:.1f} GB of memory, and this machine "
        f"has {present / 1e9:.1f}; lower data.batch_size or data.segment_seconds"
    )
    return [(needed < present, message)]
