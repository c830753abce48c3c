"""What the kernel tells of processes, where there is ``/proc``: when they began, and with which torchrun."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

__all__ = ["TORCHRUN", "began", "torchrun_began"]

TORCHRUN = "TORCHELASTIC_RUN_ID"  #: in the environment of each process that torchrun starts

_PARENT, _BEGAN = 1, 19  # places in /proc/PID/stat, counted from the state on


def began(process: int) -> str:
    """Return when a process began, in ticks of the kernel; empty where it does not say."""
    try:
        return _stat(process)[_BEGAN]
    except (OSError, IndexError):
        return ""


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
