"""Start-up: what stays until the process ends is imported without the garbage collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["is_own_process", "loading", "own_process"]

#: a block that imports fewer modules freezes nothing: what is left over from work would never be collected
MANY = 100

_owned = False


def own_process() -> None:
    """Say that this process runs one command and ends: nobody needs what :func:`loading` has imported, or signals,
    after it."""
    global _owned
    _owned = True


def is_own_process() -> bool:
    """Return whether this process runs one command and ends."""
    return _owned


@contextmanager
def loading() -> Iterator[None]:
    """Import in the block, and do nothing else, without garbage collection.

    torch, Lightning and Hydra make a million objects that stay until the process ends. While these are made, the
    collector looks through them again and again, and once more when the process ends, which together is a third of the
    time of the imports. In a process of its own (:func:`own_process`) it does not look at them later either.
    """
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        if _owned and len(sys.modules) - before >= MANY:
            gc.freeze()
