"""``bcfusion compare``: a table of many runs for each recipe, and the differences of their closing scores."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import compare_dead, exit_status
from bcfusion.commands.shared.arguments import separated, verb_parser
from bcfusion.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from bcfusion.report.comparison.compare import Comparison
    from bcfusion.report.comparison.reference import AgainstReference
    from bcfusion.report.comparison.run import Run

HELP = """\
Put the runs of each recipe into a table, the best first: their scores, the settings in which they differ, sizes and
speeds. Then report which runs are better than the first one with closing scores, in which metrics and by how much, on
the utterances that both were scored on, with bootstrap 95 % intervals. Runs of different recipes, or with different
inputs, have different tasks and are never compared with each other. Nothing is trained or recomputed.

Folders are searched for runs, sweeps included. Scores in the table are means over the validation files at the best
checkpoint, by which runs should be chosen; --scores closing shows those of the closing evaluation. A bundle that was
imported, or made elsewhere, is compared by its latest evaluation, once bcfusion evaluate has written one into it.

examples:
  bcfusion compare runs
  bcfusion compare runs/sweeps/TIME --output sweep       sweep/compare.md, .tex, runs.csv, differences.csv, figures
  bcfusion compare runs/bone_to_air/* --sort stoi --metrics stoi,pesq_wb
  bcfusion compare runs --filter experiment=seanet,eben --filter 'optimizer.lr<1e-3'
  bcfusion compare runs --against 3 --output table.md    differences to the third run of the table
  bcfusion compare runs --dead                           runs that left nothing to use, with the reason
  bcfusion compare runs --dead --remove                  delete them, after a question

--sort and --filter take metrics (pesq_wb, stoi, selection), settings (optimizer.lr, generator, seed) and state, step,
best_step, parameters, latency_ms, steps_per_second, minutes.
"""


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        CheckpointError: there is no run, or the output cannot be written.
        ConfigError: a key or filter is wrong.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    from rich.console import Console

    from bcfusion.report.comparison.compare import compare_recipes
    from bcfusion.report.comparison.output import write_comparison
    from bcfusion.report.comparison.reference import against_reference, require_reference

    if arguments.dead:
        for option in ("sort", "reverse", "filter", "metrics", "scores", "against", "output"):
            if getattr(arguments, option) != parser.get_default(option):
                raise ConfigError([f"--{option}: has no effect on --dead, which takes all runs of the folders"])
        return compare_dead.main(arguments.runs, arguments.remove, arguments.yes, arguments.checkpoints)
    for option in ("remove", "yes", "checkpoints"):
        if getattr(arguments, option):
            raise ConfigError([f"--{option}: belongs to --dead"])
    console = Console()
    comparisons = compare_recipes(
        _chosen(arguments), arguments.sort, arguments.reverse, arguments.metrics, arguments.scores
    )
    require_reference(comparisons, arguments.against)
    against = [
        against_reference(comparison, arguments.against, for_tables=arguments.output is not None)
        for comparison in comparisons
    ]
    # before anything is printed, which may end with a reader such as `head`
    written = write_comparison(arguments.output, comparisons, against) if arguments.output is not None else []
    for number, (comparison, differences) in enumerate(zip(comparisons, against, strict=True)):
        if number:
            console.print()
        _print(console, comparison, differences)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _print(console: Console, comparison: Comparison, against: AgainstReference | None) -> None:
    """Print the table of one recipe, the paths of its runs, and what a reader has to know."""
    from bcfusion.report.comparison.compare import notes
    from bcfusion.report.comparison.tables import terminal_table

    table, left_out = terminal_table(comparison, console)
    lines = [f"{rank:>3} {run.path}" for rank, _, run in comparison.ranked]
    if left_out:
        heads = ", ".join(head.replace("\n", " ") for head in left_out)
        lines.insert(0, f"not shown in {console.width} columns: {heads} (--output has all)")
    lines += [*notes(comparison), *(against.lines() if against is not None else ())]
    console.print(comparison.caption, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


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
        help="a folder for everything, or one file whose name ends in .md, .tex or .csv",
    )
    parser.add_argument(
        "--dead", action="store_true", help="list runs that are not trained now and left no checkpoint, and why"
    )
    parser.add_argument("--remove", action="store_true", help="with --dead: delete them, after a question")
    parser.add_argument("--yes", action="store_true", help="with --remove: without a question")
    parser.add_argument(
        "--checkpoints", action="store_true", help="with --dead: also unfinished runs that could be resumed"
    )
    return parser


def _chosen(arguments: argparse.Namespace) -> list[Run]:
    """Return the readable runs that fulfil all conditions; warn of the others."""
    from bcfusion.report.comparison.keys import Condition, known_key
    from bcfusion.report.comparison.run import NEVER_BEGAN
    from bcfusion.report.comparison.runs import find_runs

    conditions = [Condition.parse(text) for text in arguments.filter]
    warnings: list[str] = []
    found = _readable(find_runs(arguments.runs, warnings.append))
    if not found:
        raise CheckpointError("\n".join([*warnings, "give run directories, or a folder of runs such as runs/"]))
    for line in warnings:
        _warn(line)
    runs = [run for run in found if run.problem != NEVER_BEGAN]
    if len(runs) < len(found):
        folders = shlex.join(map(str, arguments.runs))
        left_out = (
            f"{len(found) - len(runs)} of {len(found)} runs ended before they began and are left out: "
            f"bcfusion compare {folders} --dead lists them"
        )
        if not runs:
            raise CheckpointError(left_out)
        _warn(left_out)
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
