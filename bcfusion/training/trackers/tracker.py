"""What all experiment trackers have in common: which rows are sent, when, and what happens if that fails."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from bcfusion.errors import ConfigError, first_line
from bcfusion.files import read_object, write_text
from bcfusion.run.layout import RunDir
from bcfusion.training.trackers.outbox import Outbox

__all__ = ["Row", "Tracker", "need"]

CLOSING_SECONDS = 90.0  # how long the end of a training waits for what has not been sent


@dataclass
class Row:
    """What a run has logged at one step.

    Attributes:
        step: of the run.
        values: scalars by tag.
        sounds: mono signals ``(T,)`` of 16-bit integers, by tag.
        pictures: PNG files, by tag.
        sample_rate: of the sounds, in Hz.
    """

    step: int
    values: dict[str, float] = field(default_factory=dict)
    sounds: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    sample_rate: int = 0

    def without_media(self) -> None:
        """Drop sounds and pictures, which are too large to be kept until a tracker can be reached again."""
        self.sounds.clear()
        self.pictures.clear()


class Tracker(Logger):
    """Logs to an experiment tracker, beside ``metrics.csv``, and never in the way of the training.

    Everything is sent from a thread, one row for each step, when a later step begins. What fails is reported once and
    tried again. The run directory keeps the id of the tracker's run and the step of the last row that was sent, so
    that a resumed run continues it: rows up to that step are not sent again, and those that ``metrics.csv`` has beyond
    it, up to the checkpoint, are sent first. The last row of an interrupted session is left to the next one, which may
    complete it.

    Nothing is connected to and nothing is written before :meth:`open`, so that a configuration can be checked by
    building it.

    Args:
        run_dir: the run directory.
        first_step: step at which this session starts.

    Raises:
        ConfigError: a package is missing.

    Attributes:
        run: the run directory.
        state: the file in it that the next session reads.
        memory: what is kept there beside the id and the step.
        sent: step of the last row that the tracker has; -1 without any.
    """

    #: name of the tracker, and of bcfusion's extra
    title: ClassVar[str]
    #: built when a configuration is checked
    built_by_check: ClassVar[bool] = True

    def __init__(self, run_dir: str | Path, first_step: int = 0) -> None:
        super().__init__()
        self.run = RunDir(Path(run_dir))
        self.first_step = first_step
        self.state = self.run.tracker(self.title)
        self.memory: dict[str, Any] = {}
        self._outbox: Outbox | None = None
        self._row: Row | None = None
        self._troubled = False  # the latest attempt to send has failed
        self._warned = False
        self._id: str | None = None
        self.sent = -1

    # ---------------------------------------------------------------- what a tracker implements

    @property
    @abstractmethod
    def where(self) -> str:
        """Where the run is to be seen: an address, or what to type."""

    @abstractmethod
    def load(self) -> None:
        """Import the package; called in the main thread, before other processes start."""

    @abstractmethod
    def start(self, run_id: str | None, hyperparameters: Mapping[str, Any]) -> str:
        """Begin a run of the tracker or continue one, and return its id.

        It may correct ``self.sent``, if the tracker knows better which rows it has.

        Args:
            run_id: id of the run to continue; None for a new one.
            hyperparameters: flat plain values.
        """

    @abstractmethod
    def send(self, row: Row) -> None:
        """Send a row. If an attempt fails, the next one is without sounds and pictures."""

    @abstractmethod
    def finish(self, succeeded: bool) -> None:
        """End the tracker's run."""

    # ---------------------------------------------------------------- what a run calls

    @property
    def name(self) -> str:
        """Empty: the directory names the run."""
        return ""

    @property
    def version(self) -> str:
        """Empty, like the name."""
        return ""

    @property
    def run_name(self) -> str:
        """``RECIPE/EXPERIMENT/TIME``, as in the run directory."""
        return "/".join(self.run.path.absolute().parts[-3:])

    @property
    def commit(self) -> str | None:
        """The commit of bcfusion, as in run.json."""
        sessions = read_object(self.run.record).get("sessions") or [{}]
        return sessions[-1].get("git")

    @property
    def notes(self) -> str:
        """The run directory, and the commit if there is one."""
        commit = self.commit
        return f"{self.run.path.absolute()}" + (f"\ngit {commit}" if commit else "")

    def open(self, hyperparameters: Mapping[str, Any]) -> None:
        """Start to send, beginning with what earlier sessions have left.

        Args:
            hyperparameters: flat plain values.
        """
        try:
            self.load()
        except Exception as error:  # a package that is there may be broken
            self._failed(error)
            return
        self._outbox = Outbox(f"tracker-{self.title}", self._failed)
        self._outbox.put(partial(self._start, hyperparameters))
        for row in _logged(self.run.metrics, self.first_step):
            self._post()
            self._row = row  # the last one may be completed by a validation

    def close(self, step: int, succeeded: bool) -> None:
        """Send the rest and end the tracker's run.

        Args:
            step: at which the run is.
            succeeded: whether it has come to its end; if not, a session that resumes it may complete the row of this
                step.
        """
        if self._outbox is None:
            return
        if self._row is not None and (succeeded or self._row.step < step):
            self._post()
        self._outbox.put(partial(self.finish, succeeded))
        left = self._outbox.close(CLOSING_SECONDS)
        self._outbox = None
        if left and not self._warned:
            self.warn(f"not everything could be sent in time; {self.run.metrics} has every value")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: :meth:`open` is given them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the values of one step to its row."""
        if (row := self._row_of(step or 0)) is not None:
            row.values.update({tag: float(value) for tag, value in metrics.items()})

    def log_sound(self, tag: str, signal: np.ndarray, step: int, sample_rate: int) -> None:
        """Add a sound ``(T,)`` within [-1, 1] to the row of a step."""
        if (row := self._row_of(step)) is not None:
            row.sounds[tag] = np.round(32767 * np.clip(signal, -1.0, 1.0)).astype(np.int16)
            row.sample_rate = sample_rate

    def log_picture(self, tag: str, png: bytes, step: int) -> None:
        """Add a picture, a PNG file, to the row of a step."""
        if (row := self._row_of(step)) is not None:
            row.pictures[tag] = png

    # ---------------------------------------------------------------- parts

    def _row_of(self, step: int) -> Row | None:
        if self._outbox is None:
            return None
        if self._row is not None and self._row.step != step:
            self._post()
        if self._row is None:
            self._row = Row(step)
        return self._row

    def _post(self) -> None:
        row, self._row = self._row, None
        if row is None or self._outbox is None:
            return
        if self._troubled:
            row.without_media()
        self._outbox.put(partial(self._deliver, row))

    def _start(self, hyperparameters: Mapping[str, Any]) -> None:
        if self.first_step:
            earlier = read_object(self.state)
            self._id, self.sent = earlier.get("id"), int(earlier.get("sent", -1))
        else:
            self.state.unlink(missing_ok=True)
        if self._id is None:
            self.sent = -1
        self._id = self.start(self._id, hyperparameters)
        self._remember()
        print(f"{self.title}: {self.where}")

    def _deliver(self, row: Row) -> None:
        if row.step <= self.sent:
            return
        try:
            self.send(row)
        except Exception:
            row.without_media()
            raise
        self.sent = row.step
        self._troubled = False
        self._remember()

    def _remember(self) -> None:
        write_text(self.state, json.dumps({"id": self._id, "sent": self.sent, **self.memory}) + "\n")

    def _failed(self, error: Exception) -> None:
        self._troubled = True
        if not self._warned:
            self._warned = True
            self.warn(f"{first_line(error)}; training goes on, and {self.run.metrics} has every value")

    def warn(self, text: str) -> None:
        """Print a line about this tracker on stderr."""
        print(f"bcfusion: {self.title}: {text}", file=sys.stderr)


def need(title: str, packages: Sequence[str]) -> None:
    """Refuse a tracker whose packages are not installed.

    Raises:
        ConfigError: with the command that installs them.
    """
    missing = [name for name in packages if not _is_installed(name)]
    if missing:
        raise ConfigError([f"needs {', '.join(missing)}: pip install 'bcfusion[{title}]'"])


def _is_installed(package: str) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None  # else a folder of that name, such as ./wandb


def _logged(path: Path, last_step: int) -> Iterator[Row]:
    """Yield the rows of a metrics.csv up to a step; none if there is no such file."""
    if not last_step or not path.is_file():
        return
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            step = int(line.pop("step"))
            if step <= last_step:
                yield Row(step, {tag: float(value) for tag, value in line.items() if value})
