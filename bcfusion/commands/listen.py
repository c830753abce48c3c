"""``bcfusion listen``: a page to hear systems side by side and to rate them blindly; and what the ratings say."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.errors import BcfusionError, CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from bcfusion.report.listening.page import Page
    from bcfusion.report.listening.sounds import Source, Utterance

HELP = """\
Write a page with the sounds of runs side by side: input, each run, target. It switches between them at the same
position without a gap, at the same level, shows spectrograms and scores, and rates blindly: A/B, or by sliders in the
manner of MUSHRA. It is one file that needs no network: open it in a browser, or send it to listeners.

The sounds are those that the runs wrote (samples/ of the run and of its evaluations). Where these are too few, the
models enhance utterances of their test set, as bcfusion evaluate does; key=value changes the data they are given.

examples:
  bcfusion listen runs/a runs/b                           # listen.html, of the sounds the runs have in common
  bcfusion listen runs/bone_to_air --utterances 12        # every run below, twelve utterances
  bcfusion listen RUN1 RUN2 --enhance degradation.noisy.evaluation_snr=-5
  bcfusion listen RUN1 RUN2 --anchor 3500,7000 --serve    # with low-passed anchors to rate; on http://127.0.0.1
  bcfusion listen --analyse ratings-*.json --output ratings.md
"""
DEFAULT_UTTERANCES = 8
BUNDLE = "generator.safetensors"  # what a bundle's folder holds


@dataclass(frozen=True)
class Place:
    """A run to listen to: its name, the folders that hold its samples, its model (None: there is none)."""

    name: str
    samples: tuple[Path, ...]
    model: Path | None


def main(argv: list[str]) -> int:
    """Runs the verb; returns the exit status.

    Raises:
        BcfusionError: nothing to listen to, or to analyse, or a file that cannot be written.
    """
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.inputs:
        parser.error("name the files of ratings" if arguments.analyse else "name at least one run")
    if arguments.analyse:
        return _analyse(arguments)
    if arguments.no_screening:
        parser.error("--no-screening is of --analyse")
    if not {str(Path.cwd()), ""} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # where a network of the user's own package is found
    overrides = [given for given in arguments.inputs if "=" in given and not Path(given).exists()]
    places = find_places([given for given in arguments.inputs if given not in overrides], arguments.names)
    output = arguments.output or Path("listen.html")
    _refuse_other_files(output)

    sources = _sources(places, overrides, arguments)
    page, of = _page(sources, arguments)
    write_page(output, page.text)
    left = f"; {of - page.utterances} more do not fit into --megabytes {arguments.megabytes:g}" * (page.utterances < of)
    print(f"{output}: {page.utterances} utterances, {len(page.text.encode()) / 1e6:.1f} MB{left}", flush=True)
    if arguments.serve:
        from bcfusion.report.listening.server import serve

        serve(page.text, arguments.port)
    return 0


def _parser() -> argparse.ArgumentParser:
    description, _, examples = HELP.partition("examples:")
    parser = argparse.ArgumentParser(
        prog="bcfusion listen",
        description=description,
        epilog="examples:" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "inputs",
        metavar="RUN",
        nargs="*",
        help="runs, folders of runs, evaluations, bundles; key=value changes the data",
    )
    parser.add_argument("--output", metavar="FILE", type=_path, help="default: listen.html")
    parser.add_argument(
        "--utterances",
        metavar="N",
        type=_positive,
        help=f"at most; default: what all runs wrote, up to {DEFAULT_UTTERANCES}",
    )
    parser.add_argument("--enhance", action="store_true", help="let the models work even where the runs wrote sounds")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="that they enhance; default: test")
    parser.add_argument("--seconds", metavar="S", type=_amount, default=12.0, help="of each sound at most; default: 12")
    parser.add_argument("--megabytes", metavar="MB", type=_amount, default=50.0, help="size of the page; default: 50")
    parser.add_argument("--format", choices=("flac", "wav"), default="flac", help="of the sounds; default: flac")
    parser.add_argument(
        "--anchor", metavar="HZ", type=_amounts, default=(), help="rate low-passed targets too: 3500, or 3500,7000"
    )
    parser.add_argument("--names", metavar="A,B", type=_names, help="names of the runs, in their order")
    parser.add_argument("--title", default="Listening page", help="of the page")
    parser.add_argument("--serve", action="store_true", help="and serve the page on this machine until Ctrl-C")
    parser.add_argument("--port", type=_port, default=0, help="for --serve; default: a free one")
    parser.add_argument(
        "--analyse", action="store_true", help="analyse files of ratings (.json or .csv); --output writes Markdown"
    )
    parser.add_argument(
        "--no-screening", action="store_true", help="keep listeners who rate the hidden reference low (--analyse)"
    )
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above zero")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port, 0 to 65535")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


def _amounts(text: str) -> tuple[float, ...]:
    return tuple(dict.fromkeys(map(_amount, text.split(","))))


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text}: write different names with commas between them")
    return names


def find_places(given: Sequence[str], names: Sequence[str] | None = None) -> list[Place]:
    """The runs that paths mean, each with a name of its own.

    Args:
        given: run directories, folders with runs below, bundles, checkpoints, or single evaluations
            (``RUN/evaluation/TIME``).
        names: for them, in their order; None: made of what the runs differ in.

    Raises:
        CheckpointError: a path holds nothing to listen to. ConfigError: another number of names than of runs.
    """
    from bcfusion.report.comparison.names import run_names
    from bcfusion.report.comparison.run import Run
    from bcfusion.report.comparison.runs import find_runs
    from bcfusion.report.listening.sounds import evaluations

    found: list[tuple[Run | None, Path]] = []
    problems: list[str] = []
    for path in map(_path, given):
        told: list[str] = []
        runs = find_runs([path], told.append)
        if (path / "samples").is_dir() or (path / BUNDLE).is_file() or path.suffix == ".ckpt":  # that alone
            found.append((runs[0] if len(runs) == 1 else None, path))
        else:
            found += [(run, run.path) for run in runs]
            problems += told
    labels = iter(run_names([run for run, _ in found if run is not None]))
    places = []
    for run, path in found:
        label = next(labels) if run is not None else path.stem
        whole = run is not None and path.resolve() == run.path.resolve()
        samples = tuple(evaluations(path)) if whole else (path,) if (path / "samples").is_dir() else ()
        if (path / BUNDLE).is_file() or path.suffix == ".ckpt":
            model: Path | None = path
        else:
            model = run.path if run is not None and run.bundle else None
        if samples or model:
            places.append(Place(label, samples, model))
        else:
            problems.append(f"{path}: it has neither samples nor a bundle")
    if not places:
        raise CheckpointError("\n".join(problems))
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return _named(places, names)


def _named(places: list[Place], names: Sequence[str] | None) -> list[Place]:
    """The places with names that differ from each other and from those of inputs, target and anchor."""
    if names is not None and len(names) != len(places):
        raise ConfigError([f"--names: {len(names)} names for {len(places)} runs ({', '.join(p.name for p in places)})"])
    taken = {"target"}
    named = []
    for number, place in enumerate(places):
        name = names[number] if names is not None else place.name
        if name in taken or name.startswith(("input", "anchor")):
            if names is not None:
                raise ConfigError([f"--names: {name} means a sound of the page itself (input, target, anchor)"])
            name = f"{name} ({number + 1})"
        taken.add(name)
        named.append(Place(name, place.samples, place.model))
    return named


def _sources(places: Sequence[Place], overrides: Sequence[str], arguments: argparse.Namespace) -> list[Source]:
    """What the runs wrote where it suffices, else what their models make of the test set."""
    from bcfusion.report.listening.sounds import read_samples

    wanted = arguments.utterances
    if not (arguments.enhance or overrides):
        try:
            sources = [read_samples(place.name, place.samples) for place in places]
        except ValueError as error:
            raise DataError(str(error)) from error
        for problem in (problem for source in sources for problem in source.problems):
            print(f"left out: {problem}", file=sys.stderr)
        common = [item for item in sources[0].takes if all(item in source.takes for source in sources)]
        if len(common) >= (wanted or 1):
            return sources
        count = f"{len(common)} utterance{'s' * (len(common) != 1)}"
        print(f"the runs wrote sounds of {count} in common, too few: their models enhance now", flush=True)
    if missing := [place.name for place in places if place.model is None]:
        raise CheckpointError(
            f"{', '.join(missing)}: no model to enhance with; give runs that are finished, or bundles"
        )
    from bcfusion.commands.listen_models import enhanced_sources

    models = {place.name: place.model for place in places if place.model is not None}
    return enhanced_sources(models, overrides, arguments.split, wanted or DEFAULT_UTTERANCES)


def _page(sources: Sequence[Source], arguments: argparse.Namespace) -> tuple[Page, int]:
    from bcfusion.report.listening.page import Settings, listening_page
    from bcfusion.report.listening.sounds import join

    utterances: list[Utterance]
    utterances, problems = join(sources)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not utterances:
        raise DataError("no utterance is common to all runs")
    utterances = utterances[: arguments.utterances or DEFAULT_UTTERANCES]
    higher = {name: direction for source in sources for name, direction in source.higher_is_better.items()}
    settings = Settings(arguments.seconds, arguments.megabytes, arguments.format, arguments.anchor)
    return listening_page(arguments.title, utterances, higher, settings), len(utterances)


def _refuse_other_files(output: Path) -> None:
    """A listening page may be replaced, anything else not: it may have been named by mistake."""
    from bcfusion.report.listening.page import MARK

    if output.is_dir():
        raise BcfusionError(f"--output {output}: is a folder; name a file in it")
    try:
        other = output.exists() and MARK not in output.read_text(encoding="utf-8", errors="replace")[:1000]
    except OSError as error:
        raise BcfusionError(f"--output {output}: {error.strerror}") from error
    if other:
        raise BcfusionError(f"--output {output}: there is another file of that name, no listening page; name another")


def write_page(output: Path, text: str) -> None:
    """Write a text file with its folders; it appears whole or not at all.

    Raises:
        BcfusionError: the place cannot be written to.
    """
    from bcfusion.files import write_text

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, text)
    except OSError as error:
        raise BcfusionError(f"--output {output}: {error.strerror}") from error


def _analyse(arguments: argparse.Namespace) -> int:
    from bcfusion.report.listening.analysis import analyse
    from bcfusion.report.listening.ratings import read_ratings

    output = arguments.output
    if output and output.exists() and output.suffix.lower() != ".md":  # ratings are not to be got again
        raise BcfusionError(
            f"--output {output}: there is a file of that name, no Markdown; name another, as ratings.md"
        )
    analysis = analyse([read_ratings(_path(given)) for given in arguments.inputs], screening=not arguments.no_screening)
    print(analysis.markdown())
    if output:
        write_page(output, analysis.markdown() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
