"""``bcfusion compare``: one table of many runs, and the differences of their closing scores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import separated, verb_parser
from bcfusion.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from bcfusion.report.comparison.run import Run

HELP = """\
Put runs into one table, the best first: the settings in which they differ, their scores, sizes and speeds. Then report
which runs are better than the first one with closing scores, in which metrics and by how much, on the utterances that
both were scored on, with bootstrap 95 % intervals. Nothing is trained or recomputed.

Folders are searched for runs, sweeps included. Scores in the table are means over the validation files at the best
checkpoint, by which runs should be chosen; --scores closing shows those of the closing evaluation.

examples:
  bcfusion compare runs
  bcfusion compare runs/sweeps/TIME --output sweep       sweep/compare.md, runs.csv, differences.csv, figures
  bcfusion compare runs/bone_to_air/* --sort stoi --metrics stoi,pesq_wb
  bcfusion compare runs --filter experiment=seanet,eben --filter 'optimizer.lr<1e-3'
  bcfusion compare runs --against 3 --output table.md    differences to the third run of the table

--sort and --filter take metrics (pesq_wb, stoi, selection), settings (optimizer.lr, generator, seed) and state, step,
best_step, parameters, latency_ms, steps_per_second, minutes.
"""


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        CheckpointError: there is no run, or the output cannot be written.
        ConfigError: a key or filter is wrong.
    """
    arguments = _parser().parse_args(argv)
    from rich.console import Console

    from bcfusion.report.comparison.compare import compare, notes
    from bcfusion.report.comparison.output import write_comparison
    from bcfusion.report.comparison.reference import against_reference
    from bcfusion.report.comparison.tables import terminal_table

    console = Console()
    chosen = _chosen(arguments)
    comparison = compare(chosen, arguments.sort, arguments.reverse, arguments.metrics, arguments.scores)
    against = against_reference(comparison, arguments.against, for_tables=arguments.output is not None)
    # before anything is printed, which may end with a reader such as `head`
    written = write_comparison(arguments.output, comparison, against) if arguments.output is not None else []
    table, left_out = terminal_table(comparison, console)
    lines = [f"{rank:>3} {run.path}" for rank, run in enumerate(comparison.runs, 1)]
    if left_out:
        heads = ", ".join(head.replace("\n", " ") for head in left_out)
        lines.insert(0, f"not shown in {console.width} columns: {heads} (--output has all)")
    lines += [*notes(comparison), *(against.lines() if against is not None else ())]
    lines += [f"wrote {path}" for path in written]
    console.print(comparison.caption, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("compare", HELP)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories, or folders of runs")
    parser.add_argument("--sort", metavar="KEY", default="selection", help="best or smallest first; default: selection")
    parser.add_argument("--reverse", action="store_true", help="worst or largest first")
    parser.add_argument(
        "--filter", metavar="CONDITION", action="append", default=[], help="KEY=VALUE, also != < <= > >=, a,b and a*"
    )
    parser.add_argument("--metrics", metavar="KEYS", type=separated(str), help="scores to show, such as stoi,pesq_wb")
    parser.add_argument(
        "--scores", choices=("best", "closing"), default="best", help="shown in the table; default: best"
    )
    parser.add_argument("--against", metavar="RUN", help="number, name or path of the run to compare the others to")
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help="a folder for everything, or one table whose name ends in .md or .csv",
    )
    return parser


def _chosen(arguments: argparse.Namespace) -> list[Run]:
    """Return the readable runs that fulfil all conditions; warn of the others."""
    from bcfusion.report.comparison.keys import Condition, known_key
    from bcfusion.report.comparison.runs import find_runs

    conditions = [Condition.parse(text) for text in arguments.filter]
    runs = _readable(find_runs(arguments.runs, _warn))
    if not runs:
        raise CheckpointError(f"no run in {', '.join(map(str, arguments.runs))}: give run directories, or runs/")
    for condition in conditions:
        known_key(runs, condition.key)
    chosen = [run for run in runs if all(condition.holds(run, arguments.scores) for condition in conditions)]
    if not chosen:
        raise ConfigError([f"none of {len(runs)} runs fulfils {' and '.join(arguments.filter)}"])
    return chosen


def _readable(runs: Sequence[Run]) -> list[Run]:
    readable = []
    for run in runs:
        try:
            readable.append(run.require_readable())
        except CheckpointError as error:
            _warn(str(error))
    return readable


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
