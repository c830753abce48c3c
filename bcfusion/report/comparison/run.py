"""A run as its directory describes it: each file is read when it is first needed, and torch is not loaded.

A bundle that was made elsewhere, such as an imported one, counts as a finished run once it has been evaluated.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from bcfusion.configuration.machine import published_name
from bcfusion.configuration.values import at
from bcfusion.errors import CheckpointError
from bcfusion.evaluation.systems import ENHANCED
from bcfusion.files import from_json
from bcfusion.report.comparison.event_times import working_seconds
from bcfusion.report.comparison.run_files import (
    Curve,
    Scored,
    ScoreTable,
    read_history,
    read_scores,
    read_settings,
    read_yaml,
)
from bcfusion.run.alive import owner
from bcfusion.run.description import count_parameters, find_bundle, read_description
from bcfusion.run.jobs import FAILED, read_end
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_WEIGHTS, RunDir

__all__ = ["NEVER_BEGAN", "Run", "State", "Which", "is_evaluated_bundle", "is_job", "read_run"]

NEVER_BEGAN = "it ended before it began to train"  #: problem of a directory without a record or an error

State = Literal["finished", "running", "unfinished", "pruned", "failed"]
Which = Literal["best", "closing"]  #: means over the validation files at the best checkpoint, or of the closing scores
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        path: the directory, as it was found.
        recipe: name of the recipe.
        experiment: name of the experiment, or None.
        overrides: key to value as typed, without ``+``.
        choices: the member of each config group.
        record: content of run.json.
        state: ``finished`` with a closing evaluation, ``running`` in a process of this machine, ``unfinished`` (it was
            stopped, or trains elsewhere), ``pruned`` by a search, or ``failed``.
        problem: first line of the error, or the reason why it was pruned.
        evaluated: the scores of the latest evaluation of a bundle that no run made; None of a run.
    """

    path: Path
    recipe: str
    experiment: str | None
    overrides: Mapping[str, str]
    choices: Mapping[str, Any]
    record: Mapping[str, Any] = field(repr=False)
    state: State
    problem: str = ""
    evaluated: Path | None = None

    @cached_property
    def parts(self) -> RunDir:
        """The names of the files."""
        return RunDir(self.path)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The whole configuration as plain containers; the composed one if the job failed before it wrote its own."""
        if self.evaluated is not None:
            return {"generator": self.bundle.get("generator") or {}}
        return _read(self.parts.config, read_settings) or self.composed

    @cached_property
    def composed(self) -> dict[str, Any]:
        """The configuration as Hydra composed it, with unresolved interpolations; empty if it was not kept."""
        try:
            return _read(self.parts.hydra_composed, read_settings) or {}
        except CheckpointError:  # it only shows where values come from
            return {}

    @cached_property
    def bundle(self) -> dict[str, Any]:
        """The configuration of the bundle; empty before there is one."""
        return _read(self._bundle_folder / BUNDLE_CONFIG, read_settings) or {}

    @property
    def _bundle_folder(self) -> Path:
        return self.path if self.evaluated is not None else self.parts.bundle

    @cached_property
    def history(self) -> dict[str, Curve]:
        """Curves of metrics.csv by tag: ``loss/l1``, ``valid/stoi``, ``valid_input/stoi``, ..."""
        return _read(self.parts.metrics, read_history) or {}

    @cached_property
    def best(self) -> dict[str, float]:
        """Mean of each metric over the validation files at ``best.ckpt``; ``selection`` is the value that chose it."""
        tags = ((tag.partition("/"), curve) for tag, curve in self.history.items())
        return {name: curve.last for (group, _, name), curve in tags if group == "best"}

    @cached_property
    def best_step(self) -> int | None:
        """Step of ``best.ckpt``; None before the first validation."""
        validated, best = self.history.get("valid/selection"), self.history.get("best/selection")
        if validated is None or best is None:
            return None
        # the best values are logged again whenever another checkpoint improves, so their own last step may be later
        return int(validated.steps[np.nanargmin(np.abs(validated.values - best.last))])

    @cached_property
    def closing_table(self) -> ScoreTable | None:
        """Scores of the closing evaluation: of the test files, or of the valid files without a test split.

        None before that evaluation; the scores of an earlier session of a resumed run do not count.
        """
        table = self.evaluated or (self.parts.closing_scores() if self.state == "finished" else None)
        return None if table is None else _read(table, read_scores)

    @property
    def closing_scores(self) -> Mapping[str, Scored]:
        """Scores of the closing evaluation by system (inputs, ``enhanced``); empty before it."""
        return {} if self.closing_table is None else self.closing_table.systems

    @cached_property
    def higher_is_better(self) -> dict[str, bool | None]:
        """Direction of each metric, as far as the run records it: in its closing table, else in its selection."""
        known: dict[str, bool | None] = {
            name: criterion["best"] > criterion["worst"]
            for name, criterion in (self.settings.get("selection") or {}).items()
        }
        table = {} if self.closing_table is None else self.closing_table.higher_is_better
        return {**known, **table, "selection": True}

    def means(self, which: Which) -> dict[str, float]:
        """Return the mean of each metric, at the best checkpoint or in the closing evaluation."""
        if which == "best":
            return self.best
        scored = self.closing_scores.get(ENHANCED)
        return {} if scored is None else {metric: scored.mean(metric) for metric in scored.metrics}

    def input_means(self, which: Which) -> dict[str, dict[str, float]]:
        """Return the same means of each input: ``input``, or ``input (body)`` and ``input (noisy)``."""
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
        """Number of trained values in the generator, weight norm folded in; None before there is a bundle."""
        return _read(self._bundle_folder / BUNDLE_WEIGHTS, count_parameters)

    @cached_property
    def latency_ms(self) -> float:
        """Look-ahead of the generator in ms; infinite if it needs the whole file, NaN before there is a bundle."""
        if not self.bundle:
            return math.nan
        delay = self.bundle.get("delay")
        return math.inf if delay is None else 1000 * delay / self.bundle["sample_rate"]

    @cached_property
    def steps_per_second(self) -> float:
        """Median rate of training, without validation; NaN before the first step was logged."""
        curve = self.history.get("rate/steps_per_second")
        return math.nan if curve is None else float(np.median(curve.values))

    @cached_property
    def step(self) -> int:
        """The last step that was logged."""
        return max((int(curve.steps[-1]) for curve in self.history.values()), default=0)

    @property
    def planned_steps(self) -> int | None:
        """The number of steps after which training was to end, such as that of a published recipe; None without one."""
        steps = at(self.settings, "trainer.max_steps", None)
        return int(steps) if isinstance(steps, int | float) else None

    @property
    def is_short(self) -> bool:
        """Whether a run that is finished ended before that number of steps."""
        return self.state == "finished" and self.planned_steps is not None and self.step < self.planned_steps

    @cached_property
    def minutes(self) -> float:
        """Wall-clock time of all sessions in minutes, without the pauses between them; NaN if it is unknown."""
        try:
            sessions = [str(session["started"]) for session in self.record.get("sessions") or ()]
            starts = sorted(datetime.fromisoformat(started).timestamp() for started in sessions)
        except (KeyError, TypeError, ValueError):
            return math.nan
        return working_seconds(self.parts, starts) / 60

    def require_readable(self) -> Run:
        """Read all files that tables and figures need, and return the run itself.

        Raises:
            CheckpointError: one of them is damaged.
        """
        for name in ("settings", "bundle", "history", "closing_table", "higher_is_better", "parameters"):
            getattr(self, name)
        return self


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read what identifies a run and what became of it; its other files are read when they are first needed.

    Args:
        path: the directory of a finished, running, stopped or failed run.

    Raises:
        CheckpointError: it is not a run, or its run.json is damaged.
    """
    run = RunDir(Path(path))
    record: dict[str, Any] = {}
    if run.record.is_file():
        try:
            record = from_json(run.record.read_text(encoding="utf-8"))
            choices, recipe = dict(record["choices"]), str(record["recipe"])
            typed = [str(override) for override in record["sessions"][-1]["overrides"]]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(f"{run.record} cannot be read: {reason}") from error
    elif is_job(run.path):
        typed, choices = _hydra_overrides(run), _hydra_choices(run)
        recipe = str(choices.get("recipe") or "")
    elif (table := _latest_scores(run.path)) is not None:
        return _of_bundle(run.path, table)
    else:
        raise CheckpointError(f"{run.path} is not a run: it has no {run.record.name}")
    overrides = {key.lstrip("+~"): value for key, _, value in (text.partition("=") for text in typed)}
    state, problem = _state(run)
    return Run(
        path=run.path,
        recipe=recipe or overrides.get("recipe", ""),
        experiment=record.get("experiment") if record else choices.get("experiment") or overrides.get("experiment"),
        overrides=overrides,
        choices=choices,
        record=record,
        state=state,
        problem=problem,
    )


def is_job(folder: Path) -> bool:
    """Return whether a folder is that of a training job, which may have failed before it wrote its record."""
    return RunDir(folder).hydra_overrides.is_file() and (
        (folder / "train.log").is_file() or (folder / FAILED).is_file()
    )


def is_evaluated_bundle(folder: Path) -> bool:
    """Return whether a folder is a bundle outside of a run that ``bcfusion evaluate`` has scored."""
    return _latest_scores(folder) is not None


def _latest_scores(folder: Path) -> Path | None:
    if find_bundle(folder) != folder:
        return None
    return max(RunDir(folder).evaluations.glob("*/scores.csv"), default=None)  # folders are named by their time


def _of_bundle(folder: Path, table: Path) -> Run:
    training = read_description(folder).training
    recipe = str(training.get("recipe") or "")
    name = folder.name
    return Run(folder, recipe, name, {}, {"recipe": recipe}, {}, "finished", evaluated=table)


def _hydra_overrides(run: RunDir) -> list[str]:
    try:
        return [str(override) for override in read_yaml(run.hydra_overrides) or ()]
    except (OSError, ValueError, TypeError):
        return []


def _hydra_choices(run: RunDir) -> dict[str, Any]:
    try:
        choices = read_settings(run.hydra_config)["hydra"]["runtime"]["choices"]
        return {group: published_name(member) for group, member in choices.items() if not group.startswith("hydra")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _state(run: RunDir) -> tuple[State, str]:
    """Return what became of a run, and why it did not finish."""
    if owner(run) is not None:
        return "running", ""
    end, reason = read_end(run.path)
    if end in ("failed", "pruned"):
        return end, reason
    if not run.record.is_file():
        began = run.metrics.is_file()
        return "failed", f"its {run.record.name} is missing" if began else NEVER_BEGAN
    # the bundle is removed when a run resumes, and written before the closing evaluation
    finished = run.closing_scores() is not None and (run.bundle / BUNDLE_CONFIG).is_file()
    return ("finished" if finished else "unfinished"), ""


def _read(path: Path, reader: Callable[[Path], T]) -> T | None:
    """Read one file; return None if it does not exist.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return reader(path)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = str(error).replace(f"{path} ", "").partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read: {reason}") from error
