"""Errors of writing the files of a run: a full, read-only or failing disk."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bcfusion.errors import TrainingError

__all__ = ["WriteFailed", "disk_of", "writing"]

_SNDFILE_SYSTEM_ERROR = 2  # libsndfile does not say which one


class WriteFailed(TrainingError):
    """A file of a run could not be written. The message has the reason, the disk, its free space and what to do."""


@contextmanager
def writing(path: Path, what_now: Callable[[], str]) -> Iterator[None]:
    """Turn an error of the file system in the block into a :class:`WriteFailed`; others pass.

    Args:
        path: the file or folder that the block writes.
        what_now: returns the second line of the message: what is left, and what to do.

    Raises:
        WriteFailed: the operating system refused to write.
    """
    try:
        yield
    except WriteFailed:
        raise
    except Exception as error:  # PyTorch, safetensors and libsndfile have classes of their own
        reason = _reason(error)
        if reason is None:
            raise
        raise WriteFailed(f"{path} could not be written: {reason} ({disk_of(path)})\n{what_now()}") from error


def disk_of(path: Path) -> str:
    """Return the name and the free space of the disk that ``path`` is or would be on: ``disk /data, 1.5 GB free``."""
    place = Path(os.path.abspath(path))
    while not place.exists():
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # a mount that has gone
        return f"disk of {place}"
    while not os.path.ismount(place):
        place = place.parent
    size = f"{free / 1e9:.1f} GB" if free >= 1e8 else f"{free / 1e6:.1f} MB"
    return f"disk {place}, {size} free"


def _reason(error: BaseException) -> str | None:
    """Return what the operating system said, also to a library that raises an error of its own after it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError):
            return os.strerror(found.errno) if found.errno else str(found)
        number = re.search(r"\(os error (\d+)\)", str(found))  # safetensors
        if number:
            return os.strerror(int(number[1]))
        if type(found).__name__ == "LibsndfileError" and getattr(found, "code", None) == _SNDFILE_SYSTEM_ERROR:
            return "the operating system refused"
        found = found.__cause__ or found.__context__
    return None
