"""``bcfusion listen``: a page to hear systems side by side and to rate them blindly; and the analysis of ratings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import between, path, positive_int, positive_number, separated, verb_parser
from bcfusion.commands.shared.model_choice import add_trust_option, chosen_model
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.errors import BcfusionError, CheckpointError, DataError, printable
from bcfusion.startup import loading

if TYPE_CHECKING:
    from bcfusion.report.listening.candidates import Candidate
    from bcfusion.report.listening.page import Page
    from bcfusion.report.listening.sounds import Source

HELP = """\
Write a page with the sounds of runs side by side: input, each run, target. It switches between them at the same
position without a gap and at the same level, shows spectrograms and scores, and collects blind ratings: A/B, or
MUSHRA-like sliders. It is one file that needs no network: open it in a browser, or send it to listeners.

The sounds are those that the runs wrote (samples/ of the run and of its evaluations). If these are too few, the models
enhance utterances of their test set, as bcfusion evaluate does; key=value changes the data they are given.

examples:
  bcfusion listen runs/a runs/b                           # listen.html, with the sounds that both runs have
  bcfusion listen runs/bone_to_air --utterances 12        # every run below, twelve utterances
  bcfusion listen RUN1 RUN2 --enhance degradation.noisy.evaluation_snr=-5
  bcfusion listen RUN throat data=pairs data.body=throat/ data.air=air/       # with a model by its name
  bcfusion listen RUN1 RUN2 --anchor 3500,7000 --serve    # with low-passed anchors to rate; on http://127.0.0.1
  bcfusion listen --analyse ratings-*.json --output ratings.md
"""
DEFAULT_UTTERANCES = 8


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: there is nothing to listen to or to analyse, or a file cannot be written.
    """
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.inputs:
        parser.error("name the files of ratings" if arguments.analyse else "name at least one run")
    if arguments.analyse:
        return _analyse(arguments)
    if arguments.no_screening:
        parser.error("--no-screening needs --analyse")
    make_cwd_importable()  # for a network of the user's own
    from bcfusion.report.listening.candidates import find_candidates

    overrides = [given for given in arguments.inputs if "=" in given and not Path(given).exists()]
    given = [
        str(chosen_model(each, searched=True, missing_ok=True, trust_code=arguments.trust_code))
        for each in arguments.inputs
        if each not in overrides
    ]
    candidates = find_candidates(given, arguments.names, _left_out)
    with loading():  # heavy, and not needed to say that there is no such run
        from bcfusion.report.listening.page import require_replaceable

    output = arguments.output or Path("listen.html")
    require_replaceable(output)

    page, joined = _page(_sources(candidates, overrides, arguments), arguments)
    _write(output, page.text)
    left = joined - page.utterances
    note = f"; {left} more do not fit into --megabytes {arguments.megabytes:g}" if left else ""
    print(f"{output}: {page.utterances} utterances, {len(page.text.encode()) / 1e6:.1f} MB{note}", flush=True)
    if arguments.serve:
        from bcfusion.report.listening.server import serve

        serve(page.text, arguments.port)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("listen", HELP)
    parser.add_argument(
        "inputs",
        metavar="RUN",
        nargs="*",
        help="runs, folders of runs, evaluations, bundles, names of models; key=value changes the data",
    )
    add_trust_option(parser)
    parser.add_argument("--output", metavar="FILE", type=path, help="default: listen.html")
    parser.add_argument(
        "--utterances",
        metavar="N",
        type=positive_int,
        help=f"most utterances on the page; default: {DEFAULT_UTTERANCES}",
    )
    parser.add_argument("--enhance", action="store_true", help="let the models enhance even if the runs wrote sounds")
    parser.add_argument(
        "--split", choices=("test", "valid"), default="test", help="split to enhance; with valid the models do enhance"
    )
    parser.add_argument(
        "--seconds", metavar="S", type=positive_number, default=12.0, help="length that sounds are cut to; default: 12"
    )
    parser.add_argument(
        "--megabytes", metavar="MB", type=positive_number, default=50.0, help="largest size of the page; default: 50"
    )
    parser.add_argument("--format", choices=("flac", "wav"), default="flac", help="format of the sounds; default: flac")
    parser.add_argument(
        "--anchor",
        metavar="HZ",
        type=separated(positive_number),
        default=(),
        help="add low-passed targets to rate: 3500, or 3500,7000",
    )
    parser.add_argument("--names", metavar="A,B", type=separated(str), help="names of the runs, in the order given")
    parser.add_argument("--title", default="Listening page", help="title of the page")
    parser.add_argument("--serve", action="store_true", help="also serve the page on this machine until Ctrl-C")
    parser.add_argument("--port", type=between(0, 65535, int), default=0, help="for --serve; default: a free one")
    parser.add_argument(
        "--analyse", action="store_true", help="analyse files of ratings (.json or .csv); --output writes Markdown"
    )
    parser.add_argument(
        "--no-screening", action="store_true", help="keep listeners who rate the hidden reference low (--analyse)"
    )
    return parser


def _sources(candidates: Sequence[Candidate], overrides: Sequence[str], arguments: argparse.Namespace) -> list[Source]:
    """Return the sounds that the runs wrote if these suffice, else test utterances that the models enhance."""
    from bcfusion.report.listening.sounds import common_items, read_samples

    wanted = arguments.utterances
    if not (arguments.enhance or overrides or arguments.split != "test"):
        sources = [read_samples(candidate.name, candidate.samples) for candidate in candidates]
        for problem in (problem for source in sources for problem in source.problems):
            _left_out(problem)
        common = len(common_items(sources))
        if common >= (wanted or 1):
            return sources
        count = f"{common} utterance{'s' * (common != 1)}"
        print(f"the runs wrote sounds of {count} in common, too few: their models enhance now", flush=True)
    models = {candidate.name: candidate.model for candidate in candidates if candidate.model is not None}
    if missing := [candidate.name for candidate in candidates if candidate.name not in models]:
        raise CheckpointError(
            f"{', '.join(missing)}: no model to enhance with; give runs that are finished, or bundles"
        )
    from bcfusion.commands.listen_models import enhanced_sources

    return enhanced_sources(models, overrides, arguments.split, wanted or DEFAULT_UTTERANCES, arguments.trust_code)


def _page(sources: Sequence[Source], arguments: argparse.Namespace) -> tuple[Page, int]:
    """Return the page and the number of utterances that it was to hold."""
    from bcfusion.report.listening.page import listening_page
    from bcfusion.report.listening.rows import Settings
    from bcfusion.report.listening.sounds import join

    utterances, problems = join(sources)
    for problem in problems:
        _left_out(problem)
    if not utterances:
        raise DataError("no utterance is common to all runs")
    utterances = utterances[: arguments.utterances or DEFAULT_UTTERANCES]
    higher = {name: direction for source in sources for name, direction in source.higher_is_better.items()}
    settings = Settings(arguments.seconds, arguments.megabytes, arguments.format, arguments.anchor)
    return listening_page(arguments.title, utterances, higher, settings), len(utterances)


def _analyse(arguments: argparse.Namespace) -> int:
    from bcfusion.report.listening.analysis import analyse
    from bcfusion.report.listening.ratings import read_ratings

    output = arguments.output
    if output and output.exists() and output.suffix.lower() != ".md":  # perhaps ratings, which cannot be repeated
        raise BcfusionError(
            f"--output {output}: this file exists and is not Markdown; name another, such as ratings.md"
        )
    analysis = analyse([read_ratings(path(given)) for given in arguments.inputs], screening=not arguments.no_screening)
    print(analysis.markdown())
    if output:
        _write(output, analysis.markdown() + "\n")
    return 0


def _write(output: Path, text: str) -> None:
    from bcfusion.files import write_text

    try:
        write_text(output, text)
    except OSError as error:
        raise BcfusionError(f"--output {output}: {error.strerror}") from error


def _left_out(problem: str) -> None:
    print(printable(f"left out: {problem}", keep="\n"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
