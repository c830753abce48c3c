"""Atomic writes: a file or a folder appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["appearing", "appearing_folder", "write_text"]


@contextmanager
def appearing(path: str | os.PathLike[str], *, fsync: bool = False) -> Iterator[Path]:
    """Yield a hidden name beside ``path`` to write to; the file takes its place when the block ends without an error.

    Missing folders are created. If the block or the replacement fails, a previous file at ``path`` stays as it was and
    the unfinished one is deleted.

    Args:
        path: the file to write.
        fsync: whether to force the content and the new name to the disk, so that it survives a power failure too.

    Raises:
        OSError: ``path`` cannot be written to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # without the suffix of the target at its end, so that a glob for *.ckpt or *.csv never finds an unfinished file
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if fsync:
            _to_disk(part)
        os.replace(part, target)
        if fsync:
            _to_disk(target.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def appearing_folder(path: str | os.PathLike[str], *, keep: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``path`` to fill; it replaces ``path`` when the block ends without an error.

    A previous folder stays until the new one is complete, and returns if the replacement fails.

    Args:
        path: the folder to write.
        keep: whether a folder that is at ``path`` when the block ends stays and the new one is deleted: so of several
            processes that make the same folder, the first one wins, and what it made is never moved.

    Raises:
        OSError: ``path`` cannot be written to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    part, old = (target.with_name(f".{target.name}.{token}.{suffix}") for suffix in ("part", "old"))
    part.mkdir()
    try:
        yield part
        try:
            os.replace(part, target)  # onto nothing or an empty folder: no other process sees a moment without it
            return
        except OSError:
            if not target.exists():
                raise
        if keep(target):
            return
        os.replace(target, old)
        try:
            os.replace(part, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str, *, newline: str | None = None) -> Path:
    """Write ``text`` as UTF-8 to a file that appears whole or not at all; see :func:`appearing`.

    Args:
        path: the file to write.
        text: its content.
        newline: as of :func:`open`; ``""`` keeps the line ends of ``text``.

    Returns:
        ``path``.
    """
    with appearing(path) as part:
        part.write_text(text, encoding="utf-8", newline=newline)
    return Path(path)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
