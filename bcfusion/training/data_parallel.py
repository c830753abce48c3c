"""Data parallel training whose processes are watched from their start on."""

from __future__ import annotations

import os
import signal
import subprocess
from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from bcfusion.training.watch import LAUNCHER, Watch

__all__ = ["DataParallel"]

_LEAST_TIMEOUT = timedelta(minutes=30)  # of PyTorch


class DataParallel(DDPStrategy):
    """Lightning's data parallel strategy with a :class:`~bcfusion.training.watch.Watch` over its processes.

    The timeout of the exchanges themselves is a last resort: processes may wait for another one that validates longer.

    The backward passes of generator and discriminators leave each other's parameters without gradient. Buffers are the
    same on all ranks (windows, power iterations; running statistics are averaged after each step); broadcasting them
    would make ranks wait for each other in validations of different lengths.

    Args:
        watch: not yet started.
    """

    def __init__(self, watch: Watch, **settings: Any) -> None:
        timeout = max(_LEAST_TIMEOUT, 2 * timedelta(seconds=watch.seconds))
        super().__init__(find_unused_parameters=True, broadcast_buffers=False, timeout=timeout, **settings)
        self.watch = watch

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if isinstance(self._launcher, _SubprocessScriptLauncher):
            assert self.cluster_environment is not None
            self._launcher = _Launcher(self.watch, self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_environment(self) -> None:
        """Meet the other processes, and watch them from then on."""
        self.watch.start()
        super().setup_environment()
        self.watch.join(self.global_rank, self.world_size)


class _Launcher(_SubprocessScriptLauncher):
    """Starts the further processes of this machine and hands them to the watch.

    Lightning's own observer would kill this process without a word as soon as one of the others has a status other
    than 0, even while it saves its state after a signal that all have got.
    """

    def __init__(self, watch: Watch, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._watch = watch
        self._started: list[subprocess.Popen[Any]] = []

    def _call_children_scripts(self) -> None:
        # they say themselves that this process is gone; PyTorch would add a page of stack
        inherited = {LAUNCHER: str(os.getpid()), "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
        before = {name: os.environ.get(name) for name in inherited}
        os.environ.update(inherited)
        try:
            super()._call_children_scripts()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        self._started, self.procs = self.procs, []
        self._watch.supervise(self._started)

    def kill(self, signum: int | signal.Signals) -> None:
        """Send a signal to all processes that were started and have not ended."""
        for process in self._started:
            process.send_signal(signum)
