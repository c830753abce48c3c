"""Worker processes that start from a bare interpreter, compute on one thread and end with their parent.

This module is imported in a worker before anything else, so it does not import NumPy: its linear algebra reads the
number of its threads only once, when it is loaded.
"""

from __future__ import annotations

import os
import signal
import sys
import types
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess

from bcfusion.run.processes import end_with_parent
from bcfusion.system import held_back

__all__ = ["start_workers"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def start_workers(count: int) -> ProcessPoolExecutor:
    """Return an executor that starts ``count`` processes as they are needed.

    They never import the user's main script, leave Ctrl-C and SIGTERM to the parent, and end when the parent is gone.
    """
    return ProcessPoolExecutor(count, mp_context=_Context(), initializer=_prepare_worker)


class _Process(SpawnProcess):
    def start(self) -> None:
        """Start without the parent's main module and with the signals of its process group blocked.

        ``multiprocessing`` would import the main script again in the child: torch, and whatever an unguarded script
        does. A signal blocked here is blocked in the child from its first instruction, and merely late in the parent.
        """
        main = sys.modules["__main__"]
        with held_back(signal.SIGINT, signal.SIGTERM):
            sys.modules["__main__"] = types.ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main

    def terminate(self) -> None:
        """Kill: SIGTERM is blocked, and a broken pool waits for the processes that it terminates."""
        self.kill()


class _Context(SpawnContext):
    Process = _Process


def _prepare_worker() -> None:
    """Limit linear algebra to one thread, before NumPy is loaded, and watch the parent."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"
    end_with_parent()  # otherwise the executor's pipe would keep it waiting forever
