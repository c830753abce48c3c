"""The table of several runs: for the terminal, as Markdown, LaTeX and CSV."""

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
from bcfusion.report.comparison.names import shortened
from bcfusion.report.score_latex import latex_escape
from bcfusion.report.table import MISSING, best_systems, heading, markdown_rows, number

__all__ = ["csv_table", "latex_runs", "markdown_runs", "terminal_table"]

_WRAPPED = 24  # least characters of a column whose text may be wrapped
_METRICS_KEPT = 2  # metrics that stay in a narrow terminal
_LONGEST_CELL, _SHORT_CELL = 32, 16  # characters of a setting in a terminal, and in a narrow one
_NAME, _SHORTEST_NAME = 26, 12  # characters of a name that is cut: as long as other columns want room, and in any case


class _Column(NamedTuple):
    head: str
    cells: list[str]
    best: frozenset[int] = frozenset()  # rows with the best value
    left: bool = False
    wraps: bool = False


class _Columns(NamedTuple):
    """The columns of a table by what they show, each kind in the order of its importance except ``facts``."""

    rank: _Column
    experiment: _Column
    name: _Column
    metrics: list[_Column]
    settings: list[_Column]
    facts: list[_Column]

    def full(self) -> list[_Column]:
        return [self.rank, self.experiment, *self.metrics, *self.settings, *self.facts]


# in a narrow terminal, the first of these are kept; the lines below the table say why a run has another state
_FACTS = ("state", "params (M)", "latency (ms)", "time (min)", "best/last step", "steps/s")


def terminal_table(comparison: Comparison, console: Console) -> tuple[Table, list[str]]:
    """Return the table for a console, and the headings of the columns that do not fit into it.

    Ranks and scores come first. Where the settings do not fit, the names of the runs say in what they differ, cut in
    the middle if need be.
    """
    parts = _columns(comparison)
    parts = parts._replace(
        experiment=_cut(parts.experiment, _LONGEST_CELL),
        settings=[_cut(column, _LONGEST_CELL) for column in parts.settings],
    )

    def fits(columns: Sequence[_Column]) -> bool:
        return _needed(columns, console, len(comparison.inputs)) <= console.width

    shown = [parts.rank, parts.experiment, *parts.metrics, *parts.settings]
    if not fits(shown):
        shown = [parts.rank, _cut(parts.name, _NAME), *parts.metrics]
        while not fits(shown) and len(shown) > 2 + _METRICS_KEPT:
            shown.pop()
        for column in [_cut(each, _SHORT_CELL) for each in parts.settings if not each.wraps]:
            shown = [*shown, column] if fits([*shown, column]) else shown
    for least in [each for head in _FACTS for each in parts.facts if each.head == head]:
        facts = [column for column in parts.facts if column in shown or column is least]
        further = [*(column for column in shown if column not in parts.facts), *facts]
        shown = further if fits(further) else shown
    if shown[1] is not parts.experiment:  # as much of the names as there is room for
        longest = max(map(len, parts.name.cells))
        named = [_cut(parts.name, width) for width in range(longest, min(longest, _SHORTEST_NAME) - 1, -1)]
        shown[1] = next((names for names in named if fits([shown[0], names, *shown[2:]])), named[-1])
    heads = {column.head for column in shown}
    left_out = [column.head for column in parts.full() if column.head not in heads and column is not parts.experiment]
    return _rich(shown, len(comparison.inputs)), left_out


def _needed(columns: Sequence[_Column], console: Console, inputs: int) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), _rich(columns, inputs)).minimum


def _cut(column: _Column, width: int) -> _Column:
    return column if column.wraps else column._replace(cells=[shortened(cell, width) for cell in column.cells])


def markdown_runs(comparison: Comparison) -> str:
    """Return the table with the paths of the runs as GitHub's Markdown, without a newline at the end."""
    paths = [*("" for _ in comparison.inputs), *(f"`{run.path}`" for run in comparison.runs)]
    columns = [*_columns(comparison).full(), _Column("path", paths, left=True)]
    lines = [
        [column.head for column in columns],
        ["---" if column.left else "---:" for column in columns],
        *(
            [f"**{column.cells[row]}**" if row in column.best else column.cells[row] for column in columns]
            for row in range(len(paths))
        ),
    ]
    return markdown_rows(lines)


def latex_runs(comparison: Comparison) -> str:
    """Return names, scores with the best ones bold, sizes and latency as a table for the package ``booktabs``."""
    parts = _columns(comparison)
    facts = [column for column in parts.facts if column.head in ("params (M)", "latency (ms)")]
    columns = [parts.rank, parts.name, *parts.metrics, *facts]

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    def cell(column: _Column, row: int) -> str:
        text = latex_escape(column.cells[row])
        return rf"\textbf{{{text}}}" if row in column.best else text

    rows = [line([cell(column, row) for column in columns]) for row in range(len(parts.rank.cells))]
    inputs = len(comparison.inputs)
    body = [*rows[:inputs], *([r"\midrule"] if inputs else []), *rows[inputs:]]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_escape(comparison.caption)}.}}",
            rf"\begin{{tabular}}{{rl{'r' * (len(columns) - 2)}}}",
            r"\toprule",
            line([latex_escape(column.head) for column in columns]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def csv_table(*comparisons: Comparison) -> str:
    """Return all values of all runs as CSV in full precision: a line for each run, a column ``recipe``."""
    runs = [run for comparison in comparisons for run in comparison.runs]
    scores = list(dict.fromkeys(metric for run in runs for metric in (*run.best, *run.means("closing"))))
    keys = list(dict.fromkeys(key for comparison in comparisons for key in comparison.keys))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("rank", "name", "path", "problem", "recipe", "experiment", *keys, *FACTS),
            *(f"{which}/{metric}" for which in ("best", "closing") for metric in scores),
        ]
    )
    for rank, name, run in (ranked for comparison in comparisons for ranked in comparison.ranked):
        means = [run.best.get(metric) for metric in scores] + [run.means("closing").get(metric) for metric in scores]
        settings = [setting(run, key) for key in keys]
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


def _columns(comparison: Comparison) -> _Columns:
    """Return the columns of the table; the rows of the inputs come first."""
    runs, inputs, which = comparison.runs, comparison.inputs, comparison.which
    blank = [""] * len(inputs)
    experiments = [run.experiment or str(run.choices.get("generator") or MISSING) for run in runs]
    metrics = []
    for metric in comparison.metrics:
        means = [*inputs.values(), *(run.means(which) for run in runs)]
        systems = {str(row): values for row, values in enumerate(means)}
        higher = comparison.higher_is_better.get(metric)
        best = best_systems(metric, {k: v for k, v in systems.items() if int(k) >= len(inputs)}, higher)
        cells = [number(metric, values.get(metric, math.nan)) for values in means]
        metrics.append(_Column(heading(metric, higher), cells, frozenset(map(int, best))))
    steps = [f"{'–' if run.best_step is None else run.best_step}/{run.step}{'*' * run.is_short}" for run in runs]
    facts = [
        _Column("best/last step", [*blank, *steps]),
        _Column("params (M)", [*blank, *(_millions(run.parameters) for run in runs)]),
        _Column("latency (ms)", [*blank, *(_latency(run.latency_ms) for run in runs)]),
        _Column("steps/s", [*blank, *(_decimals(run.steps_per_second, 2) for run in runs)]),
        _Column("time (min)", [*blank, *(_decimals(run.minutes, 1) for run in runs)]),
    ]
    if any(run.state != "finished" for run in runs):
        facts.append(_Column("state", [*blank, *(run.state for run in runs)], left=True))
    return _Columns(
        rank=_Column("#", [*blank, *(str(rank) for rank, *_ in comparison.ranked)]),
        experiment=_Column("experiment", [*inputs, *experiments], left=True),
        name=_Column("run", [*inputs, *comparison.names], left=True),
        metrics=metrics,
        settings=_settings(comparison, blank),
        facts=facts,
    )


def _settings(comparison: Comparison, blank: list[str]) -> list[_Column]:
    """Return a column for each changed key, or, if there are many, one with the values that differ from the usual."""
    texts, usual = comparison.values, comparison.usual
    if len(texts) <= OWN_COLUMNS:
        return [_Column(key, [*blank, *values], left=not _numeric(values)) for key, values in texts.items()]
    cells = [
        ", ".join(
            f"{key}={shortened(values[row], _LONGEST_CELL)}"
            for key, values in texts.items()
            if values[row] != usual[key]
        )
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
