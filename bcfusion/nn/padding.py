"""Padding of time by zeros or by the mirrored signal, in the memory layout of the signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PaddingMode = Literal["zeros", "reflect"]


def pad(x: Tensor, left: int, right: int, mode: PaddingMode = "zeros") -> Tensor:
    """Pad the time of ``(B, C, T)`` to ``(B, C, left + T + right)``; a channels-last tensor stays one.

    Args:
        x: the signal, of at least one sample.
        left: samples to add before it.
        right: samples to add after it.
        mode: ``zeros``, or ``reflect``, which mirrors the signal at its first and last sample without repeating them,
            for as many samples as there are, and continues with zeros. torch's own reflection has no deterministic
            gradient on a GPU; this one does.
    """
    if mode == "reflect":
        if not isinstance(x.shape[-1], int):
            return _mirrored_by_index(x, left, right)
        mirrored = x.shape[-1] - 1  # as many samples as can be mirrored at either end
        head, tail = min(left, mirrored), min(right, mirrored)
        if head + tail:
            parts = (x[..., 1 : head + 1].flip(-1), x, x[..., mirrored - tail : mirrored].flip(-1))
            x = _concatenate_time(parts)
        left, right = left - head, right - tail
    if not left and not right:
        return x
    # in four dimensions, because padding keeps the channels-last layout only there
    return F.pad(x.unsqueeze(2), (left, right, 0, 0)).squeeze(2)


def _mirrored_by_index(x: Tensor, left: int, right: int) -> Tensor:
    """Return the reflection in an exported graph, whose signals have any length, shorter than the padding too."""
    length = x.shape[-1]
    place = torch.arange(-left, length + right, device=x.device)
    source = torch.where(place < 0, -place, torch.where(place >= length, 2 * (length - 1) - place, place))
    inside = (source >= 0) & (source < length)
    return torch.where(inside, x[..., source.clamp(min=0).clamp(max=length - 1)], 0.0)


def _concatenate_time(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors ``(B, C, T)`` over time, keeping their layout."""
    if all(part.stride(1) == 1 for part in parts):  # channels last
        return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)
    return torch.cat(list(parts), dim=-1)
