"""Random numbers that depend on what they are for, and on nothing else.

Every draw of the data path comes from a generator seeded by the things that name it: the run's seed, the epoch, the
item, the sensor. So an item is the same whichever worker makes it and whatever was drawn before it, and a resumed run
repeats exactly what an uninterrupted one would have done.
"""

from __future__ import annotations

import hashlib

import torch


def stable_seed(*parts: int | str) -> int:
    """Hash integers and texts to a seed that is equal on every machine and Python (``hash()`` is salted per process).

    Args:
        parts: what the random numbers are for. Order and type matter: ``(1, 23)``, ``(12, 3)``, ``("1", 23)`` differ.

    Returns:
        An integer in [0, 2**64).
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(f"{type(part).__name__}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "little")


def generator_for(*parts: int | str) -> torch.Generator:
    """Make a CPU generator seeded by :func:`stable_seed` of ``parts``.

    PyTorch's CPU generator keeps the low 32 bits of a seed; over a million items some hundred pairs share a stream,
    which no training notices.
    """
    return seeded(stable_seed(*parts))


def seeded(seed: int) -> torch.Generator:
    """Make a CPU generator of a seed that :func:`stable_seed` gave."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    return generator
