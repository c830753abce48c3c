"""Running statistics of normalisation layers, which several processes have to agree on."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def average_running_statistics(network: nn.Module) -> None:
    """Makes the running means and variances of batch and instance normalisation the means over all ranks, in place.

    Each rank measures its own items; without this the ranks would validate, and rank zero would save, other networks.
    All ranks have to call it together. Nothing is done with a single process.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    named = network.named_buffers()
    running = [buffer for name, buffer in named if name.rpartition(".")[2] in ("running_mean", "running_var")]
    if not running:
        return
    together = torch.cat([buffer.flatten() for buffer in running])
    torch.distributed.all_reduce(together)
    together /= torch.distributed.get_world_size()
    for buffer, mean in zip(running, together.split([buffer.numel() for buffer in running]), strict=True):
        buffer.copy_(mean.view_as(buffer))
