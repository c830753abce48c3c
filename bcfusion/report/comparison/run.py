"""A run as its directory tells of it: each file is read when it is asked for, and torch is not needed."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml

from bcfusion.errors import CheckpointError
from bcfusion.report.comparison.run_files import (
    Curve,
    Scored,
    count_numbers,
    directions,
    read_history,
    read_scores,
    read_settings,
    wall_times,
)

__all__ = ["ENHANCED", "Run", "State", "Which"]

ENHANCED = "enhanced"  #: the system under test in the scores of a run; the others are its inputs

State = Literal["finished", "unfinished", "pruned", "failed"]
Which = Literal["best", "closing"]  #: means over the validation files at the best checkpoint, or of the closing scores
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        path: of the directory, as it was found. recipe: its name. experiment: its name, or None.
        overrides: as typed: key to value, without ``+``. choices: the member of each config group.
        run: all that run.json says. state: ``finished`` with a closing evaluation, ``unfinished`` (it still trains, or
            was stopped), ``pruned`` by a search, ``failed``. problem: the first line of the error or the reason.
    """

    path: Path
    recipe: str
    experiment: str | None
    overrides: Mapping[str, str]
    choices: Mapping[str, Any]
    run: Mapping[str, Any] = field(repr=False)
    state: State
    problem: str = ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The whole configuration as plain containers; of a job that failed before it wrote one, the composed one."""
        return self._read("config.yaml", read_settings) or self.composed

    @cached_property
    def composed(self) -> dict[str, Any]:
        """The configuration as Hydra composed it, with its interpolations unresolved; empty where it was not kept."""
        try:
            return self._read(".hydra/config.yaml", read_settings) or {}
        except CheckpointError:  # it says where values come from, no more
            return {}

    @cached_property
    def bundle(self) -> dict[str, Any]:
        """What config.yaml of the bundle says; empty before there is one."""
        return self._read("bundle/config.yaml", read_settings) or {}

    @cached_property
    def history(self) -> dict[str, Curve]:
        """Curves of metrics.csv by their tags: ``loss/l1``, ``valid/stoi``, ``valid_input/stoi``, ..."""
        return self._read("metrics.csv", read_history) or {}

    @cached_property
    def best(self) -> dict[str, float]:
        """Mean of each metric over the validation files at ``best.ckpt``; ``selection`` is what chose it."""
        tags = ((tag.partition("/"), curve) for tag, curve in self.history.items())
        return {name: curve.last for (group, _, name), curve in tags if group == "best"}

    @cached_property
    def best_step(self) -> int | None:
        """Step of ``best.ckpt``; None before the first validation."""
        validated, best = self.history.get("valid/selection"), self.history.get("best/selection")
        if validated is None or best is None:
            return None
        # the bests are logged again whenever another checkpoint improves: their own step says less
        return int(validated.steps[np.nanargmin(np.abs(validated.values - best.last))])

    @cached_property
    def closing(self) -> Path | None:
        """Scores of the closing evaluation: of the test files, or of the valid files where there is no test split.

        None before it; those of an earlier session of a run that goes on do not count.
        """
        if self.state != "finished":
            return None
        tables = (self.path / "quality" / f"{split}.csv" for split in ("test", "valid"))
        return next((table for table in tables if table.is_file()), None)

    @cached_property
    def closing_scores(self) -> dict[str, Scored]:
        """Scores of the closing evaluation by system (inputs, ``enhanced``); empty before it."""
        if self.closing is None:
            return {}
        return self._read(str(self.closing.relative_to(self.path)), read_scores) or {}

    @cached_property
    def higher_is_better(self) -> dict[str, bool | None]:
        """Direction of each metric, as far as the run says it: its closing table, else its selection."""
        known: dict[str, bool | None] = {
            name: criterion["best"] > criterion["worst"]
            for name, criterion in (self.settings.get("selection") or {}).items()
        }
        return {**known, **(directions(self.closing) if self.closing is not None else {}), "selection": True}

    def means(self, which: Which) -> dict[str, float]:
        """Mean of each metric at the best checkpoint, over the validation files or in the closing evaluation."""
        if which == "best":
            return self.best
        scored = self.closing_scores.get(ENHANCED)
        return {} if scored is None else {metric: scored.mean(metric) for metric in scored.metrics}

    def input_means(self, which: Which) -> dict[str, dict[str, float]]:
        """The same of the inputs, by their names: ``input``, or ``input (body)`` and ``input (noisy)``."""
        if which == "closing":
            inputs = {name: scored for name, scored in self.closing_scores.items() if name != ENHANCED}
            return {name: {metric: s.mean(metric) for metric in s.metrics} for name, s in inputs.items()}
        means: dict[str, dict[str, float]] = {}
        for tag, curve in self.history.items():
            group, _, metric = tag.partition("/")
            if group.startswith("valid_input"):
                means.setdefault(group.removeprefix("valid_"), {})[metric] = curve.last
        return means

    @cached_property
    def parameters(self) -> int | None:
        """Numbers trained in the generator, weight norm folded in; None before there is a bundle."""
        return self._read("bundle/generator.safetensors", count_numbers)

    @cached_property
    def latency_ms(self) -> float:
        """Look-ahead of the generator in ms; infinite for one that hears the whole file, NaN before the bundle."""
        if not self.bundle:
            return math.nan
        delay = self.bundle.get("delay")
        return math.inf if delay is None else 1000 * delay / self.bundle["sample_rate"]

    @cached_property
    def steps_per_second(self) -> float:
        """Median rate of training, validations apart; NaN before the first step was logged."""
        curve = self.history.get("rate/steps_per_second")
        return math.nan if curve is None else float(np.median(curve.values))

    @cached_property
    def step(self) -> int:
        """The last step that was logged."""
        return max((int(curve.steps[-1]) for curve in self.history.values()), default=0)

    @cached_property
    def seconds(self) -> float:
        """Wall-clock time from the start of each session to its last logged event; NaN where nothing tells it."""
        try:
            sessions = [str(session["started"]) for session in self.run.get("sessions") or ()]
            starts = sorted(datetime.fromisoformat(started).timestamp() for started in sessions)
        except (KeyError, TypeError, ValueError):
            return math.nan
        ends: dict[float, float] = {}
        for events in self.path.glob("events.out.tfevents.*"):
            times = wall_times(events)
            before = [start for start in starts if times is not None and start <= times[0] + 1.0]
            if times is not None and before:
                ends[before[-1]] = max(times[1], ends.get(before[-1], 0.0))
        if ends:
            return sum(end - start for start, end in ends.items())
        table = self.path / "metrics.csv"  # without TensorBoard; a copied file has another time
        spent = table.stat().st_mtime - starts[0] if len(starts) == 1 and table.is_file() else math.nan
        return spent if spent >= 0 else math.nan

    def require_sound(self) -> Run:
        """Reads all files that tables and pictures need.

        Returns:
            The run itself.

        Raises:
            CheckpointError: one of them is damaged.
        """
        for name in ("settings", "bundle", "history", "closing_scores", "higher_is_better", "parameters"):
            getattr(self, name)
        return self

    def _read(self, name: str, reader: Callable[[Path], T]) -> T | None:
        """One file of the run; None where it is not there.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return reader(path)
        except (OSError, ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError) as error:
            reason = str(error).replace(f"{path} ", "").partition("\n")[0]
            raise CheckpointError(f"{path} cannot be read: {reason}") from error
