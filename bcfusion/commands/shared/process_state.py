"""State of the process that verbs and jobs of Hydra change: import path, environment, arguments, process group."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: set by Lightning when it starts further processes; a second job of the same process must not inherit them
LAUNCH_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

#: the number of a process, or of its machine, in a run of several: set by Lightning, torchrun, srun, or the user
RANK_VARIABLES = ("LOCAL_RANK", "RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def is_further_process() -> bool:
    """Return whether this process takes part in a run whose first process is another one."""
    return any(os.environ.get(name, "0") != "0" for name in RANK_VARIABLES)


def make_cwd_importable() -> None:
    """Let a user's own module, as in ``my_package.MyNetwork``, be imported from the working directory.

    The directory comes last on the path and shadows nothing.
    """
    cwd = str(Path.cwd())
    if not {cwd, ""} & set(sys.path):
        sys.path.append(cwd)


@contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables (None removes one) and restore all of them afterwards."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def command_line(argv: list[str]) -> Iterator[None]:
    """Replace ``sys.argv``."""
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def own_process_group() -> Iterator[None]:
    """Remove every trace of a multi-process job, so that the next job of a sweep can start its own processes."""
    with environment(**{name: os.environ.get(name) for name in LAUNCH_VARIABLES}):
        try:
            yield
        finally:
            distributed = sys.modules.get("torch.distributed")
            if distributed is not None and distributed.is_available() and distributed.is_initialized():
                distributed.destroy_process_group()


@contextmanager
def usable_start_method() -> Iterator[None]:
    """Let a job in a worker of joblib start processes: joblib sets a start method that new processes do not know."""
    before = multiprocessing.get_start_method(allow_none=True)
    if before is None or before in multiprocessing.get_all_start_methods():
        yield
        return
    reset: Any = None  # the system's own; allowed, but missing in the type of the argument
    multiprocessing.set_start_method(reset, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)
