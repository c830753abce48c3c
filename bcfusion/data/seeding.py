"""Random numbers that depend on what they are used for, and on nothing else.

Every draw of the data path comes from a generator seeded by what identifies it: the run's seed, the epoch, the item,
the sensor. So an item does not depend on which worker makes it or on what was drawn before it, and a resumed run
repeats exactly what an uninterrupted one would have done.
"""

from __future__ import annotations

import hashlib

import torch


def stable_seed(*parts: int | str) -> int:
    """Hash integers and texts to a seed that is the same on every machine (``hash()`` is salted per process).

    Args:
        parts: what the random numbers are used for. Order and type matter: ``(1, 23)``, ``(12, 3)`` and ``("1", 23)``
            differ.

    Returns:
        An integer in [0, 2**64).
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(f"{type(part).__name__}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "little")


def generator_for(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by :func:`stable_seed` of ``parts``.

    PyTorch's CPU generator uses the low 32 bits of a seed; among a million items about a hundred pairs share a stream,
    which does not affect training.
    """
    return seeded(stable_seed(*parts))


def seeded(seed: int) -> torch.Generator:
    """Return a CPU generator with a seed of :func:`stable_seed`."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    return generator
