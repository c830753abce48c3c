"""From items to batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import default_collate

from bcfusion.contracts import Batch
from bcfusion.requirements import Rule

#: a sensor yet to be simulated: its channel, valid samples, seed of its generator, seed of the wearer's generator, and
#: seed of the augmentation's changes to the result, None without these
Pending = tuple[int, int, int, int, int | None]


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
        noise: ``(1, T)``, if a simulator added room noise.
        air: ``(1, T)``, from which ``pending`` sensors are simulated.
        pending: sensors yet to be simulated; see :mod:`bcfusion.data.simulation.device_simulation`.
    """

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
    noises = [item["noise"] for item in items if "noise" in item]
    if len(noises) == len(items):
        batch["noise"] = stack(noises)
    if all("pending" in item for item in items):
        batch["air"] = stack([item["air"] for item in items])
        batch["pending"] = [item["pending"] for item in items]
    return batch


def memory_rules(batch_size: int, segment_seconds: float, sample_rate: int, sensors: int) -> list[Rule]:
    """Return the rule that a batch fits into this machine's memory, in which it is held twice while it is collated."""
    needed = 2 * 4 * batch_size * segment_seconds * sample_rate * (sensors + 1)
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    message = (
        f"reading {batch_size} crops of {segment_seconds:g} s takes {needed / 1e9:.1f} GB of memory, and this machine "
        f"has {present / 1e9:.1f}; lower data.batch_size or data.segment_seconds"
    )
    return [(needed < present, message)]
