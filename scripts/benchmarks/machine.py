"""What a benchmark ran on: processor, cores, versions, commit, load."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "torchaudio", "lightning", "hydra-core", "numpy", "scipy", "soundfile", "onnxruntime"),
    *("vibravox", "asteroid", "encodec", "speechbrain", "auraloss", "torchmetrics", "pesq", "pystoi", "datasets"),
)
ROOT = Path(__file__).resolve().parents[2]


def processor() -> str:
    """Return the model of the CPU, as named by Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed, of those that the rows use."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the commit of the repository, with a plus sign if files have changed since; empty outside a clone."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "bcfusion", "conf", "scripts")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{name}{'+' if changed else ''}"


def describe() -> dict[str, Any]:
    """Return what all rows of one run share."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.system(),
        "versions": versions(),
    }


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
