"""``bcfusion evaluate --sets NAME=CSV``: one table of several test sets, each with its own input."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands.evaluate_scores import files_by_name, parsed, useless_words
from bcfusion.commands.shared.arguments import path
from bcfusion.commands.shared.evaluate_output import hydra_directory, parse_settings, timed_folder
from bcfusion.commands.shared.hydra_app import run
from bcfusion.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

OPTION = "--sets"
PUBLISHED = "--published"


def is_requested(argv: Sequence[str]) -> bool:
    """Return whether a command line names test sets instead of a model."""
    return any(argument.partition("=")[0] in (OPTION, PUBLISHED) for argument in argv)


def sets_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options that name test sets and published figures."""
    parser.add_argument(OPTION, metavar="NAME=CSV", nargs="+", action="extend", default=[])
    parser.add_argument(PUBLISHED, metavar="CSV", type=path)


def main(argv: list[str]) -> int:
    """Put the files side by side, print and write the table; return the exit status.

    Raises:
        BcfusionError: a file is missing or damaged, or the files do not belong together.
    """
    arguments, rest = parsed(argv, sets_parser)
    if not arguments.sets:
        raise ConfigError([f"{PUBLISHED}: give scores to compare with, as in {OPTION} throat=scores.csv"])
    files = files_by_name(OPTION, arguments.sets)
    settings, overrides = parse_settings(rest)
    problems = useless_words(OPTION, settings, overrides)
    problems += ["group_by: the sets are the groups"] if settings.group_by else []
    if problems:
        raise ConfigError(problems[:2])
    output = settings.output or timed_folder(Path("runs"))
    run(
        lambda cfg: _task(cfg, files, arguments.published, output),
        [*overrides, hydra_directory(output)],
        module_file=__file__,
        verb="evaluate",
    )
    return 0


def _task(cfg: DictConfig, files: Mapping[str, Sequence[Path]], published: Path | None, output: Path) -> None:
    from dataclasses import replace

    from rich.console import Console

    from bcfusion.configuration.compose import build
    from bcfusion.evaluation.pool import Scorer
    from bcfusion.evaluation.score_files import write_summary
    from bcfusion.evaluation.sets import in_one, read_published, scores_of_sets
    from bcfusion.evaluation.summary import summarise
    from bcfusion.files import write_text
    from bcfusion.report.score_tables import skipped_lines
    from bcfusion.report.set_tables import markdown_sets, terminal_sets, write_sets

    others = [] if published is None else read_published(published)
    with Scorer({name: build(node) for name, node in cfg.metrics.items()}, cfg.sample_rate, workers=0) as scorer:
        scores = scores_of_sets(files, scorer.higher_is_better)
    sets = {name: summarise(each) for name, each in scores.items()}
    together = in_one(scores)
    together.write_csv(output / "scores.csv")
    write_summary(replace(summarise(together), groups={"set": sets}), output / "summary.csv")
    title = f"{len(sets)} test set{'s' * (len(sets) != 1)}: {', '.join(sets)}"
    write_text(output / "sets.md", markdown_sets(sets, others, title))
    write_sets(sets, others, output / "sets.csv")
    print(f"{title}:")
    console = Console()
    for table in terminal_sets(sets, others, console.width):
        console.print(table)
    for name, summary in sets.items():
        for line in skipped_lines(summary.skipped, summary.higher_is_better, summary.utterances):
            print(f"{name}: {line}")
    if others:
        print(f"* published, from {published}")
    if others and not any(row.set in sets for row in others):
        known = ", ".join(dict.fromkeys(row.set for row in others))
        print(f"warning: {published} has none of these sets; it has {known}")
    print(f"table:         {output / 'sets.md'}, sets.csv (means)")
    print(f"per utterance: {output / 'scores.csv'}, summary.csv (with intervals)")
