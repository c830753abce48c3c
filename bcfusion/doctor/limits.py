"""What this process may use of the machine: cores and memory, as the machine and its containers limit them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bcfusion import system

__all__ = ["Limits", "read_limits"]

_UNLIMITED = 1 << 60  # bytes: version 1 of control groups writes a number near 2 ** 63 for no limit


@dataclass(frozen=True)
class Limits:
    """What a process may use.

    Attributes:
        cores: on which it may run.
        machine_cores: of the machine.
        quota: cores' worth of time that a container gives it; None: all of it.
        memory: bytes, of the machine or its container; None: not known.
        free: of them, bytes that are free; None: not known.
    """

    cores: int
    machine_cores: int
    quota: float | None
    memory: int | None
    free: int | None

    @property
    def usable(self) -> int:
        """Number of threads that can compute at the same time, at least 1."""
        return self.cores if self.quota is None else max(1, min(self.cores, int(self.quota + 0.5)))


def read_limits(groups: Path = Path("/sys/fs/cgroup"), processes: Path = Path("/proc")) -> Limits:
    """Return the limits of this process.

    Args:
        groups: where the control groups of Linux are, of version 1, 2 or both.
        processes: the file system of processes.
    """
    quota, memory, free = _whole_machine(processes)
    for folder in _folders(groups, processes, "cpu"):
        quota = _smaller(quota, _quota(folder))
    for folder in _folders(groups, processes, "memory"):
        limit, used = _memory(folder)
        memory = _smaller(memory, limit)
        if limit is not None and used is not None:
            free = _smaller(free, max(0, limit - used))
    cores = system.cores()
    return Limits(
        cores=cores,
        machine_cores=os.cpu_count() or cores,
        quota=quota,
        memory=None if memory is None else int(memory),
        free=None if free is None else int(free),
    )


def _whole_machine(processes: Path) -> tuple[float | None, float | None, float | None]:
    lines = dict(line.split(":", 1) for line in _text(processes / "meminfo").splitlines() if ":" in line)
    total, free = (
        1024 * int(lines[name].split()[0]) if name in lines else None for name in ("MemTotal", "MemAvailable")
    )
    return None, total, free


def _folders(groups: Path, processes: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, from its own up to the root: each may limit it."""
    for line in _text(processes / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        if number == "0" and not names:  # version 2
            root = groups
        elif controller in names.split(","):
            root = next((root for root in (groups / names, groups / controller) if root.is_dir()), groups / names)
        else:
            continue
        folder = root / place.lstrip("/")
        # inside of a container the path may be that of the host, of which only the root is visible
        yield from (each for each in (folder, *folder.parents) if each == root or root in each.parents)


def _quota(folder: Path) -> float | None:
    written = _text(folder / "cpu.max").split()  # version 2: microseconds per period, or max
    if not written:
        written = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    try:
        quota, period = map(int, written)
    except ValueError:
        return None
    return quota / period if quota > 0 < period else None


def _memory(folder: Path) -> tuple[int | None, int | None]:
    """Return the limit of a control group and what is used of it, without the cache of files, which can be dropped."""
    limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
    used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
    if limit is None or limit >= _UNLIMITED:
        return None, None
    counts = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    cached = int(counts.get("inactive_file") or counts.get("total_inactive_file") or 0)
    return limit, None if used is None else max(0, used - cached)


def _number(*files: Path) -> int | None:
    """Return the number in the first file that has one."""
    texts = (_text(file).strip() for file in files)
    return next((int(text) for text in texts if text.isdecimal()), None)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _smaller(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)
