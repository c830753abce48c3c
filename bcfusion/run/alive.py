"""Whether a run is being trained now: a file in its directory names the process that does."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from typing import Any

from bcfusion.files import read_object, write_text
from bcfusion.run.layout import RunDir
from bcfusion.run.processes import began
from bcfusion.system import is_running, lock, open_folder

__all__ = ["changed_within", "claim", "is_alive", "last_change", "mark_alive", "owner", "unmark_alive"]

_DAY = 86400.0
_MINUTES = 600.0


def claim(run: RunDir) -> str | None:
    """Mark a run as trained by this process, unless another process certainly trains it: return that one, as a name.

    Of processes that begin at the same moment, one gets the run. The mark of a process that has died is no mark. The
    directory is created.
    """
    run.path.mkdir(parents=True, exist_ok=True)
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
    """Write which process trains a run."""
    process = {**_place(), "pid": os.getpid(), "began": began(os.getpid())}
    write_text(run.running, json.dumps(process) + "\n")


def unmark_alive(run: RunDir) -> None:
    """Delete what :func:`mark_alive` wrote."""
    run.running.unlink(missing_ok=True)


def owner(run: RunDir) -> str | None:
    """Return the process that certainly trains a run now, as ``process 123 on HOST``; None if none is known to."""
    process = read_object(run.running)
    if _here(process) and _exists(process):
        return f"process {process['pid']} on {process['host']}"
    return None


def is_alive(run: RunDir) -> bool:
    """Return whether a run is, or may be, trained now.

    Processes of another machine cannot be seen: their runs count as alive for a day after the last change. So do, for
    some minutes, runs that name no process.
    """
    process = read_object(run.running)
    if _here(process):
        return _exists(process)
    return changed_within(run, _DAY if process else _MINUTES)


def changed_within(run: RunDir, seconds: float = _MINUTES) -> bool:
    """Return whether something was written into a directory lately, as by a session that is about to begin."""
    return time.time() - last_change(run) < seconds


def last_change(run: RunDir) -> float:
    """Return when a file of a run was last written, or its directory made, in seconds since 1970."""
    folders = [
        folder for folder in (run.path, run.checkpoints, run.quality, run.hydra_config.parent) if folder.is_dir()
    ]
    files = [file for folder in folders for file in folder.iterdir()]
    return max(path.stat().st_mtime for path in (*folders, *files) if path.exists())


def _place() -> dict[str, str]:
    """Return the host and its process numbers: a container has its own."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return {"host": platform.node(), "numbers": numbers}


def _here(process: dict[str, Any]) -> bool:
    return bool(process) and all(process.get(name) == value for name, value in _place().items())


def _exists(process: dict[str, Any]) -> bool:
    """Return whether the process runs; a later one with the same number began at another time."""
    try:
        running = is_running(int(process["pid"]))
    except (KeyError, ValueError, TypeError):
        return False
    return running and began(int(process["pid"])) == process.get("began")
