"""``bcfusion evaluate --scores NAME=CSV``: tables and intervals of scores that earlier evaluations wrote."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands.shared.arguments import path
from bcfusion.commands.shared.evaluate_output import (
    Settings,
    hydra_directory,
    parse_settings,
    timed_folder,
    write_results,
)
from bcfusion.commands.shared.hydra_app import run
from bcfusion.errors import ConfigError
from bcfusion.evaluation.systems import TARGET, is_input

if TYPE_CHECKING:
    from omegaconf import DictConfig

OPTION = "--scores"
#: key of the configuration that says which scores are read, and which of them are better when higher
USED = ("metrics",)


def is_requested(argv: Sequence[str]) -> bool:
    """Return whether a command line names files of scores instead of a model."""
    return any(argument.partition("=")[0] == OPTION for argument in argv)


def main(argv: list[str]) -> int:
    """Join the files, print and write the tables; return the exit status.

    Raises:
        BcfusionError: a file is missing or damaged, or the files do not belong together.
    """
    files, rest = _parse(argv)
    settings, overrides = parse_settings(rest)
    problems = useless_words(OPTION, settings, overrides)
    if problems:
        raise ConfigError(problems[:2])
    output = settings.output or timed_folder(Path("runs"))
    run(
        lambda cfg: _task(cfg, files, output, settings.group_by),
        [*overrides, hydra_directory(output)],
        module_file=__file__,
        verb="evaluate",
    )
    return 0


def scores_parser(parser: argparse.ArgumentParser) -> None:
    """Add the option that names files of scores."""
    parser.add_argument(OPTION, metavar="NAME=CSV", nargs="+", action="extend", default=[])


def _parse(argv: Sequence[str]) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each system, in the order of the command line, and the other arguments."""
    arguments, rest = parsed(argv, scores_parser)
    return files_by_name(OPTION, arguments.scores), rest


def parsed(
    argv: Sequence[str], add_options: Callable[[argparse.ArgumentParser], None]
) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that ``add_options`` adds, as they are typed, and the other words.

    Raises:
        ConfigError: an option has no value.
    """
    parser = argparse.ArgumentParser(prog="bcfusion evaluate", allow_abbrev=False, add_help=False, exit_on_error=False)
    add_options(parser)
    try:
        return parser.parse_known_args(settings_first(argv))
    except argparse.ArgumentError as error:
        raise ConfigError([f"evaluate: {error}"]) from error


def files_by_name(option: str, words: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each name from words ``NAME=CSV``, in the order of the command line.

    Raises:
        ConfigError: a word is something else, or a name is reserved.
    """
    files: dict[str, list[Path]] = {}
    for text in words:
        name, equals, file = text.partition("=")
        if not (equals and name.strip() and file):
            raise ConfigError([f"{option}: {text!r} must be NAME=CSV, as in {option} adapted=fold1/scores.csv"])
        if is_input(name) or name == TARGET:
            raise ConfigError([f"{option}: the name {name!r} is reserved: give the scores another one"])
        files.setdefault(name, []).append(path(file))
    return files


def useless_words(option: str, settings: Settings, overrides: Sequence[str]) -> list[str]:
    """Return a line for each word that has no effect on scores which exist already."""
    given = {"split": settings.split, "steps": settings.steps}
    problems = [f"{key}: has no effect on scores" for key, value in given.items() if value is not None]
    for argument in overrides:
        key = argument.lstrip("+~").partition("=")[0].partition(".")[0]
        setting = "=" in argument or argument.startswith("~")  # ~metrics.NAME leaves one out
        if setting and not argument.startswith("-") and key not in USED:
            problems.append(f"{key}: has no effect on scores; these have: {', '.join(USED)}, group_by, output")
        elif not setting and not argument.startswith("-"):
            problems.append(f"evaluate: {argument} and {option} are both given: write {option} before each NAME=CSV")
    return problems


def settings_first(argv: Sequence[str]) -> list[str]:
    """Put other ``key=value`` arguments first: the option takes all words that follow it up to the next option."""
    words = list(argv)
    known = (*Settings._fields, *USED)
    own = [each for each in words if each.lstrip("+~").partition("=")[0].partition(".")[0] in known]
    return [*own, *(each for each in words if each not in own)]


def _task(cfg: DictConfig, files: dict[str, list[Path]], output: Path, group_by: Sequence[str]) -> None:
    from bcfusion.configuration.compose import build
    from bcfusion.evaluation.pool import Scorer
    from bcfusion.evaluation.pooled import pooled

    with Scorer({name: build(node) for name, node in cfg.metrics.items()}, cfg.sample_rate, workers=0) as scorer:
        scores = pooled(files, scorer.higher_is_better)
    count = sum(map(len, files.values()))
    title = f"{', '.join(files)}, {scores.utterances} utterances from {count} file{'s' * (count != 1)} of scores"
    write_results(scores, group_by, output, title)
