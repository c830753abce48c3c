"""Tables of an evaluation in LaTeX: means with intervals, and means by group."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bcfusion.evaluation.summary import ScoreSummary
from bcfusion.report.score_tables import GROUP_NAMES, group_label
from bcfusion.report.table import best_systems, heading, number, wrapped

__all__ = ["latex_escape", "latex_tables"]

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the \\ of the previous row it would start an optional argument
    "]": "{]}",
    "*": "{*}",  # the same
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "−": "$-$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
_METRICS = 6  # in one table
_Row = Sequence[str]


def latex_tables(summary: ScoreSummary, caption: str) -> str:
    """Return the means with their intervals, and the means of each group, as tables for the package ``booktabs``.

    Values that are best in print are bold, except for metrics that are information only. A table has at most six
    metrics, which fit the width of a page.

    Args:
        summary: of the scores.
        caption: what was evaluated, as plain text.
    """
    metrics = list(summary.higher_is_better)
    parts = [metrics[start : start + _METRICS] for start in range(0, len(metrics), _METRICS)]
    about = latex_escape(caption)
    over = f"{about}: means over {summary.utterances} utterances and 95\\,\\% bootstrap intervals."
    tables = []
    for part in parts:
        rows = [
            row
            for system in summary.systems
            for row in (_means(summary, system, part), _intervals(summary, system, part))
        ]
        tables.append(_table(over, "l" + "r" * len(part), ["", *_headings(summary, part)], [rows]))
    for by, groups in summary.groups.items():
        for part in parts:
            blocks = []
            for label, group in groups.items():
                first = [latex_escape(group_label(by, label)), str(group.utterances)]
                rows = [_means(group, system, part) for system in group.systems]
                blocks.append([[*(first if position == 0 else ["", ""]), *row] for position, row in enumerate(rows)])
            names = [GROUP_NAMES[by], "$n$", "", *_headings(summary, part)]
            tables.append(_table(f"{about}: means by {GROUP_NAMES[by]}.", "lrl" + "r" * len(part), names, blocks))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def latex_escape(text: str) -> str:
    """Return LaTeX source that prints ``text`` literally."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _headings(summary: ScoreSummary, metrics: Sequence[str]) -> list[str]:
    """Return headings in lines as narrow as the numbers below them."""
    texts = [wrapped(heading(metric, summary.higher_is_better[metric])) for metric in metrics]
    stacks = ["\\\\ ".join(latex_escape(line) for line in text.splitlines()) for text in texts]
    return [f"\\shortstack[r]{{{stack}}}" for stack in stacks]


def _means(summary: ScoreSummary, system: str, metrics: Sequence[str]) -> list[str]:
    """Return the name of a system and its means, the best ones in bold."""
    cells = [latex_escape(system)]
    for metric in metrics:
        mean = latex_escape(number(metric, summary.means[system][metric]))
        best = system in best_systems(metric, summary.means, summary.higher_is_better[metric])
        cells.append(f"\\textbf{{{mean}}}" if best else mean)
    return cells


def _intervals(summary: ScoreSummary, system: str, metrics: Sequence[str]) -> list[str]:
    """Return the row below the means of a system."""
    cells = [""]
    for metric in metrics:
        s = summary.systems[system][metric]
        ends = latex_escape(f"[{number(metric, s.low)}, {number(metric, s.high)}]")
        cells.append("" if math.isnan(s.low) else f"{{\\scriptsize {ends}}}")
    return cells


def _table(caption: str, alignment: str, columns: _Row, blocks: Sequence[Sequence[_Row]]) -> str:
    """Return a table with rules between the blocks of rows."""
    body = "\n    \\midrule\n".join("\n".join(f"    {' & '.join(row)} \\\\" for row in block) for block in blocks)
    return (
        "\\begin{table}\n"
        "  \\centering\\small\\setlength{\\tabcolsep}{4pt}\n"
        f"  \\caption{{{caption}}}\n"
        f"  \\begin{{tabular}}{{{alignment}}}\n"
        f"    \\toprule\n    {' & '.join(columns)} \\\\\n    \\midrule\n"
        f"{body}\n"
        "    \\bottomrule\n"
        "  \\end{tabular}\n"
        "\\end{table}\n"
    )
