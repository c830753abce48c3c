"""Order the runs of one recipe: the settings in which they differ, their scores, and what is not comparable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bcfusion.report.comparison.inputs import common_inputs
from bcfusion.report.comparison.keys import FACTS, fact, known_key, setting, text_of
from bcfusion.report.comparison.names import changed_keys, run_names
from bcfusion.report.comparison.run import Run, Which
from bcfusion.report.table import MISSING

__all__ = ["OWN_COLUMNS", "Comparison", "compare", "compare_recipes", "notes"]

OWN_COLUMNS = 3  #: up to this number, changed keys have a column each; more of them share one


@dataclass(frozen=True)
class Comparison:
    """Runs of one recipe in the order of the table.

    Attributes:
        runs: the best first.
        names: a short, unique name for each.
        keys: the settings in which the runs differ, and the one that they are sorted by.
        metrics: keys of the scores to show.
        higher_is_better: direction of all scores, None for information only.
        which: which scores are shown.
        inputs: mean scores of the inputs that are the same for all runs.
        sort: key that the runs are sorted by.
        before: number of runs in the tables of other recipes before this one; ranks count on from there.
    """

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    metrics: tuple[str, ...]
    higher_is_better: Mapping[str, bool | None]
    which: Which
    inputs: Mapping[str, Mapping[str, float]]
    sort: str
    before: int = 0

    @property
    def recipe(self) -> str:
        """The recipe of all runs."""
        return self.runs[0].recipe or "no recipe"

    @property
    def ranked(self) -> list[tuple[int, str, Run]]:
        """Rank over all tables, from 1, name and run."""
        return [(self.before + 1 + place, *pair) for place, pair in enumerate(self.by_name.items())]

    @cached_property
    def by_name(self) -> dict[str, Run]:
        """The runs by their names, in the same order."""
        return dict(zip(self.names, self.runs, strict=True))

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """A text per run for each of :attr:`keys`."""
        return {key: [text_of(setting(run, key)) for run in self.runs] for key in self.keys}

    @cached_property
    def usual(self) -> dict[str, str]:
        """The value that most runs have, for each of :attr:`keys`."""
        return {key: max(dict.fromkeys(values), key=values.count) for key, values in self.values.items()}

    @property
    def caption(self) -> str:
        """Recipe, number of runs, their order, and what the scores are."""
        runs = "1 run" if len(self.runs) == 1 else f"{len(self.runs)} runs by {self.sort}"
        files = {"best": "validation files at the best checkpoint", "closing": "files of the closing evaluation"}
        return f"{self.recipe}: {runs}; scores are means over the {files[self.which]}"


def compare_recipes(
    runs: Sequence[Run],
    sort: str = "selection",
    reverse: bool = False,
    metrics: Sequence[str] | None = None,
    which: Which = "best",
) -> list[Comparison]:
    """Compare the runs of each recipe: recipes are different tasks, whose scores say nothing about each other.

    Args:
        runs: at least one.
        sort: see :func:`compare`.
        reverse: see :func:`compare`.
        metrics: see :func:`compare`; a table has those that its runs measured.
        which: see :func:`compare`.

    Returns:
        One comparison for each recipe, in the order in which the recipes first appear.

    Raises:
        ConfigError: no run has the key to sort by, or a metric.
        CheckpointError: a file of a run is damaged.
    """
    sort = known_key(runs, sort)
    wanted = None if metrics is None else [known_key(runs, metric) for metric in metrics]
    comparisons: list[Comparison] = []
    before = 0
    for recipe in dict.fromkeys(run.recipe for run in runs):
        own = [run for run in runs if run.recipe == recipe]
        measured = {metric for run in own for metric in (*run.best, *run.means("closing"))}
        shown = None if wanted is None else [metric for metric in wanted if metric in measured] or wanted
        comparisons.append(_compared(own, sort, reverse, shown, which, before))
        before += len(own)
    return comparisons


def compare(
    runs: Sequence[Run],
    sort: str = "selection",
    reverse: bool = False,
    metrics: Sequence[str] | None = None,
    which: Which = "best",
) -> Comparison:
    """Put runs in order and find the settings in which they differ.

    Args:
        runs: at least one; all of one recipe.
        sort: a metric, one of :data:`bcfusion.report.comparison.keys.FACTS`, or a setting. The best or smallest value
            comes first; runs without a value and failed runs come last.
        reverse: put the worst or largest value first.
        metrics: scores to show; None for all that have a direction.
        which: means of the validation files at the best checkpoint, or of the closing evaluation.

    Raises:
        ConfigError: no run has the key to sort by, or a metric.
        CheckpointError: a file of a run is damaged.
    """
    sort = known_key(runs, sort)
    return _compared(runs, sort, reverse, metrics and [known_key(runs, metric) for metric in metrics], which, 0)


def _compared(
    runs: Sequence[Run], sort: str, reverse: bool, metrics: Sequence[str] | None, which: Which, before: int
) -> Comparison:
    """Compare runs of one recipe by keys that are known to exist in some run."""
    directions: dict[str, bool | None] = {}
    for run in runs:
        known = run.higher_is_better
        for metric in (*run.best, *run.means(which)):
            if directions.get(metric) is None:
                directions[metric] = known.get(metric)
    shown = [metric for metric, higher in directions.items() if higher is not None and metric != "selection"]
    if metrics is not None:
        shown = list(metrics)
    failing = [run for run in runs if run.state == "failed"]
    ordered = [*_ordered([run for run in runs if run.state != "failed"], sort, directions, reverse, which), *failing]
    keys = changed_keys(ordered)
    if sort not in (*keys, *directions, *FACTS, "recipe", "experiment"):
        keys.append(sort)  # an order is always shown with the values that it follows
    return Comparison(
        runs=tuple(ordered),
        names=tuple(run_names(ordered)),
        keys=tuple(keys),
        metrics=tuple(shown),
        higher_is_better=directions,
        which=which,
        inputs=common_inputs(ordered, which),
        sort=sort,
        before=before,
    )


def _ordered(
    runs: Sequence[Run], key: str, directions: Mapping[str, bool | None], reverse: bool, which: Which
) -> list[Run]:
    values = [(fact(run, key, which), run) for run in runs]
    empty = [run for value, run in values if value is None or value != value]
    filled = [(value, run) for value, run in values if value is not None and value == value]
    descending = (directions.get(key) is True) != reverse
    filled.sort(key=lambda pair: _sorting(pair[0]), reverse=descending)
    return [*(run for _, run in filled), *empty]


def _sorting(value: Any) -> tuple[bool, float, str]:
    """Return a key that sorts numbers by size, before texts in alphabetical order."""
    number = isinstance(value, int | float)
    return not number, value if number else 0.0, "" if number else text_of(value)


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader of the table has to know, one line each: why runs have no result, what is not comparable."""
    lines = []
    for rank, name, run in comparison.ranked:
        if run.problem:
            lines.append(f"{rank} {name}: {run.state}: {run.problem}")
        elif run.state in ("unfinished", "running"):
            scored = "no validation yet" if run.best_step is None else f"best at step {run.best_step}"
            lines.append(f"{rank} {name}: {run.state}: at step {run.step}, {scored}, no closing scores")
        elif run.is_short:
            lines.append(f"* {rank} {name}: ended at step {run.step} of the {run.planned_steps} of trainer.max_steps")
    if len(comparison.keys) > OWN_COLUMNS:
        usual = ", ".join(f"{key}={value}" for key, value in comparison.usual.items() if value != MISSING)
        lines.append(f"changed keys that a row does not name: {usual or 'none'}")
    measured = [run for run in comparison.runs if run.input_means(comparison.which)]
    if len(measured) > 1 and not comparison.inputs:
        lines.append("not all runs were given the same input: their scores compare inputs as well as networks")
    written = [run for run in comparison.runs if run.record]
    if len({json.dumps(run.settings.get("selection"), sort_keys=True) for run in written}) > 1:
        order = ", so their order by it means little" if comparison.sort == "selection" else ""
        lines.append(f"not all runs choose their best checkpoint by the same selection{order}")
    for key in dict.fromkeys(key for run in written for key in run.settings.get("metrics") or ()):
        nodes = [run.settings["metrics"][key] for run in written if key in (run.settings.get("metrics") or ())]
        if any(node != nodes[0] for node in nodes[1:]):
            lines.append(f"metrics.{key} is not computed in the same way by all runs")
    return lines
