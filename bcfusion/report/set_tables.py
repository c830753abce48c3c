"""One table of several test sets: input and output on each, and figures that others have published."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bcfusion.evaluation.sets import Published
from bcfusion.evaluation.statistics import Summary
from bcfusion.evaluation.summary import ScoreSummary
from bcfusion.files import appearing
from bcfusion.report.table import heading, markdown_rows, number, tables_in_width, wrapped

__all__ = ["markdown_sets", "terminal_sets", "write_sets"]

Sets = Mapping[str, ScoreSummary]


def terminal_sets(sets: Sets, published: Sequence[Published], width: int) -> Iterator[Table]:
    """Yield the table for the terminal in as many parts as fit the width.

    Args:
        sets: name of the test set to its statistics.
        published: rows of others; those of other sets are left out.
        width: in characters.
    """
    directions = _directions(sets, published)

    def part(names: list[str]) -> Table:
        table = Table(box=SIMPLE_HEAD, padding=0, collapse_padding=True)
        for column in ("", "n", ""):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for name in names:
            table.add_column(Text(wrapped(heading(name, directions[name]))), justify="right", no_wrap=True)
        for label, summary in sets.items():
            rows = _rows(label, summary, published)
            for position, row in enumerate(rows):
                first = [Text(label), str(summary.utterances)] if position == 0 else ["", ""]
                cells = [number(name, row.values.get(name, math.nan)) for name in names]
                table.add_row(*first, Text(row.name), *cells, end_section=position == len(rows) - 1)
        return table

    return tables_in_width(part, directions, width)


def markdown_sets(sets: Sets, published: Sequence[Published], title: str) -> str:
    """Return the table in GitHub's Markdown: means with 95 % intervals, published values, and their sources.

    Args:
        sets: name of the test set to its statistics.
        published: rows of others; those of other sets are left out.
        title: heading of the document.
    """
    directions = _directions(sets, published)
    lines = [
        ["", "n", "", *(heading(name, direction) for name, direction in directions.items())],
        ["---", "---:", "---", *("---:" for _ in directions)],
    ]
    sources = []
    for label, summary in sets.items():
        for position, row in enumerate(_rows(label, summary, published)):
            first = [label, str(summary.utterances)] if position == 0 else ["", ""]
            cells = [number(name, row.values.get(name, math.nan)) + _interval(name, row) for name in directions]
            lines.append([*first, row.name, *cells])
            sources += [f"- {label}, {row.name}: {row.source}"] if row.source else []
    note = (
        "Means over the utterances of each set, with their 95 % bootstrap intervals. Rows with an asterisk are figures "
        "that others have published."
    )
    parts = [f"# {title}", note, markdown_rows(lines)]
    parts += ["Sources:", "\n".join(dict.fromkeys(sources))] if sources else []
    return "\n\n".join(parts) + "\n"


def write_sets(sets: Sets, published: Sequence[Published], path: Path) -> None:
    """Write the means as CSV: one line per set and system, one column per metric; ``published`` is yes or no.

    The file appears whole or not at all.
    """
    names = list(_directions(sets, published))
    with appearing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "system", "published", "utterances", *names, "source"])
        for label, summary in sets.items():
            for system, values in summary.means.items():
                cells = [_text(values.get(name, math.nan)) for name in names]
                writer.writerow([label, system, "no", summary.utterances, *cells, ""])
            for row in _of(label, published):
                cells = [_text(row.values.get(name, math.nan)) for name in names]
                writer.writerow([label, row.system, "yes", "", *cells, row.source])


class _Row(NamedTuple):
    name: str
    values: Mapping[str, float]
    statistics: Mapping[str, Summary]
    source: str = ""


def _of(label: str, published: Sequence[Published]) -> list[Published]:
    return [row for row in published if row.set == label]


def _rows(label: str, summary: ScoreSummary, published: Sequence[Published]) -> list[_Row]:
    """Return the rows of a set: ours, then those of others, whose names have an asterisk."""
    ours = [_Row(system, values, summary.systems[system]) for system, values in summary.means.items()]
    return ours + [_Row(f"{row.system} *", row.values, {}, row.source) for row in _of(label, published)]


def _interval(name: str, row: _Row) -> str:
    if name not in row.statistics or math.isnan(row.statistics[name].low):
        return ""
    return f" [{number(name, row.statistics[name].low)}, {number(name, row.statistics[name].high)}]"


def _directions(sets: Sets, published: Sequence[Published]) -> dict[str, bool | None]:
    """Return our metrics with their directions, then those that only others have."""
    ours = dict(next(iter(sets.values())).higher_is_better)
    shown = [name for row in published if row.set in sets for name in row.values]
    return {**ours, **dict.fromkeys((name for name in shown if name not in ours), None)}


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
