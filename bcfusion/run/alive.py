"""Whether a run is being trained now: a file in its directory names the process that does, and is locked by it."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import ExitStack, suppress
from typing import Any

from bcfusion.errors import ConfigError
from bcfusion.files import appearing, make_folder, read_object, write_text
from bcfusion.run.layout import RunDir
from bcfusion.run.processes import began, runs
from bcfusion.system import HAS_LOCKS, lock, open_folder

__all__ = [
    "RunIsTrained",
    "changed_within",
    "claim",
    "is_alive",
    "last_change",
    "mark_alive",
    "owner",
    "place",
    "unmark_alive",
]

_DAY = 86400.0
_MINUTES = 600.0

#: the open marks of this process, which holds the lock of each, by the path of the run
_marks: dict[str, int] = {}


class RunIsTrained(ConfigError):
    """Another process trains the run; nothing was or may be written into its directory."""


def claim(run: RunDir) -> str | None:
    """Mark a run as trained by this process, unless another process certainly trains it: return that one, as a name.

    Of processes that begin at the same moment, one gets the run. The mark of a process that has died is no mark. The
    directory is created.

    Raises:
        WriteError: it, or a file in it, cannot be written.
    """
    make_folder(run.path)
    directory = open_folder(run.path)
    try:
        if directory is not None:
            with suppress(OSError):  # some network file systems have no locks
                lock(directory, wait=True)  # for the moment between looking and writing
        if (process := owner(run)) is None:
            mark_alive(run)
        return process
    finally:
        if directory is not None:
            os.close(directory)


def mark_alive(run: RunDir) -> None:
    """Write which process trains a run, and lock what was written for as long as the process lives.

    The system releases the lock however the process ends. A copy of the directory is not locked, and on a shared file
    system with locks the processes of all machines see it.
    """
    process: dict[str, Any] = {**place(), "pid": os.getpid(), "began": began(os.getpid())}
    if not HAS_LOCKS:  # and an open file cannot be renamed there
        write_text(run.running, json.dumps(process) + "\n")
        return
    with ExitStack() as opened:
        with appearing(run.running) as part:
            descriptor = os.open(part, os.O_CREAT | os.O_RDWR, 0o666)
            opened.callback(os.close, descriptor)
            process["locked"] = _locks(descriptor)
            os.write(descriptor, (json.dumps(process) + "\n").encode())
        opened.pop_all()
    _forget(run)
    _marks[_key(run)] = descriptor


def unmark_alive(run: RunDir) -> None:
    """Delete what :func:`mark_alive` wrote, unless a process that could not see this one has taken the run over."""
    descriptor = _marks.get(_key(run))
    with suppress(OSError):
        if descriptor is None or os.path.samestat(os.fstat(descriptor), os.stat(run.running)):
            run.running.unlink()
    _forget(run)


def _forget(run: RunDir) -> None:
    if (descriptor := _marks.pop(_key(run), None)) is not None:
        os.close(descriptor)


def _forget_all() -> None:
    """Leave the locks to the process that holds them: its children may outlive it for a moment."""
    while _marks:
        os.close(_marks.popitem()[1])


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_forget_all)


def _key(run: RunDir) -> str:
    return os.path.abspath(run.path)


def _locks(descriptor: int, shared: bool = False) -> bool | None:
    """Lock a file; return False if another process holds its lock, and None where there are no locks."""
    if not HAS_LOCKS:
        return None
    try:
        lock(descriptor, shared=shared)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def owner(run: RunDir) -> str | None:
    """Return the process that certainly trains a run now, as ``process 123 on HOST``; None if none is known to."""
    process = read_object(run.running)
    if not process:
        return None
    free = _is_free(run)
    # A lock that was held and is free was left by a process that died, whatever process has its number now. Of a
    # process of another machine that is not certain, since not every file system shares its locks.
    alive = free is False or (not (free and process.get("locked")) and _here(process) and _exists(process))
    return f"process {process.get('pid')} on {process.get('host')}" if alive else None


def _is_free(run: RunDir) -> bool | None:
    """Return whether no process has locked the mark of a run; None where there are no locks."""
    try:
        descriptor = os.open(run.running, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _locks(descriptor, shared=True)
    finally:
        os.close(descriptor)


def is_alive(run: RunDir) -> bool:
    """Return whether a run is, or may be, trained now.

    Where a file system does not share its locks, processes of another machine cannot be seen: their runs count as alive
    for a day after the last change. So do, for some minutes, runs that name no process.
    """
    if owner(run) is not None:
        return True
    process = read_object(run.running)
    return not _here(process) and changed_within(run, _DAY if process else _MINUTES)


def changed_within(run: RunDir, seconds: float = _MINUTES) -> bool:
    """Return whether something was written into a directory lately, as by a session that is about to begin."""
    return time.time() - last_change(run) < seconds


def last_change(run: RunDir) -> float:
    """Return when a file of a run was last written, or its directory made, in seconds since 1970."""
    folders = [folder for folder in run.folders if folder.is_dir()]
    files = [file for folder in folders for file in folder.iterdir()]
    return max(path.stat().st_mtime for path in (*folders, *files) if path.exists())


def place() -> dict[str, str]:
    """Return the host and its process numbers: a container has its own."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return {"host": platform.node(), "numbers": numbers}


def _here(process: dict[str, Any]) -> bool:
    return bool(process) and all(process.get(name) == value for name, value in place().items())


def _exists(process: dict[str, Any]) -> bool:
    """Return whether the process runs; a later one with the same number began at another time."""
    try:
        return runs(int(process["pid"]), str(process["began"]))
    except (KeyError, ValueError, TypeError):
        return False
