"""Tables of an evaluation for the terminal and in Markdown: means, intervals, medians with quartiles, groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bcfusion.evaluation.summary import ScoreSummary
from bcfusion.report.table import (
    MISSING,
    heading,
    markdown_rows,
    markdown_table,
    number,
    quality_tables,
    tables_in_width,
    wrapped,
)

__all__ = ["GROUP_NAMES", "group_label", "markdown_report", "print_tables", "skipped_lines", "terminal_tables"]

GROUP_NAMES = {"speaker": "speaker", "corpus": "corpus", "snr": "SNR"}


def terminal_tables(summary: ScoreSummary, width: int) -> Iterator[RenderableType]:
    """Yield tables for the terminal: means, intervals of means and differences, means of each group.

    Args:
        summary: of the scores.
        width: in characters; wider tables are divided.
    """
    yield from quality_tables(summary.means, summary.higher_is_better, summary.changes, width)
    means = {
        system: [_interval(metric, s.low, s.high) for metric, s in row.items()]
        for system, row in summary.systems.items()
    }
    changes = {
        _against(*pair): [_interval(metric, d.low, d.high, "+") for metric, d in row.items()]
        for pair, row in summary.differences.items()
    }

    def interval_table(columns: list[str]) -> Table:
        table = _terminal_table("95 % intervals", columns)
        for name, *cells in zip(_headings(summary), *((means | changes)[column] for column in columns), strict=True):
            table.add_row(name, *cells)
        return table

    together = list(tables_in_width(interval_table, means | changes, width))
    for part in [means | changes] if len(together) == 1 else [means, changes]:
        yield from tables_in_width(interval_table, part, width)
    for by in summary.groups:
        yield from tables_in_width(partial(_group_table, summary, by), summary.higher_is_better, width)


def print_tables(
    tables: Iterable[RenderableType],
    skipped: Mapping[str, Mapping[str, Counter[str]]],
    metrics: Collection[str],
    utterances: int,
) -> None:
    """Print tables, the number of utterances behind them, and :func:`skipped_lines`."""
    console = Console()
    for table in tables:
        console.print(table)
    print(f"means over {utterances} file{'' if utterances == 1 else 's'}")
    for line in skipped_lines(skipped, metrics, utterances):
        print(line)


def _group_table(summary: ScoreSummary, by: str, metrics: Sequence[str]) -> Table:
    headings = [wrapped(heading(metric, summary.higher_is_better[metric])) for metric in metrics]
    table = _terminal_table(f"Means by {GROUP_NAMES[by]}", ["n", "", *headings])
    for label, group in summary.groups[by].items():
        for position, (system, row) in enumerate(group.means.items()):
            first = [Text(group_label(by, label)), str(group.utterances)] if position == 0 else ["", ""]
            last = position == len(group.systems) - 1
            table.add_row(*first, Text(system), *(number(key, row[key]) for key in metrics), end_section=last)
    return table


def group_label(by: str, label: str) -> str:
    """Return the label of a group as it is printed: ratios have real minus signs."""
    return label.replace("-", "−") if by == "snr" else label


def skipped_lines(
    skipped: Mapping[str, Mapping[str, Counter[str]]], metrics: Collection[str], utterances: int
) -> list[str]:
    """Return one line per system and reason for skipped utterances, with all metrics that it concerns.

    Args:
        skipped: system to metric to the reasons with their counts.
        metrics: names of all of them.
        utterances: their number.
    """
    lines = []
    for system, of_metrics in skipped.items():
        concerned: dict[tuple[str, int], list[str]] = {}
        for metric, reasons in of_metrics.items():
            for reason, count in reasons.items():
                concerned.setdefault((reason, count), []).append(metric)
        lines += [
            f"{system}: {'every metric' if len(names) == len(metrics) > 1 else ', '.join(names)} "
            f"skipped {count} of {utterances} ({reason})"
            for (reason, count), names in concerned.items()
        ]
    return lines


def markdown_report(summary: ScoreSummary, title: str) -> str:
    """Return all tables in GitHub's Markdown, with a newline at the end.

    Args:
        summary: of the scores.
        title: heading of the document.
    """
    medians = [
        [system, *(_ranged(metric, s.median, s.q1, s.q3) for metric, s in row.items())]
        for system, row in summary.systems.items()
    ]
    parts = [
        f"# {title}",
        f"Means over {summary.utterances} utterances.",
        markdown_table(summary.means, summary.higher_is_better, summary.changes),
        "## Means and 95 % bootstrap intervals",
        "Differences are paired, over the utterances that both systems were scored on.",
        _markdown(["", *_headings(summary)], _mean_rows(summary)),
        "## Medians and quartiles",
        _markdown(["", *_headings(summary)], medians),
    ]
    for by, groups in summary.groups.items():
        rows = [
            [group_label(by, label), str(group.utterances), *row]
            for label, group in groups.items()
            for row in _mean_rows(group)
        ]
        parts += [f"## By {GROUP_NAMES[by]}", _markdown([GROUP_NAMES[by], "n", "", *_headings(summary)], rows)]
    lines = [f"- {line}" for line in skipped_lines(summary.skipped, summary.higher_is_better, summary.utterances)]
    parts += ["## Skipped", "\n".join(lines) or "None: every utterance has every score."]
    return "\n\n".join(parts) + "\n"


def _mean_rows(summary: ScoreSummary) -> list[list[str]]:
    """Return name and cells of each system, then of each difference."""
    means = [
        [system, *(_ranged(metric, s.mean, s.low, s.high) for metric, s in row.items())]
        for system, row in summary.systems.items()
    ]
    changes = [
        [_against(*pair), *(_ranged(metric, d.mean, d.low, d.high, "+") for metric, d in row.items())]
        for pair, row in summary.differences.items()
    ]
    return means + changes


def _headings(summary: ScoreSummary) -> list[str]:
    return [heading(metric, higher) for metric, higher in summary.higher_is_better.items()]


def _against(system: str, before: str) -> str:
    return f"{system} − {before}"


def _interval(metric: str, low: float, high: float, sign: Literal["", "+"] = "") -> str:
    if math.isnan(low) or math.isnan(high):
        return MISSING
    return f"[{number(metric, low, sign)}, {number(metric, high, sign)}]"


def _ranged(metric: str, value: float, low: float, high: float, sign: Literal["", "+"] = "") -> str:
    """Return a value and the range around it, if there is one."""
    interval = _interval(metric, low, high, sign)
    return number(metric, value, sign) + (f" {interval}" if interval != MISSING else "")


def _terminal_table(title: str, columns: Sequence[str]) -> Table:
    """Return a table whose first column, without a heading, names the rows."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)
    return table


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_rows([columns, ["---", *("---:" for _ in columns[1:])], *rows])
