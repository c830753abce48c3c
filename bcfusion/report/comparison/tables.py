"""The table of several runs: for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bcfusion.report.comparison.compare import OWN_COLUMNS, Comparison
from bcfusion.report.comparison.keys import FACTS, fact, setting
from bcfusion.report.table import MISSING, best_systems, heading, markdown_rows, number

__all__ = ["csv_table", "markdown_runs", "terminal_table"]

_WRAPPED = 24  # least characters of a column whose text may be wrapped
_METRICS_KEPT = 2  # metrics that stay in a narrow terminal


class _Column(NamedTuple):
    head: str
    cells: list[str]
    best: frozenset[int] = frozenset()  # rows with the best value
    left: bool = False
    wraps: bool = False
    needed: float = math.inf  # in a narrow terminal, the column with the least of it is left out first


def terminal_table(comparison: Comparison, console: Console) -> tuple[Table, list[str]]:
    """Return the table for a console, and the headings of the columns that do not fit into it."""
    columns = _columns(comparison)
    left_out: list[str] = []
    while True:
        table = _rich(columns, len(comparison.inputs))
        wide = Measurement.get(console, console.options.update(max_width=10_000), table).minimum
        spare = [column for column in columns if column.needed < math.inf]
        if wide <= console.width or not spare:
            return table, left_out
        least = min(spare, key=lambda column: column.needed)
        columns.remove(least)
        left_out.append(least.head)


def markdown_runs(comparison: Comparison) -> str:
    """Return the table with the paths of the runs as GitHub's Markdown, without a newline at the end."""
    paths = [*("" for _ in comparison.inputs), *(f"`{run.path}`" for run in comparison.runs)]
    columns = [*_columns(comparison), _Column("path", paths, left=True)]
    lines = [
        [column.head for column in columns],
        ["---" if column.left else "---:" for column in columns],
        *(
            [f"**{column.cells[row]}**" if row in column.best else column.cells[row] for column in columns]
            for row in range(len(paths))
        ),
    ]
    return markdown_rows(lines)


def csv_table(comparison: Comparison) -> str:
    """Return all values of all runs as CSV in full precision: a line for each run."""
    scores = list(dict.fromkeys(metric for run in comparison.runs for metric in (*run.best, *run.means("closing"))))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("rank", "name", "path", "problem", "recipe", "experiment", *comparison.keys, *FACTS),
            *(f"{which}/{metric}" for which in ("best", "closing") for metric in scores),
        ]
    )
    for rank, (name, run) in enumerate(comparison.by_name.items(), 1):
        means = [run.best.get(metric) for metric in scores] + [run.means("closing").get(metric) for metric in scores]
        settings = [setting(run, key) for key in comparison.keys]
        values = [*(run.recipe, run.experiment), *settings, *(fact(run, key) for key in FACTS), *means]
        writer.writerow([rank, name, run.path, run.problem, *(_plain(value) for value in values)])
    return text.getvalue()


def _plain(value: Any) -> Any:
    return "" if value is None or value != value else value


def _rich(columns: Sequence[_Column], inputs: int) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        head = textwrap.fill(column.head, 8, break_long_words=False, break_on_hyphens=False)
        table.add_column(
            Text(head),
            justify="left" if column.left else "right",
            no_wrap=not column.wraps,
            overflow="fold",
            # set, because rich would allow a column to shrink to its longest word
            min_width=_WRAPPED if column.wraps else max(map(len, [*head.splitlines(), *column.cells])),
        )
    for row in range(len(columns[0].cells)):
        cells = [Text(column.cells[row], style="bold" if row in column.best else "") for column in columns]
        table.add_row(*cells, style="dim" if row < inputs else "", end_section=row == inputs - 1)
    return table


def _columns(comparison: Comparison) -> list[_Column]:
    """Return the columns of the table; the rows of the inputs come first."""
    runs, inputs, which = comparison.runs, comparison.inputs, comparison.which
    blank = [""] * len(inputs)
    columns = [_Column("#", [*blank, *(str(number + 1) for number in range(len(runs)))])]
    if len({run.recipe for run in runs}) > 1:
        columns.append(_Column("recipe", [*blank, *(run.recipe or MISSING for run in runs)], left=True, needed=8))
    experiments = [run.experiment or str(run.choices.get("generator") or MISSING) for run in runs]
    columns.append(_Column("experiment", [*inputs, *experiments], left=True))
    columns += _settings(comparison, blank)
    for place, metric in enumerate(comparison.metrics):
        means = [*inputs.values(), *(run.means(which) for run in runs)]
        systems = {str(row): values for row, values in enumerate(means)}
        higher = comparison.higher_is_better.get(metric)
        best = best_systems(metric, {k: v for k, v in systems.items() if int(k) >= len(inputs)}, higher)
        cells = [number(metric, values.get(metric, math.nan)) for values in means]
        importance = math.inf if place < _METRICS_KEPT else 3 - place / 1000  # the last metrics are left out first
        columns.append(_Column(heading(metric, higher), cells, frozenset(map(int, best)), needed=importance))
    steps = [f"{run.best_step}/{run.step}" if run.best_step is not None else f"–/{run.step}" for run in runs]
    columns += [
        _Column("best/last step", [*blank, *steps], needed=2),
        _Column("params (M)", [*blank, *(_millions(run.parameters) for run in runs)], needed=6),
        _Column("latency (ms)", [*blank, *(_latency(run.latency_ms) for run in runs)], needed=5),
        _Column("steps/s", [*blank, *(_decimals(run.steps_per_second, 2) for run in runs)], needed=1),
        _Column("time (min)", [*blank, *(_decimals(run.minutes, 1) for run in runs)], needed=4),
    ]
    if any(run.state != "finished" for run in runs):
        columns.append(_Column("state", [*blank, *(run.state for run in runs)], left=True))
    return columns


def _settings(comparison: Comparison, blank: list[str]) -> list[_Column]:
    """Return a column for each changed key, or, if there are many, one with the values that differ from the usual."""
    texts, usual = comparison.values, comparison.usual
    if len(texts) <= OWN_COLUMNS:
        return [_Column(key, [*blank, *values], left=not _numeric(values)) for key, values in texts.items()]
    cells = [
        ", ".join(f"{key}={values[row]}" for key, values in texts.items() if values[row] != usual[key])
        for row in range(len(comparison.runs))
    ]
    return [_Column("changed keys", [*blank, *cells], left=True, wraps=True)]


def _numeric(values: Sequence[str]) -> bool:
    return all(
        value == MISSING or value.replace(".", "").replace("-", "").replace("e", "").isdigit() for value in values
    )


def _millions(count: int | None) -> str:
    return MISSING if count is None else f"{count / 1e6:.2f}"


def _latency(milliseconds: float) -> str:
    return "whole file" if milliseconds == math.inf else _decimals(milliseconds, 1)


def _decimals(value: float, decimals: int) -> str:
    return MISSING if math.isnan(value) else f"{value:.{decimals}f}"
