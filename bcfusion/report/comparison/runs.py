"""Find the runs that paths mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bcfusion.errors import CheckpointError
from bcfusion.nearest import nearest_path
from bcfusion.report.comparison.run import Run, is_evaluated_bundle, is_job, read_run
from bcfusion.run.layout import RunDir

__all__ = ["find_runs", "run_folders"]


def find_runs(paths: Sequence[str | os.PathLike[str]], warn: Callable[[str], None]) -> list[Run]:
    """Read the runs of several folders, each once, in the order of their paths.

    Args:
        paths: run directories, something inside one (its bundle, a checkpoint), or folders that hold runs at any depth
            (``runs``, a sweep). A bundle outside of a run counts as one once it has been evaluated.
        warn: called with one line for each path without runs and for each damaged run.

    Returns:
        The runs that could be read; may be empty.
    """
    found: dict[Path, Run] = {}
    for path in (Path(os.path.expanduser(path)) for path in paths):
        folders = list(run_folders(path))
        if not folders:
            missing = f"{path}: there is no such folder{nearest_path(path)}"
            warn(f"{path}: no run in it" if os.path.exists(path) else missing)
        for folder in folders:
            try:
                found.setdefault(folder.resolve(), read_run(folder))
            except CheckpointError as error:
                warn(str(error))
    return list(found.values())


def run_folders(path: Path) -> Iterator[Path]:
    """Yield the run directories at, around or below a path; a run directory is not searched for others."""
    around = RunDir.around(path)
    if path.exists() and around is not None:
        yield around.path
        return
    for root, folders, _ in os.walk(path):
        if RunDir(Path(root)).record.is_file() or is_job(Path(root)) or is_evaluated_bundle(Path(root)):
            yield Path(root)
            folders.clear()
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)


def _natural(name: str) -> tuple[int, str]:
    """Return a key that sorts the jobs of a sweep by number: 2 before 10."""
    return (int(name), "") if name.isdigit() else (-1, name)
