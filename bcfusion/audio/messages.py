"""Keep libmpg123's own messages, which name no file, out of the terminal; report them with the file's name instead."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bcfusion.system import pread, unnamed_file

__all__ = ["without_decoder_messages"]

logger = logging.getLogger(__name__)

_FROM_THE_DECODER = re.compile(rb"^\[?(src/lib)?mpg123|^(Note|Warning): |^\s*$")
# the file is longer than its header says, by a tag for example; or the tag has faults
_HARMLESS = re.compile(r"fuzzy seeking|/id3\.c:")
_PLACE = re.compile(r"^\[[^]]*\]\s*")  # source file, function and line
_reported: set[str] = set()
_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)  # another thread may hold it at that moment


@contextmanager
def without_decoder_messages(path: str | os.PathLike[str], report: bool) -> Iterator[None]:
    """Catch what is written to the process's standard error; a warning names the file and the first complaint about it.

    Lines of other threads are passed on. A file is reported once per process.

    Args:
        path: of the file that is decoded.
        report: whether to log; otherwise what the decoder writes is dropped.
    """
    with _lock:
        sink = unnamed_file()
        try:
            kept = os.dup(2)
        except OSError:  # the process has no standard error
            os.close(sink)
            yield
            return
        sys.stderr.flush()
        os.dup2(sink, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written = pread(sink, 1 << 16, 0)
            os.close(sink)
        if written:  # before others decode, who would catch the warning
            _pass_on(written, os.fspath(path), report)


def _pass_on(written: bytes, path: str, report: bool) -> None:
    lines = written.splitlines(keepends=True)
    others = b"".join(line for line in lines if not _FROM_THE_DECODER.search(line))
    if others:
        os.write(2, others)
    if not report:
        return
    said = [line.decode(errors="replace").strip() for line in lines if _FROM_THE_DECODER.search(line)]
    reports = [text for text in said if not _HARMLESS.search(text)]
    first = next((_PLACE.sub("", text) for text in reports if text), "")
    if first and path not in _reported:
        _reported.add(path)
        logger.warning("%s is damaged; its decoder says: %s", path, first)
