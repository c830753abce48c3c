"""What a run writes while it trains: TensorBoard events and a CSV, both resumable, both by the run's own step count."""

from __future__ import annotations

import csv
import io
import re
import struct
import threading
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import TensorBoardLogger as LightningTensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch import Tensor
from torch.utils.tensorboard.summary import custom_scalars, hparams

from bcfusion.files import appearing
from bcfusion.run.layout import RunDir
from bcfusion.training.writing import writing


class TensorBoardLogger(LightningTensorBoardLogger):
    """Events directly in the run directory, so that ``tensorboard --logdir runs`` names runs as the folders do.

    Args:
        run_dir: where the events go.
        first_step: step at which this session starts; later events of an interrupted session are hidden.
    """

    def __init__(self, run_dir: str | Path, first_step: int = 0) -> None:
        # the validation at the step of the checkpoint stays
        arguments: dict[str, Any] = {"purge_step": first_step + 1} if first_step else {}
        super().__init__(save_dir=str(run_dir), name="", version="", default_hp_metric=False, **arguments)
        _keep_writer_threads_quiet()

    @property
    def log_dir(self) -> str:
        """The run directory."""
        return str(self.save_dir)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Make the run a row of HPARAMS, and put the tags that belong together into common charts.

        The metrics of HPARAMS are the scalars ``best/...``, logged as they improve.

        Lightning would also write the columns of the table, and TensorBoard uses those of whichever run it reads first
        for all runs: keys and metrics that only other runs have would be missing. Without them it collects the columns
        of all runs, those whose values differ first.

        Args:
            params: flat plain values.
            metrics: part of Lightning's interface; ignored.
            step: part of Lightning's interface; ignored.
        """
        _, row, _ = hparams(params if isinstance(params, dict) else vars(params), {})
        self.experiment.file_writer.add_summary(row)

    @rank_zero_only
    def log_charts(self, metrics: Iterable[str]) -> None:
        """Lay out CUSTOM SCALARS: a chart for each metric with validation, input and best checkpoint, then the losses.

        SCALARS has one chart for each tag and orders them by the alphabet, ``best/...`` first.

        Args:
            metrics: names of the values of a validation, in the order of the charts.
        """
        quality = {
            name: ["Multiline", [rf"^(valid|valid_input.*|best)/{re.escape(name)}$"]]
            for name in ("selection", *metrics)
        }
        training = {
            name.replace("_", " "): ["Multiline", [f"^{name}/"]]
            for name in ("loss", "share", "discriminator", "gradient_norm", "lr")
        }
        self.experiment.file_writer.add_summary(custom_scalars({"quality": quality, "training": training}))

    @rank_zero_only
    def log_sound(self, tag: str, signal: np.ndarray, step: int, sample_rate: int) -> None:
        """Write a sound ``(T,)`` within [-1, 1]."""
        self.experiment.add_audio(tag, Tensor(np.clip(signal, -1.0, 1.0)).unsqueeze(0), step, sample_rate)

    @rank_zero_only
    def log_picture(self, tag: str, png: bytes, step: int) -> None:
        """Write a picture, a PNG file."""
        width, height = struct.unpack(">II", png[16:24])  # of the header, the first chunk
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)  # RGBA
        self.experiment.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    @rank_zero_only
    def save(self) -> None:
        """Flush the events; there is no hparams.yaml, since the run directory has a config.yaml."""
        with writing(Path(self.log_dir), self._what_now):
            self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush and close; on a full disk, the error that has ended the run is not replaced by another one."""
        with writing(Path(self.log_dir), self._what_now):
            try:
                super().finalize(status)
            except OSError:
                if status == "success":
                    raise

    def _what_now(self) -> str:
        return f"Free some space, then continue with\n  {RunDir(Path(self.log_dir)).resume_command}"


@cache
def _keep_writer_threads_quiet() -> None:
    """Leave errors of the thread that writes events to the next flush, which raises them: no traceback is printed."""
    others = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.thread, _AsyncWriterThread):
            others(arguments)

    threading.excepthook = hook


class CsvLogger(Logger):
    """``metrics.csv`` in the run directory: one line per step, one column per tag.

    A tag that appears late widens the table: the file is then rewritten, atomically. On resume, lines after
    ``first_step`` are dropped, since those steps are repeated. Only the last line is kept in memory.

    Args:
        run_dir: where the file goes.
        first_step: step at which this session starts.
    """

    def __init__(self, run_dir: str | Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = RunDir(Path(run_dir)).metrics
        self._columns: list[str] = ["step"]
        self._last: dict[str, str] = {}  # line
        self._before = 0  # bytes of the file before it
        self._first_step = first_step
        self._opened = False

    @property
    def name(self) -> str:
        """Empty: the directory names the run."""
        return ""

    @property
    def version(self) -> str:
        """Empty, like the name."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the hyperparameters are in the run's config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the values of one step; further values of the latest step join its line."""
        if not self._opened:
            self._open()
        step_text = str(0 if step is None else step)
        new_columns = [tag for tag in metrics if tag not in self._columns]
        joined = self._last.get("step") == step_text
        values = {tag: repr(float(value)) for tag, value in metrics.items()}
        self._last = {**(self._last if joined else {"step": step_text}), **values}
        if new_columns:
            self._rewrite(new_columns, keep=lambda row: not (joined and row["step"] == step_text))
        elif joined:
            with appearing(self.path) as part:
                with self.path.open("rb") as old, part.open("wb") as new:
                    _copy(old, new, self._before)
                self._append(part)
        else:
            self._before = self.path.stat().st_size
            self._append(self.path)

    def _open(self) -> None:
        self._opened = True
        if not self._first_step:
            self.path.unlink(missing_ok=True)
        self._rewrite([], keep=lambda row: int(row["step"]) <= self._first_step)

    def _rewrite(self, columns: Sequence[str], keep: Callable[[dict[str, str]], bool]) -> None:
        """Write the file anew: the lines that are kept, and after them the last one, if it is not one of these.

        Args:
            columns: beside those of the file.
            keep: whether a line of the file is kept.
        """
        with ExitStack() as opened:
            part = opened.enter_context(appearing(self.path))
            file = opened.enter_context(self.path.open(newline="")) if self.path.is_file() else io.StringIO("step\n")
            reader = csv.DictReader(_whole_lines(file))
            self._columns = [*(reader.fieldnames or ["step"]), *columns]
            with part.open("w", newline="") as new:
                writer = csv.DictWriter(new, self._columns, restval="")
                writer.writeheader()
                kept = filter(keep, reader)
                latest = self._last or next(kept, {})
                for row in kept:
                    if self._last:
                        writer.writerow(row)
                    else:
                        writer.writerow(latest)
                        latest = row
            self._last = {tag: value for tag, value in latest.items() if value}
            self._before = part.stat().st_size
            if self._last:
                self._append(part)

    def _append(self, path: Path) -> None:
        with path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(self._last)


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a file but one without an end, in which a full disk or a death has stopped a session.

    Its step is cut off, too: 1 may have been 12.
    """
    return (line for line in file if line.endswith("\n"))


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    """Copy the first bytes of a file."""
    while count and (block := source.read(min(count, 1 << 20))):
        target.write(block)
        count -= len(block)
