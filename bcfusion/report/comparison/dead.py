"""Runs that are neither trained now nor left anything to use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bcfusion.errors import CheckpointError
from bcfusion.report.comparison.run import read_run
from bcfusion.report.comparison.runs import run_folders
from bcfusion.run.alive import changed_within, is_alive, last_change
from bcfusion.run.description import find_bundle
from bcfusion.run.layout import RunDir

__all__ = ["DeadRun", "dead_runs"]

_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d.*")  # the name that a run or a sweep gets


@dataclass(frozen=True)
class DeadRun:
    """A directory that can be deleted.

    Attributes:
        path: the directory.
        reason: what became of the run.
        size: bytes of its files.
        changed: when something was last written, in seconds since 1970.
    """

    path: Path
    reason: str
    size: int
    changed: float


def dead_runs(paths: Sequence[Path], checkpoints: bool = False) -> list[DeadRun]:
    """Return the dead runs at or below some folders, each once.

    A run is dead if no process trains it, it is not finished and it has no checkpoint. So are a directory that was made
    for a run and is empty, and a sweep without jobs. A directory that holds other runs is never dead.

    Args:
        paths: folders to search.
        checkpoints: count unfinished, failed and pruned runs with a checkpoint too.
    """
    found: dict[Path, DeadRun] = {}
    for path in paths:
        for folder in run_folders(path):
            reason = _why_dead(RunDir(folder), checkpoints)
            if reason:
                found.setdefault(folder.resolve(), _described(folder, reason))
        for folder in _empty(path):
            found.setdefault(folder.resolve(), _described(folder, "nothing was written into it"))
    return list(found.values())


def _why_dead(run: RunDir, checkpoints: bool) -> str:
    """Return what became of a dead run; an empty text for any other."""
    if run.path.is_symlink() or is_alive(run) or any(_runs_below(run.path)):
        return ""
    usable = run.bundle.is_dir() or any(run.checkpoints.glob("*.ckpt")) or find_bundle(run.path) is not None
    if usable and not checkpoints:
        return ""
    try:
        known = read_run(run.path)
    except CheckpointError as error:
        return f"damaged: {error}"
    if known.state == "finished":
        return ""
    step = f" at step {known.step}" if known.step else ""
    return f"{known.state}{step}: {known.problem}" if known.problem else f"{known.state}{step}"


def _runs_below(folder: Path) -> Iterator[Path]:
    for root, folders, _ in os.walk(folder):
        below = [Path(root, name) for name in folders]
        yield from (path for path in below if RunDir(path).record.is_file() or RunDir(path).last.is_file())


def _empty(path: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(path):
        empty = _TIME.fullmatch(Path(root).name) and not folders and files in ([], ["multirun.yaml"])
        if empty and not changed_within(RunDir(Path(root))):
            yield Path(root)


def _described(folder: Path, reason: str) -> DeadRun:
    size = sum(
        file.lstat().st_size for root, _, names in os.walk(folder) for file in (Path(root, name) for name in names)
    )
    return DeadRun(folder, reason, size, last_change(RunDir(folder)))
