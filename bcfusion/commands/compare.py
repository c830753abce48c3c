"""``bcfusion compare``: one table of many runs, and what their closing scores say of each other."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from bcfusion.report.comparison.compare import Comparison
    from bcfusion.report.comparison.differences import Difference
    from bcfusion.report.comparison.run import Run

HELP = """\
Put runs into one table: the settings in which they differ, their scores, sizes and speeds, the best first. Then say
which run is better than the first that has closing scores, in what and by how much, on the utterances that both were
scored on; an interval holds 95 % of what a bootstrap over these utterances gives. Nothing is trained or computed anew.

Folders are searched for runs, sweeps among them. Scores in the table are means of the validation files at the best
checkpoint, which is how runs are to be chosen; --scores closing shows those of the closing evaluation.

examples:
  bcfusion compare runs
  bcfusion compare runs/sweeps/TIME --output sweep       sweep/compare.md, runs.csv, differences.csv, pictures
  bcfusion compare runs/bone_to_air/* --sort stoi --metrics stoi,pesq_wb
  bcfusion compare runs --filter experiment=seanet,eben --filter 'optimizer.lr<1e-3'
  bcfusion compare runs --against 3 --output table.md    differences to the third run of the table

--sort and --filter take metrics (pesq_wb, stoi, selection), settings (optimizer.lr, generator, seed) and state, step,
best_step, parameters, latency_ms, steps_per_second, minutes.
"""
_TOLD_AT_ONCE = 5  # runs of which sentences speak; the tables in files hold all
_MANY, _FEWER_DRAWS = 20, 2000  # of so many runs the bootstrap draws less often: hundreds take seconds


def main(argv: list[str]) -> int:
    """Runs the verb; returns the exit status.

    Raises:
        CheckpointError: there is no run, or a run's file is damaged. ConfigError: a key or filter is wrong.
    """
    arguments = _parser().parse_args(argv)
    from rich.console import Console

    from bcfusion.report.comparison.compare import compare, notes
    from bcfusion.report.comparison.run_keys import Condition, known_key
    from bcfusion.report.comparison.runs import find_runs
    from bcfusion.report.comparison.tables import terminal_table

    console = Console()
    conditions = [Condition.parse(text) for text in arguments.filter]
    runs = _sound(find_runs(arguments.runs, _warn))
    if not runs:
        raise CheckpointError(f"no run in {', '.join(map(str, arguments.runs))}: give run directories, or runs/")
    for condition in conditions:
        known_key(runs, condition.key)
    chosen = [run for run in runs if all(condition.holds(run, arguments.scores) for condition in conditions)]
    if not chosen:
        raise ConfigError([f"none of {len(runs)} runs fulfils {' and '.join(arguments.filter)}"])
    comparison = compare(chosen, arguments.sort, arguments.reverse, arguments.metrics, arguments.scores)
    against = _reference(comparison, arguments.against)
    found = _compared(comparison, against, None if arguments.output else _TOLD_AT_ONCE)
    # before anything is printed, which may end with a reader such as `head`
    written = _write(arguments.output, comparison, against, found) if arguments.output is not None else []
    console.print(comparison.caption, markup=False, highlight=False, soft_wrap=True)
    table, left_out = terminal_table(comparison, console)
    console.print(table)
    if left_out:
        told = ", ".join(head.replace("\n", " ") for head in left_out)
        console.print(
            f"not shown in {console.width} columns: {told} (--output has all)", highlight=False, soft_wrap=True
        )
    for rank, run in enumerate(comparison.runs, 1):
        console.print(f"{rank:>3} {run.path}", markup=False, highlight=False, soft_wrap=True)
    for line in notes(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in _told(comparison, against, found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    description, _, rest = HELP.partition("examples:")
    parser = argparse.ArgumentParser(
        prog="bcfusion compare",
        description=description,
        epilog="examples:" + rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories, or folders that hold some")
    parser.add_argument("--sort", metavar="KEY", default="selection", help="best or smallest first; default: selection")
    parser.add_argument("--reverse", action="store_true", help="worst or largest first")
    parser.add_argument(
        "--filter", metavar="CONDITION", action="append", default=[], help="KEY=VALUE, also != < <= > >=, a,b and a*"
    )
    parser.add_argument("--metrics", metavar="KEYS", type=_keys, help="scores to show, as in stoi,pesq_wb")
    parser.add_argument("--scores", choices=("best", "closing"), default="best", help="in the table; default: best")
    parser.add_argument("--against", metavar="RUN", help="number, name or path of the run that others are compared to")
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help="a folder for everything, or one table: a name ending in .md or .csv",
    )
    return parser


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def _sound(runs: Sequence[Run]) -> list[Run]:
    """The runs whose files can be read; of the others a line is told."""
    sound = []
    for run in runs:
        try:
            sound.append(run.require_sound())
        except CheckpointError as error:
            _warn(str(error))
    return sound


def _reference(comparison: Comparison, wanted: str | None) -> int | None:
    """Place of the run that others are compared to: the one asked for, else the first with closing scores."""
    from bcfusion.report.comparison.run import ENHANCED

    if wanted is None:
        return next((place for place, run in enumerate(comparison.runs) if ENHANCED in run.closing_scores), None)
    if wanted.isdigit() and 1 <= int(wanted) <= len(comparison.runs):
        return int(wanted) - 1
    for place, (name, run) in enumerate(zip(comparison.names, comparison.runs, strict=True)):
        if wanted == name or Path(wanted).expanduser().resolve() == run.path.resolve():
            return place
    raise ConfigError([f"--against {wanted}: no such run; give its number in the table, its name or its path"])


def _comparable(comparison: Comparison, against: int) -> tuple[list[int], list[int]]:
    """Places of the runs with closing scores that share utterances with the reference, and of those that share none."""
    from bcfusion.report.comparison.differences import common_utterances

    reference = comparison.runs[against]
    scored = [place for place, run in enumerate(comparison.runs) if place != against and run.closing_scores]
    common = [place for place in scored if common_utterances(comparison.runs[place], reference)]
    return common, [place for place in scored if place not in common]


def _compared(comparison: Comparison, against: int | None, most: int | None) -> dict[str, list[Difference]]:
    """Differences to the reference of the runs that share utterances with it, the first ``most``, by their names."""
    from bcfusion.report.comparison.differences import differences

    if against is None:
        return {}
    common = _comparable(comparison, against)[0][:most]
    draws = {"draws": _FEWER_DRAWS} if len(common) > _MANY else {}
    found = {
        comparison.names[place]: differences(
            comparison.runs[place], comparison.runs[against], comparison.metrics, **draws
        )
        for place in common
    }
    return {name: of for name, of in found.items() if of}


def _sentences(comparison: Comparison, against: int, found: Mapping[str, Sequence[Difference]]) -> list[list[str]]:
    """What is said of each of the first runs: a line for each metric, and one where it hears something else."""
    from bcfusion.report.comparison.differences import other_inputs, sentences

    runs = dict(zip(comparison.names, comparison.runs, strict=True))
    reference = comparison.names[against]
    said = []
    for name, of in list(found.items())[:_TOLD_AT_ONCE]:
        lines = sentences(of, name, reference)
        if other := other_inputs(runs[name], runs[reference]):
            lines.append(f"(but {other})")
        said.append(lines)
    return said


def _apart(comparison: Comparison, against: int) -> str:
    """Which runs cannot be compared to the reference; empty where all can."""
    numbers = ", ".join(str(place + 1) for place in _comparable(comparison, against)[1])
    return (
        f"no utterance in common with {comparison.names[against]}, so not compared to it: {numbers}" if numbers else ""
    )


def _told(comparison: Comparison, against: int | None, found: Mapping[str, Sequence[Difference]]) -> list[str]:
    """The lines about differences, for the terminal."""
    if against is None:
        return []
    lines = []
    if found:
        lines.append("\nOn the common utterances of the closing scores, with 95 % intervals:")
        lines += [f"  {line}" for of in _sentences(comparison, against, found) for line in of]
        more = len(_comparable(comparison, against)[0]) - min(len(found), _TOLD_AT_ONCE)
        if more > 0:
            lines.append(f"  {more} more in the tables that --output writes")
    if apart := _apart(comparison, against):
        lines.append(apart)
    return lines


def _write(
    output: Path, comparison: Comparison, against: int | None, found: Mapping[str, Sequence[Difference]]
) -> list[Path]:
    """Writes one table, or a folder with all tables and pictures; returns what was written.

    Raises:
        CheckpointError: it cannot be written.
    """
    from bcfusion.report.comparison.tables import csv_table

    try:
        if output.suffix == ".csv":
            return [_put(output, csv_table(comparison))]
        if output.suffix == ".md":
            return [_put(output, _markdown(comparison, against, found, []))]
        if output.is_file():
            raise CheckpointError(f"{output} is a file: give a folder, or a name ending in .md or .csv")
        pictures = _pictures(output, comparison)
        written = [
            _put(output / "compare.md", _markdown(comparison, against, found, pictures)),
            _put(output / "runs.csv", csv_table(comparison)),
        ]
        if against is not None and found:
            from bcfusion.report.comparison.differences import differences_csv

            written.append(_put(output / "differences.csv", differences_csv(found, comparison.names[against])))
        return [*written, *pictures]
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error.strerror or error}") from error


def _put(path: Path, text: str) -> Path:
    """Writes a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _pictures(folder: Path, comparison: Comparison) -> list[Path]:
    """Draws what there is to draw."""
    from bcfusion.report.comparison.curves import curves_figure, distributions_figure
    from bcfusion.report.spectrogram import save_figure

    runs = dict(zip(comparison.names, comparison.runs, strict=True))
    curves = "Learning curves, validation files; a ring marks the best checkpoint"
    figures = {
        "curves.png": curves_figure(runs, comparison.metrics, curves),
        "scores.png": distributions_figure(runs, comparison.metrics, "Closing scores of the utterances"),
    }
    return [save_figure(figure, folder / name) for name, figure in figures.items() if figure is not None]


def _markdown(
    comparison: Comparison,
    against: int | None,
    found: Mapping[str, Sequence[Difference]],
    pictures: Sequence[Path],
) -> str:
    from bcfusion.report.comparison.compare import notes
    from bcfusion.report.comparison.differences import differences_markdown
    from bcfusion.report.comparison.tables import markdown_runs

    parts = [f"# {comparison.caption}", markdown_runs(comparison)]
    if lines := notes(comparison):
        parts.append("\n".join(f"- {line}" for line in lines))
    if against is not None and found:
        reference = comparison.names[against]
        parts += [
            "## Differences",
            f"To {reference}, in pairs of the utterances that both closing evaluations scored, with bootstrap 95 % "
            "intervals; bold where the interval does not hold 0.",
            differences_markdown(found, reference),
            *("\n".join(f"- {line}" for line in lines) for lines in _sentences(comparison, against, found)),
        ]
    if against is not None and (apart := _apart(comparison, against)):
        parts.append(f"{apart[0].upper()}{apart[1:]}.")
    parts += [f"![{picture.stem}]({picture.name})" for picture in pictures]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
