"""Runs of several processes as a user starts them, and what is left of them after one was lost."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = {
    "lightning": ["-m", "bcfusion"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "bcfusion"],
}
_MARK = "BCFUSION_TEST_MARK"
PATIENCE = 300.0  # a net only

# a simulator that is a user's own; in the process of rank 1, or in its workers, it hangs or fails when a file says so
FAULTY = """\
import os, time
from pathlib import Path
import torch
from bcfusion.data.simulation.eben_lowpass import EbenLowpass

class Faulty(EbenLowpass):
    def __call__(self, *arguments, **settings):
        if os.environ.get("LOCAL_RANK") == "1" and Path("hang").exists():
            time.sleep(3600)
        return super().__call__(*arguments, **settings)
"""


@dataclass
class Ranks:
    """A run of two processes.

    Attributes:
        process: the first process, or torchrun.
        folder: where it runs.
        launcher: one of :data:`LAUNCHERS`.
        mark: in the environment of every process of it.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    launcher: str
    mark: str

    def living(self) -> dict[int, str]:
        """Return the processes of the run that have not ended: number to local rank, ``""`` if it has none."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                variables = dict(
                    entry.partition("=")[::2] for entry in (place / "environ").read_text(errors="replace").split("\0")
                )
                state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if variables.get(_MARK) == self.mark and state not in "ZX":
                found[int(place.name)] = variables.get("LOCAL_RANK", "")
        return found

    def rank(self, rank: int) -> int:
        """Return the process of a rank: the oldest of those with its number."""
        if rank == 0 and self.launcher == "lightning":
            return self.process.pid
        return min(number for number, local in self.living().items() if local == str(rank))

    def printed(self) -> str:
        """Return standard error so far."""
        return (self.folder / "errors.txt").read_text(errors="replace")

    def wait_for(self, pattern: str) -> Path:
        """Wait until a file of the folder exists, and return it."""
        began = time.monotonic()
        while not (found := list(self.folder.glob(pattern))):
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() - began < PATIENCE, self.printed()
            time.sleep(0.1)
        return found[0]

    def seconds_until_all_end(self) -> float:
        """Wait until no process is left, and return how long that took."""
        began = time.monotonic()
        while self.process.poll() is None or self.living():
            assert time.monotonic() - began < PATIENCE, (self.living(), self.printed())
            time.sleep(0.1)
        return time.monotonic() - began


def environment(mark: str = "") -> dict[str, str]:
    """Return the environment of a run from a terminal."""
    variables = {name: value for name, value in os.environ.items() if name not in ("HYDRA_FULL_ERROR", "LOCAL_RANK")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**variables, "PYTHONPATH": path, _MARK: mark}


@contextmanager
def two_ranks(folder: Path, launcher: str, *overrides: str) -> Iterator[Ranks]:
    """Start ``bcfusion train`` on two processes of the CPU; whatever is left of them in the end is killed."""
    mark = uuid.uuid4().hex
    (folder / "faulty.py").write_text(FAULTY)
    command = [sys.executable, *LAUNCHERS[launcher], "train", "trainer=ddp", "trainer.devices=2", *overrides]
    with (folder / "errors.txt").open("wb") as errors, (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(mark), stdout=output, stderr=errors, start_new_session=True
        )
    ranks = Ranks(process, folder, launcher, mark)
    try:
        yield ranks
    finally:
        for number in ranks.living():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port that nobody has, and that the system gives to no connection: those have numbers above these."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


def forked(function: Callable[[int], None], folder: Path) -> list[str]:
    """Call a function with the rank in two processes that Lightning takes for those that it has started.

    They are forked, so that nothing is imported again.

    Returns:
        Of each rank, the text of the exception that it ended with, or an empty text.
    """
    folder.mkdir()
    port = free_port()
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}

    def call(rank: int) -> None:
        os.environ.update(variables, LOCAL_RANK=str(rank))
        said = (folder / f"printed-{rank}.txt").open("w", buffering=1)
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        sys.stdout = sys.stderr = said
        logging.basicConfig(stream=said, force=True)
        try:
            function(rank)
        except BaseException as error:
            (folder / f"error-{rank}.txt").write_text(str(error) or type(error).__name__)
            traceback.print_exc()
            raise

    processes = [multiprocessing.get_context("fork").Process(target=call, args=(rank,)) for rank in (0, 1)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
            assert not process.is_alive(), [file.read_text() for file in folder.glob("printed-*.txt")]
    finally:
        for process in processes:
            process.kill()
    found = [folder / f"error-{rank}.txt" for rank in (0, 1)]
    return [file.read_text() if file.is_file() else "" for file in found]
