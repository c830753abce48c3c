"""What Linux, macOS and Windows do differently, in one place: cores, locks, signals, processes, space.

Where a system lacks something, the next best is done here, and whoever calls need not know. Windows has no locks of
this kind: there, nothing keeps two processes apart that write the same run, journal or study.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "BINARY",
    "ENDING",
    "HAS_LOCKS",
    "NO_WAIT",
    "Space",
    "cores",
    "held_back",
    "is_running",
    "kill",
    "kill_group",
    "lock",
    "memory",
    "open_folder",
    "own_user",
    "pread",
    "preadv",
    "space",
]

_WINDOWS = os.name == "nt"
HAS_LOCKS = fcntl is not None  #: whether :func:`lock` keeps anybody out
BINARY = getattr(os, "O_BINARY", 0)  #: flag of os.open without which Windows changes what it reads and writes
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  #: flag of os.open that does not wait for whoever writes into a pipe
#: signals that ask a process to end; Windows has no SIGHUP
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def cores() -> int:
    """Return the cores that this process may use; on macOS and Windows those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lock(file: int | IO[bytes] | IO[str], *, wait: bool = False, shared: bool = False) -> None:
    """Keep other processes out that lock the same file or folder, until it is closed or this process ends.

    Args:
        file: an open file, or its descriptor.
        wait: until nobody else has it.
        shared: with others that lock it like this.

    Raises:
        BlockingIOError: another process has it, and ``wait`` is false.
        OSError: the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def open_folder(path: Path, *, follow: bool = True) -> int | None:
    """Return a descriptor of a folder, to lock it or to write its names to the disk; None where there is none.

    Raises:
        OSError: there is no such folder; or, with ``follow`` false, it is a link to one.
    """
    if _WINDOWS or not hasattr(os, "O_DIRECTORY"):  # it opens files alone
        return None
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW))


def unnamed_file() -> int:
    """Return the descriptor of a new file without a name, in memory if the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("bcfusion")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def own_user() -> int | None:
    """Return the number of the user whose process this is; None on Windows, which has none."""
    return os.getuid() if hasattr(os, "getuid") else None


@contextmanager
def held_back(*numbers: int) -> Iterator[None]:
    """Let signals arrive after the block, also in processes that it starts, for good; not on Windows.

    A mask is that of one thread. The system gives the signal to another one, and Python calls the handler in the main
    thread all the same: there, handlers written in Python wait, too.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    arrived: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        for number in handlers:
            signal.signal(number, lambda caught, _frame: arrived.append(caught))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


@contextmanager
def ends_untold() -> Iterator[None]:
    """Call no handler for processes that this one has started and that end in the block."""
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


def is_running(process: int) -> bool:
    """Return whether there is a process of this number, of whichever user."""
    if _WINDOWS:  # os.kill would end it
        listed = subprocess.run(
            ["tasklist", "/NH", "/FI", f"PID eq {process}"], capture_output=True, text=True, check=False
        )
        return str(process) in listed.stdout.split()
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def kill(process: int) -> None:
    """End a process at once, whatever it does; on Windows as on other systems."""
    os.kill(process, getattr(signal, "SIGKILL", signal.SIGTERM))


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started with ``start_new_session``, and what it has started; on Windows it alone."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


class Space(NamedTuple):
    """What a disk can still hold.

    Attributes:
        free: bytes.
        full_of_files: whether it can hold no more files, however small.
    """

    free: int
    full_of_files: bool


def space(folder: Path) -> Space:
    """Return what the disk of a folder can still hold.

    Raises:
        OSError: there is no such folder.
    """
    if sys.platform == "win32" or not hasattr(os, "statvfs"):
        return Space(shutil.disk_usage(folder).free, False)
    state = os.statvfs(folder)
    return Space(state.f_bavail * state.f_frsize, bool(state.f_files and not state.f_favail))


def memory() -> int | None:
    """Return the bytes of memory that the machine has; None where it does not say so."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


_position = threading.Lock()


def _preadv(descriptor: int, buffers: tuple[memoryview] | list[memoryview], offset: int) -> int:
    """Fill one buffer from a place in a file, as ``os.preadv``; the position of the file is changed and put back."""
    [buffer] = buffers
    with _position:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, offset, os.SEEK_SET)
        try:
            data = os.read(descriptor, len(buffer))
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)
    buffer[: len(data)] = data
    return len(data)


def _pread(descriptor: int, count: int, offset: int) -> bytes:
    buffer = bytearray(count)
    got = _preadv(descriptor, (memoryview(buffer),), offset)
    return bytes(buffer[:got])


preadv = getattr(os, "preadv", _preadv)  #: reads into a buffer from a place in a file, wherever the file stands
pread = getattr(os, "pread", _pread)  #: reads from a place in a file, wherever the file stands
