"""Tables of quality: one row for each system, one column for each metric, for the terminal and for Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

__all__ = ["METRICS", "MetricName", "markdown_table", "metric_name", "quality_table"]

MISSING = "–"


class MetricName(NamedTuple):
    """How a metric is called in print: its name, its unit ("" for none), and the decimals that mean something."""

    text: str
    unit: str = ""
    decimals: int = 3


METRICS: Mapping[str, MetricName] = {
    "pesq_wb": MetricName("PESQ-WB", decimals=2),
    "pesq_nb": MetricName("PESQ-NB", decimals=2),
    "stoi": MetricName("STOI"),
    "estoi": MetricName("ESTOI"),
    "si_sdr": MetricName("SI-SDR", "dB", 2),
    "si_sdr_aligned": MetricName("aligned SI-SDR", "dB", 2),
    "si_sdr_lag_ms": MetricName("lag", "ms", 2),
    # In log10 of power, as the metric is defined: no unit.
    "lsd": MetricName("LSD", decimals=2),
    "lsd_hf": MetricName("LSD-HF", decimals=2),
}


def metric_name(key: str) -> MetricName:
    """The printed name of a metric; one that is not listed in :data:`METRICS` is called by its key."""
    return METRICS.get(key, MetricName(key))


class _Cell(NamedTuple):
    text: str
    best: bool = False


def quality_table(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    counts: Mapping[str, int] | None = None,
    skipped: Mapping[str, int] | None = None,
    title: str | None = None,
) -> Table:
    """Table for the terminal: best values bold, arrows for the direction, and what the last system changes.

    Args:
        systems: name of the system to its metrics, the system under test last; a metric may be missing or NaN.
        higher_is_better: direction of each metric; None: information only, without arrow or best value. Columns stand
            in its order, and metrics that no system has are left out.
        counts: utterances scored, by metric. skipped: utterances that could not be, by metric. Shown as scored/all.
        title: above the table.

    Returns:
        For ``rich.console.Console.print``.
    """
    columns, rows, footer = _cells(systems, higher_is_better, counts, skipped)
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)  # eight columns and two inputs fit 80
    table.add_column("", no_wrap=True)
    for column in columns:
        heading = textwrap.fill(column, width=6, break_long_words=False, break_on_hyphens=False)
        table.add_column(heading, justify="right", no_wrap=True)
    for position, (name, cells) in enumerate(rows):
        texts = [Text(cell.text, style="bold" if cell.best else "") for cell in cells]
        table.add_row(Text(name), *texts, end_section=position == len(systems) - 1)
    if footer:
        table.add_section()
        table.add_row("scored", *footer, style="dim")
    return table


def markdown_table(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    counts: Mapping[str, int] | None = None,
    skipped: Mapping[str, int] | None = None,
) -> str:
    """The table of :func:`quality_table` in GitHub's Markdown, without a newline at its end."""
    columns, rows, footer = _cells(systems, higher_is_better, counts, skipped)
    lines = [["", *columns], ["---", *("---:" for _ in columns)]]
    lines += [
        [name.replace("|", r"\|"), *(f"**{c.text}**" if c.best else c.text for c in cells)] for name, cells in rows
    ]
    if footer:
        lines.append(["scored", *footer])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(
    systems: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, bool | None],
    counts: Mapping[str, int] | None,
    skipped: Mapping[str, int] | None,
) -> tuple[list[str], list[tuple[str, list[_Cell]]], list[str]]:
    """Headings, rows with their names (systems, then differences), and the row of counts, if any were given."""
    keys = [key for key in higher_is_better if any(key in values for values in systems.values())]
    best = {key: _best(key, systems, higher_is_better[key]) for key in keys}
    rows = [
        (name, [_Cell(_number(key, values), name in best[key]) for key in keys]) for name, values in systems.items()
    ]
    if len(systems) > 1:
        *others, tested = systems
        for other in others:
            change = {key: systems[tested].get(key, math.nan) - systems[other].get(key, math.nan) for key in keys}
            rows.append((f"vs {other}", [_Cell(_number(key, change, "+")) for key in keys]))
    footer = []
    if counts is not None or skipped is not None:
        footer = [_count(key, counts or {}, skipped or {}) for key in keys]
    return [_heading(key, higher_is_better[key]) for key in keys], rows, footer


def _best(key: str, systems: Mapping[str, Mapping[str, float]], higher: bool | None) -> set[str]:
    """Systems with the best value, as printed: equal in print is equal. None of them where all are."""
    values = {
        name: round(row[key], metric_name(key).decimals)
        for name, row in systems.items()
        if key in row and math.isfinite(row[key])
    }
    if higher is None or len(set(values.values())) < 2:
        return set()
    best = max(values.values()) if higher else min(values.values())
    return {name for name, value in values.items() if value == best}


def _number(key: str, values: Mapping[str, float], sign: str = "") -> str:
    value = values.get(key, math.nan)
    if math.isnan(value):
        return MISSING
    decimals = metric_name(key).decimals
    value = round(value, decimals) + 0.0  # no "-0.00"
    return f"{value:{sign}.{decimals}f}".replace("-", "−")


def _heading(key: str, higher: bool | None) -> str:
    name = metric_name(key)
    unit = f" ({name.unit})" if name.unit else ""
    return f"{name.text}{unit}" + {True: " ↑", False: " ↓", None: ""}[higher]


def _count(key: str, counts: Mapping[str, int], skipped: Mapping[str, int]) -> str:
    if key not in counts:
        return f"{skipped[key]} skipped" if key in skipped else MISSING
    return f"{counts[key]}/{counts[key] + skipped[key]}" if skipped.get(key) else str(counts[key])
