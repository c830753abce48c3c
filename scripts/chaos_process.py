"""The process of a run that scripts/chaos.py interrupts: the real command, with a note of where it is.

python scripts/chaos_process.py             reads sessions from standard input, a line of JSON each, and forks each one
python scripts/chaos_process.py SESSION     runs one session, in an interpreter of its own

A forked session is cheap: what `bcfusion train` imports was imported before. Its answer is two lines of JSON: the
number of its process when it begins, and how it ended.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

START, TRAINING, VALIDATION, CLOSING = "start-up", "training step", "validation", "closing evaluation"
NOTE = 64  # bytes of the file that says where a run is
# Imported by a run as it goes along, besides what its command imports at once.
IMPORTED = (
    *("bcfusion.commands.train", "bcfusion.training.run", "bcfusion.commands.shared.sweep"),
    *("bcfusion.commands.shared.composition", "bcfusion.commands.shared.additions", "bcfusion.search.trial"),
    *("bcfusion.configuration.check", "bcfusion.generators.seanet", "bcfusion.discriminators.multi_scale"),
    *("hydra._internal.hydra", "hydra.core.override_parser.overrides_parser", "matplotlib.backends.backend_agg"),
    *("torch.utils.tensorboard.summary", "torch.utils.tensorboard.writer", "torch.utils.data._utils.worker"),
)
_CAPABILITIES = 0x20080522  # version 3 of the interface


class Phases(Callback):
    """Writes into a file of fixed size which part of a session runs, and how many batches were trained.

    Args:
        path: the file. Only rank zero writes.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)

    def _note(self, trainer: Trainer, phase: str, module: LightningModule) -> None:
        if trainer.is_global_zero:
            os.pwrite(self._file, f"{phase}|{module.step}|".ljust(NOTE).encode(), 0)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._note(trainer, TRAINING, module)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self._note(trainer, TRAINING, module)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._note(trainer, VALIDATION, module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._note(trainer, TRAINING if trainer.state.fn == TrainerFn.FITTING else CLOSING, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._note(trainer, CLOSING, module)


def read_note(path: Path) -> tuple[str, int]:
    """Return the part of a session that runs, and how many batches were trained; -1 before it is known."""
    with suppress(OSError, ValueError):
        phase, step, _ = path.read_text().split("|")
        return phase, int(step)
    return START, -1


def without_privileges() -> None:
    """Give up what lets root write into folders that nobody may write into; of another user nothing changes."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def write_plainly() -> None:
    """Replace atomic writes by plain ones, as a program has that does not think of crashes."""
    import bcfusion.files

    atomic = bcfusion.files.appearing

    @contextmanager
    def plain(path: str | os.PathLike[str], *, fsync: bool = False) -> Iterator[Path]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield Path(path)

    for module in list(sys.modules.values()):
        if getattr(module, "appearing", None) is atomic:
            module.appearing = plain  # type: ignore[attr-defined]


class DiesAtOperation:
    """Kills this process before it changes a name in a folder for the so manyth time: renames, links, deletes, makes.

    Args:
        folder: where names are counted, below it too.
        number: counted from 1.
    """

    EVENTS = frozenset(("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"))

    def __init__(self, folder: str, number: int) -> None:
        self._folder = os.path.realpath(folder)
        self._left = number
        self._process = os.getpid()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self.EVENTS and os.getpid() == self._process:
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(self._folder):
                self._left -= 1
                if self._left == 0:
                    os.kill(self._process, signal.SIGKILL)


def prepare(session: dict[str, Any]) -> list[str]:
    """Make this process the one that a session asks for, and return the arguments of bcfusion.

    Args:
        session: ``argv``; ``cwd``; ``output``, a file; optional: ``plain``, whether files are written plainly;
            ``dies_at``, the folder and the number of :class:`DiesAtOperation`; ``dies_of_size``, whether a file that
            grows too large ends the process, as the kernel does by itself, or is an error, as in Python.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()  # by which what it leaves is found
    os.chdir(session["cwd"])
    output = os.open(session["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts this in the background may ignore it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        without_privileges()
    if session.get("plain"):
        write_plainly()
    if session.get("dies_of_size"):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if session.get("dies_at"):
        sys.addaudithook(DiesAtOperation(*session["dies_at"]))
    return list(session["argv"])


def sessions() -> dict[str, Any] | None:
    """Fork a process for each line of standard input; return the session in it, and None here at the end."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        session: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            answers.close()
            return session
        print(json.dumps({"pid": child}), file=answers)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), file=answers)
    return None


def run(session: dict[str, Any]) -> int:
    """Run the command in this process and return its status."""
    sys.argv = ["bcfusion", *prepare(session)]
    from bcfusion.cli import main as bcfusion

    return bcfusion()


def end_forked(session: dict[str, Any]) -> NoReturn:
    """Run the command and end as an interpreter does, except for the threads of libraries, which a fork has not got.

    Their destructors would wait for these.
    """
    try:
        status = run(session)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else end.code is not None
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(arguments: list[str]) -> int:
    if arguments:
        return run(json.loads(arguments[0]))
    for name in IMPORTED:
        importlib.import_module(name)
    if (session := sessions()) is not None:
        end_forked(session)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
