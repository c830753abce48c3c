"""Weights and signals by a rule; with them public code gave the output values in the tests of published networks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def fill(tensors: Iterable[Tensor], seed: int = 0) -> None:
    """Set tensors by a rule that depends on their shapes and their order among those of the same shape.

    Values are uniform: of a weight with the standard deviation ``1 / sqrt(inputs)``, so that levels stay as they are;
    of a vector (gains, biases, means) in [-.5, .5].
    """
    seen: Counter[tuple[int, ...]] = Counter()
    with torch.no_grad():
        for tensor in tensors:
            shape = tuple(tensor.shape)
            drawn = np.random.default_rng([seed, seen[shape], *shape]).random(shape) - 0.5
            seen[shape] += 1
            values = drawn * math.sqrt(12 / math.prod(shape[1:])) if len(shape) > 1 else drawn
            tensor.copy_(torch.from_numpy(values))


def signal(*shape: int, level: float = 0.3, seed: int = 0) -> Tensor:
    """Return uniform noise within ``+-level``, in float64."""
    return torch.from_numpy(level * (2 * np.random.default_rng([seed, *shape]).random(shape) - 1))


def fingerprint(x: Tensor) -> list[float]:
    """Return the norm of a tensor and 16 of its values, spread evenly from the first to the last."""
    flat = x.detach().double().flatten()
    return [float(flat.norm()), *flat[torch.linspace(0, len(flat) - 1, 16).long()].tolist()]


def assert_published(x: Tensor, published: Sequence[float], tolerance: float = 1e-5) -> None:
    """Compare the :func:`fingerprint` of ``x``: norms, and values to the same fraction of their root mean square."""
    found = fingerprint(x)
    assert abs(found[0] - published[0]) <= tolerance * published[0]
    rms = published[0] / math.sqrt(x.numel())
    assert max(abs(a - b) for a, b in zip(found[1:], published[1:], strict=True)) <= tolerance * rms
