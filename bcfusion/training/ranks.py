"""What the processes of a run exchange; with a single process nothing is exchanged."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def several() -> bool:
    """Return whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def gathered(value: T) -> list[T]:
    """Return the value of every rank, on every rank; all ranks must call it together."""
    if not several():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, the same on every rank; all ranks must call it together."""
    if not several():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


@torch.no_grad()
def average_running_statistics(network: nn.Module) -> None:
    """Replace running means, variances and counts of batch and instance normalisation by their means over all ranks.

    Each rank measures its own items; without this, the ranks would validate different networks, and rank zero would
    save another one than the rest train. All ranks must call it together.
    """
    named = network.named_buffers() if several() else ()
    running = [buffer for name, buffer in named if name.rpartition(".")[2] in _RUNNING]
    if not running:
        return
    means = mean_over_ranks(torch.cat([buffer.flatten().double() for buffer in running]))
    for buffer, mean in zip(running, means.split([buffer.numel() for buffer in running]), strict=True):
        buffer.copy_(mean.view_as(buffer))
