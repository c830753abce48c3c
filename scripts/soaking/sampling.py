"""What the kernel tells of a process and of all that it has started: memory, handles, threads, shared memory.

The memory is the resident set (RSS), not the proportional one (PSS): a page that processes share counts as a fraction
in each one's PSS, so that this rises in one process when another ends, although nothing has grown. The resident set of
a process depends on nothing but the process.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROCESSES = Path("/proc")
REAPED_WITHIN = 0.5  # seconds in which a parent takes note of a child that has ended


@dataclass(frozen=True)
class Sample:
    """One process at one moment.

    Attributes:
        seconds: since the load began.
        process: its number.
        role: what it is, in words.
        megabytes: resident set.
        handles: open files, sockets and pipes.
        threads: number of threads.
        segments: writable shared mappings: memory that processes share, files in ``/dev/shm``.
    """

    seconds: float
    process: int
    role: str
    megabytes: float
    handles: int
    threads: int
    segments: int


def sampled(root: int, seconds: float) -> tuple[list[Sample], int]:
    """Return a sample of a process and of each of its descendants, and the number of zombies among them."""
    samples, dead = [], []
    for process in family(root):
        if state(process) == "Z":
            dead.append(process)
        elif (one := sample(process, "main" if process == root else role(process), seconds)) is not None:
            samples.append(one)
    if dead:
        time.sleep(REAPED_WITHIN)
    return samples, sum(state(process) == "Z" for process in dead)


def sample(process: int, role: str, seconds: float) -> Sample | None:
    """Return what the kernel says of a process; None if it has ended."""
    place = PROCESSES / str(process)
    try:
        status = (place / "status").read_text()
        maps = (place / "maps").read_text().splitlines()
        handles = len(os.listdir(place / "fd"))
    except OSError:
        return None
    found = {name: int(value) for name, value in re.findall(r"^(VmRSS|Threads):\s*(\d+)", status, re.MULTILINE)}
    if "VmRSS" not in found:  # it is ending: it has no memory any more
        return None
    rights = [line.split(maxsplit=2)[1] for line in maps]
    shared = sum(right[1] == "w" and right[3] == "s" for right in rights)  # caches of the system are read only
    return Sample(seconds, process, role, found["VmRSS"] * 1024 / 1e6, handles, found["Threads"], shared)


def family(root: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in PROCESSES.iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        process = waiting.pop()
        yield process
        waiting.extend(sorted(parents.get(process, ()), reverse=True))


def role(process: int) -> str:
    """Return what a process of Python's ``multiprocessing`` is for; workers of the loader are the forked ones."""
    try:
        command = (PROCESSES / str(process) / "cmdline").read_text()
    except OSError:
        return "ended"
    for word, name in (("resource_tracker", "resource tracker"), ("spawn_main", "scoring process")):
        if word in command:
            return name
    return "loader worker"


def state(process: int) -> str:
    """Return the letter of a process's state, Z for a zombie; empty if there is none."""
    return (stat(process) or [""])[0]


def stat(process: int) -> list[str]:
    """Return the fields of a process from its state on; none if it has ended."""
    try:
        return (PROCESSES / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
