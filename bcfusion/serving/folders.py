"""The temporary folder of a server, which does not outlive it by long: not even one that was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bcfusion.system import lock, open_folder, own_user

__all__ = ["end_at_once", "private_folder", "remove_left"]

PREFIX = "bcfusion-serve-"
_open: set[Path] = set()


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a temporary folder that only this user can read; it is deleted at the end.

    It is locked as long as this process lives, and so :func:`remove_left` knows those whose server is gone.
    """
    folder, held = _locked()
    _open.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _open.discard(folder)
        if held is not None:
            os.close(held)


def remove_left() -> None:
    """Delete the folders that servers of this user have left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is no folder, not ours, in use, or gone
            held = open_folder(folder, follow=False)
            if held is None:  # nothing says whether it is in use
                continue
            try:
                if os.fstat(held).st_uid == own_user():
                    lock(held)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


def end_at_once(status: int) -> None:
    """End the process, whatever its threads are doing, with nothing left on the disk."""
    for folder in _open:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(status)


def _locked() -> tuple[Path, int | None]:
    """Return a new folder, and what holds its lock; None where folders have none."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError):
            held = open_folder(folder)
            if held is None:
                return folder, None
            with contextlib.suppress(OSError):  # a file system without locks
                lock(held, wait=True)
            if folder.exists():
                return folder, held
            os.close(held)  # another server that starts has found it before it was locked
