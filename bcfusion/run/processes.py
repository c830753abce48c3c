"""What the kernel tells of processes: whether they run, when they began, and with which torchrun (from ``/proc``)."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bcfusion.system import ends_untold, is_running

__all__ = ["TORCHRUN", "began", "end_children", "end_with_parent", "kill_all", "runs", "torchrun_began"]

TORCHRUN = "TORCHELASTIC_RUN_ID"  #: in the environment of each process that torchrun starts

_STATE, _PARENT, _BEGAN = 0, 1, 19  # places in /proc/PID/stat, counted from the state on


def began(process: int) -> str:
    """Return when a process began, in ticks of the kernel; empty where it does not say."""
    try:
        return _stat(process)[_BEGAN]
    except (OSError, IndexError):
        return ""


def runs(process: int, since: str) -> bool:
    """Return whether a process of this machine that began at ``since`` (:func:`began`) is there and has not ended.

    One that has ended, and that its parent has not asked about yet, does not run; one that is stopped does.
    """
    if not is_running(process):
        return False
    try:
        state = _stat(process)
    except OSError:
        return not since  # where the kernel does not say; else it has ended between the two questions
    return state[_STATE] not in "ZX" and state[_BEGAN] == since


def end_with_parent() -> None:
    """Let this process, which :mod:`multiprocessing` has started, end within a second of its parent, however that ends.

    A thread watches the parent, so that it holds while the process waits or computes.
    """
    threading.Thread(target=_exit_with_parent, name="bcfusion-parent", daemon=True).start()


def end_children() -> None:
    """End the processes that :mod:`multiprocessing` has started in this one.

    Python waits for each of them before it ends, and a pool that Ctrl-C has caught half started may never tell its
    processes to end.
    """
    kill_all(multiprocessing.active_children())


def kill_all(children: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Kill processes that :mod:`multiprocessing` has started in this one, and wait until they are gone.

    PyTorch watches those that read for it, and would raise an error for each that is killed. Its handler asks about
    none that has been waited for before it acts again.
    """
    if not children:
        return
    with ends_untold():
        for child in children:
            child.kill()
        for child in children:
            child.join(5.0)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    # The sentinel alone is not enough: processes forked from the parent (data loaders) keep its other end open. With a
    # server that forks, it is the one that has started this process, and ends with the parent.
    started_by = os.getppid()
    while os.getppid() == started_by and not multiprocessing.connection.wait([parent.sentinel], timeout=1.0):
        pass
    os._exit(1)


def torchrun_began() -> str | None:
    """Return the moment at which the torchrun that started this process began, ``2026-12-01_00-49-03-640000``.

    All of its processes on this machine get the same. None where the kernel does not say.
    """
    agent = os.getppid()
    try:
        while f"{TORCHRUN}=".encode() in Path(f"/proc/{agent}/environ").read_bytes():
            agent = int(_stat(agent)[_PARENT])  # a script between torchrun and this process
        ticks = int(_stat(agent)[_BEGAN])
        [boot] = re.findall(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    except (OSError, IndexError, ValueError):
        return None
    moment = int(boot) + ticks / os.sysconf("SC_CLK_TCK")
    return time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(moment)) + f"-{int(moment % 1 * 1e6):06d}"


def _stat(process: int) -> list[str]:
    """Return the fields of a process from its state on; its name, which comes before, may hold spaces."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
