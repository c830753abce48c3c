"""Errors of writing the files of a run: a full, read-only or failing disk."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bcfusion.errors import TrainingError, WriteError
from bcfusion.files import why_unwritable

__all__ = ["WriteFailed", "writing"]


class WriteFailed(TrainingError):
    """A file of a run could not be written. The message has the reason, the disk if it is at fault, and what to do."""


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
    except Exception as error:  # libraries have classes of their own
        refused = _refusal(error)
        if refused is None:
            raise
        reason = refused.strerror if isinstance(refused, WriteError) else why_unwritable(refused, path)
        raise WriteFailed(f"cannot write {path}: {reason}\n{what_now()}") from error


def _refusal(error: BaseException) -> OSError | None:
    """Return the error of the operating system, which a library may have replaced by one of its own."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError):
            return found
        number = re.search(r"\(os error (\d+)\)", str(found))  # safetensors
        if number:
            return OSError(int(number[1]), os.strerror(int(number[1])))
        found = found.__cause__ or found.__context__
    return None
