"""Draws for tests that call simulators directly."""

from __future__ import annotations

import torch

from bcfusion.contracts import Draw


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int = 0, training: bool = True, body: int | None = None, rate: int = 16000) -> Draw:
    """Return a draw; without ``body``, the wearer too is drawn from the utterance's generator."""
    generator = seeded(seed)
    return Draw(rate, generator, generator if body is None else seeded(body), training)
