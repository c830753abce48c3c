"""What the comparisons with public code share: float64, signals, differences, and the table of what was found."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

#: of the quantity compared; all comparisons run in float64, where what remains are constants that one side rounds
TOLERANCE = 1e-4


@contextmanager
def double_precision() -> Iterator[None]:
    """Run everything in float64, so that rounding errors do not grow over the steps.

    Losses cast to float32, which protects them under mixed precision; these casts become casts to float64.
    """
    with_casts = Tensor.float
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tensor.float = with_casts  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)


def speech_like(items: int, samples: int, seed: int, sample_rate: int = 16000) -> Tensor:
    """Return ``(items, 1, samples)``: voiced syllables with a gliding pitch, some noise, at -23 dBFS."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(items, 1, generator=generator, dtype=torch.float64)

    t = torch.arange(samples, dtype=torch.float64) / sample_rate
    phase = 2 * math.pi * (uniform(90, 220) * t + 0.5 * uniform(-200, 200) * t.square())
    harmonics = torch.arange(1, 30, dtype=torch.float64).view(-1, 1, 1)
    voice = (torch.sin(harmonics * phase) / harmonics).sum(0)
    syllables = torch.sin(2 * math.pi * (uniform(3, 6) * t + uniform(0, 1))).abs()
    noise = torch.randn(items, samples, generator=generator, dtype=torch.float64)
    speech = syllables * voice + 0.1 * noise
    return (0.07 * speech / speech.square().mean(-1, keepdim=True).sqrt()).unsqueeze(1)


def muffled(speech: Tensor, width: int = 15) -> Tensor:
    """Return what a body sensor would record: the speech without its high band."""
    kernel = torch.hann_window(width, dtype=speech.dtype)
    return torch.nn.functional.conv1d(speech, (kernel / kernel.sum()).view(1, 1, -1), padding=width // 2)


def relative(ours: Tensor | float, public: Tensor | float) -> float:
    """Return the norm of the difference over the norm of the public value; the difference itself where that is 0."""
    a, b = torch.as_tensor(ours, dtype=torch.float64).detach(), torch.as_tensor(public, dtype=torch.float64).detach()
    assert a.shape == b.shape, f"{tuple(a.shape)} here, {tuple(b.shape)} in public code"
    norm = float(b.norm())
    difference = float((a - b).norm())
    return difference / norm if norm else difference


def largest(ours: Mapping[str, Tensor], public: Mapping[str, Tensor]) -> float:
    """Return the largest :func:`relative` difference of tensors of the same names."""
    assert set(ours) == set(public), f"only on one side: {sorted(set(ours) ^ set(public))}"
    return max(relative(ours[name], public[name]) for name in public)


def renamed(names: Iterable[str], changes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return old to new name, after all replacements of parts in their order."""
    result = {}
    for old in names:
        new = old
        for part, by in changes:
            new = new.replace(part, by)
        result[old] = new
    return result


def note(source: str, compared: str, difference: float) -> None:
    """Append a row to the file that ``PARITY_TABLE`` names, for ``scripts/parity_table.py``."""
    if path := os.environ.get("PARITY_TABLE"):
        with Path(path).open("a") as file:
            file.write(json.dumps([source, compared, difference]) + "\n")
