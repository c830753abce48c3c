"""``bcfusion compare --dead``: runs that left nothing to use; with ``--remove`` they are deleted."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.nearest import nearest_path


def main(paths: Sequence[Path], remove: bool, yes: bool, checkpoints: bool) -> int:
    """List dead runs, or remove them; return the exit status.

    Args:
        paths: folders to search.
        remove: whether to delete what is found.
        yes: whether to delete without a question.
        checkpoints: whether runs with a checkpoint that are not finished count too.

    Raises:
        CheckpointError: a folder does not exist, or some could not be deleted.
        ConfigError: nobody can answer the question.
    """
    from bcfusion.report.comparison.dead import dead_runs

    for path in paths:
        if not path.exists():
            raise CheckpointError(f"{path}: there is no such folder{nearest_path(path)}")
    found = dead_runs(paths, checkpoints)
    if not found:
        print(f"no dead runs in {', '.join(map(str, paths))}")
        return 0
    for run in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
        print(f"{run.path}  {when}  {run.size / 1e6:.1f} MB  {run.reason}")
    runs = "1 dead run" if len(found) == 1 else f"{len(found)} dead runs"
    total = f"{runs}, {sum(run.size for run in found) / 1e6:.1f} MB"
    if not remove:
        print(f"{total}; add --remove to delete them")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError([f"--remove: {total} would be deleted: add --yes to do so without a question"])
        if input(f"Delete {total}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing is deleted")
            return 0
    failed = []
    for run in found:
        try:
            shutil.rmtree(run.path)
        except OSError as error:
            failed.append(f"{run.path}: {error.strerror or error}")
    print(f"deleted {len(found) - len(failed)} of {len(found)}")
    if failed:
        raise CheckpointError("\n".join(failed))
    return 0
