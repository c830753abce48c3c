"""From items to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad

from bcfusion.contracts import Batch


class _RequiredItem(TypedDict):
    inputs: Tensor
    target: Tensor
    length: int
    id: str
    unreadable: list[str]


class Item(_RequiredItem, total=False):
    """One utterance, or one crop of it.

    inputs: ``(S, T)`` float32. target: ``(1, T)`` float32. length: valid samples, the rest is zero. id: of the row.
    unreadable: files that this item was to be made of and could not. noise: ``(1, T)``, where a simulator added some.
    """

    noise: Tensor


def collate(items: Sequence[Item]) -> Batch:
    """Stack items, padded with zeros to the longest.

    Args:
        items: at least one.

    Returns:
        The batch of :class:`~bcfusion.contracts.Batch`; ``noise`` is in it if every item has it.
    """
    longest = max(item["target"].shape[-1] for item in items)

    def stack(signals: Sequence[Tensor]) -> Tensor:
        return torch.stack([pad(signal, (0, longest - signal.shape[-1])) for signal in signals])

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
    return batch
