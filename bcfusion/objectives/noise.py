"""Normal numbers as a function of a seed and of their place: the same for a whole file, its chunks and a stream."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15


def normal_at(seed: int, draw: int, places: Tensor, values: int) -> Tensor:
    """Return standard normal numbers ``(..., values, N)`` for N places of a signal, float32.

    A number depends on the seed, the number of the draw, its place and its index there, and on nothing else: these are
    mixed by SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators"), whose halves give one
    number by the transform of Box and Muller (1958).

    Args:
        seed: any integer.
        draw: of several for the same places, from 0.
        places: ``(..., N)`` int64, such as the absolute numbers of frames.
        values: at each place.
    """
    # the generator mixes 0 to 0: the seed 0 is mixed as the number after it in its sequence
    key = _mix(_mix(torch.tensor(_signed(seed + _GOLDEN), device=places.device)) + draw)
    counter = places[..., None, :] * values + torch.arange(values, device=places.device)[:, None]
    bits = _mix(counter * _signed(_GOLDEN) + key)
    radius = ((_shifted(bits, 32).double() + 0.5) / 2**32).log().mul(-2).sqrt()
    angle = (bits & 0xFFFFFFFF).double() * (2 * math.pi / 2**32)
    return (radius * angle.cos()).float()


def _mix(x: Tensor) -> Tensor:
    """Mix 64 bits, in torch's signed integers, whose products wrap around."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right; the bits that become free are 0, not the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Return the signed integer of the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
