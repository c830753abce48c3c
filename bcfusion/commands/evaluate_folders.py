"""``bcfusion evaluate --enhanced DIR --reference DIR``: score files that any program has enhanced."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands.shared.evaluate_output import hydra_directory, parse_settings, timed_folder, write_results
from bcfusion.commands.shared.hydra_app import run
from bcfusion.errors import ConfigError, DataError
from bcfusion.evaluation.systems import INPUT, TARGET, is_input
from bcfusion.files import normal_name
from bcfusion.nearest import nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from bcfusion.evaluation.folders import Matched

OPTIONS = ("--enhanced", "--reference", "--input", "--name", "--tolerance")
#: keys of the configuration that set how files are scored; the others concern networks
USED = ("metrics", "sample_rate", "cutoff_frequency")


@dataclass(frozen=True)
class Folders:
    """What to score.

    Attributes:
        reference: folder with clean speech.
        systems: name of the system to its folder; the input, if there is one, is first.
        tolerance: seconds by which lengths may differ.
    """

    reference: Path
    systems: Mapping[str, Path]
    tolerance: float


def is_requested(argv: Sequence[str]) -> bool:
    """Return whether a command line names folders instead of a model."""
    return any(argument.partition("=")[0] in OPTIONS for argument in argv)


def main(argv: list[str]) -> int:
    """Score the folders; return the exit status.

    Raises:
        BcfusionError: nothing can be scored: a folder or metric does not exist, or the folders have no names in common.
    """
    folders, rest = _parse(argv)
    settings, overrides = parse_settings(rest)
    group_by = settings.group_by
    problems = (
        [f"split: folders have none, every file of {folders.reference} counts"] if settings.split is not None else []
    )
    problems += [] if settings.steps is None else ["steps: has no effect on enhanced files"]
    typed = [each for each in overrides if each.startswith("~") or ("=" in each and not each.startswith("-"))]
    keys = [argument.lstrip("+~").partition("=")[0].partition(".")[0] for argument in typed]
    for key in keys:
        if key not in USED:
            problems.append(f"{key}: has no effect on enhanced files; these have: {', '.join(USED)}, group_by, output")
    if "corpus" in group_by:
        problems.append("group_by=corpus: not known for folders of files")
    if "snr" in group_by and INPUT not in folders.systems:
        problems.append("group_by=snr: give the noisy files too, as --input DIR")
    if problems:
        raise ConfigError(problems[:2])

    from bcfusion.evaluation.folders import common_rate, match_folders

    matched = match_folders(folders.reference, folders.systems)
    if "speaker" in group_by and not any("/" in name for name in matched.references):
        raise DataError(f"group_by=speaker: {folders.reference} has no subfolders that name speakers")
    if "sample_rate" not in keys:
        overrides.append(f"sample_rate={common_rate(matched.references)}")
    output = settings.output or timed_folder(Path("runs"))
    run(
        lambda cfg: _task(cfg, folders, matched, output, group_by),
        [*overrides, hydra_directory(output)],
        module_file=__file__,
        verb="evaluate",
    )
    return 0


def folders_parser() -> argparse.ArgumentParser:
    """Return the parser of the options that name folders; what else is typed are overrides and Hydra's options."""
    parser = argparse.ArgumentParser(prog="bcfusion evaluate", allow_abbrev=False, add_help=False, exit_on_error=False)
    parser.add_argument("--enhanced", metavar="DIR", type=Path, action="append", default=[])
    parser.add_argument("--reference", metavar="DIR", type=Path)
    parser.add_argument("--input", metavar="DIR", type=Path)
    parser.add_argument("--name", action="append", default=[])
    parser.add_argument("--tolerance", metavar="SECONDS", type=float, default=0.1)
    return parser


def _parse(argv: list[str]) -> tuple[Folders, list[str]]:
    """Return the folders, and the arguments that do not concern them."""
    try:
        arguments, rest = folders_parser().parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError([f"evaluate: {error}"]) from error
    for option in (argument.partition("=")[0] for argument in rest if argument.startswith("--")):
        near = nearest(option, OPTIONS, cutoff=0.75)
        if near is not None:
            raise ConfigError([f"evaluate: there is no option {option}; did you mean '{near}'?"])
    if not arguments.enhanced or arguments.reference is None:
        raise ConfigError(["evaluate: give both folders, as in --enhanced theirs/ --reference clean/ [--input noisy/]"])
    if not 0 <= arguments.tolerance < float("inf"):
        raise ConfigError([f"--tolerance: must be a number of seconds, 0 or more, not {arguments.tolerance:g}"])
    models = [argument for argument in rest if "=" not in argument and not argument.startswith(("-", "~"))]
    options = [argument for argument in rest if argument.startswith("-")]
    if models and not options:  # the value of one of Hydra's options looks the same
        raise ConfigError([f"evaluate: {models[0]} and --enhanced are both given: score a model or folders, not both"])
    names = arguments.name or [normal_name(folder.resolve().name) for folder in arguments.enhanced]
    if len(names) != len(arguments.enhanced):
        raise ConfigError([f"--name: give one for each of the {len(arguments.enhanced)} --enhanced, in their order"])
    for name in names:
        if is_input(name) or name == TARGET or not name.strip() or names.count(name) > 1:
            raise ConfigError([f"--name: {name!r} is taken or reserved: give each --enhanced its own name"])
    before = {} if arguments.input is None else {INPUT: arguments.input}
    systems = {**before, **dict(zip(names, arguments.enhanced, strict=True))}
    return Folders(arguments.reference, systems, arguments.tolerance), rest


def _task(cfg: DictConfig, folders: Folders, matched: Matched, output: Path, group_by: Sequence[str]) -> None:
    """Score the folders, print the tables, and write the results."""
    from bcfusion.configuration.check import verify
    from bcfusion.configuration.compose import build
    from bcfusion.evaluation.folders import score_folders
    from bcfusion.evaluation.pool import Scorer, available_workers

    problems = [problem for problem in verify(cfg, training=False) if problem.split(".")[0].split(":")[0] in USED]
    if problems:
        raise ConfigError(problems)
    metrics, workers = {name: build(node) for name, node in cfg.metrics.items()}, available_workers(with_network=False)
    with Scorer(metrics, cfg.sample_rate, workers) as scorer:
        scores = score_folders(matched, scorer, cfg.sample_rate, folders.tolerance, with_snr="snr" in group_by)
    tested = [name for name in folders.systems if name != INPUT]
    write_results(scores, group_by, output, f"{', '.join(tested)} against {folders.reference}, {cfg.sample_rate} Hz")
    for line in matched.notes.lines():
        print(f"note: {line}")
    if INPUT not in folders.systems:
        print("note: no row for the input; --input DIR adds it")
