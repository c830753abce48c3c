"""``bcfusion adapt``: fit a trained network to a new sensor, by a few minutes of recorded pairs."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import between, path, positive_int, positive_number, verb_parser
from bcfusion.commands.shared.computing import add_device_option, device_of
from bcfusion.commands.shared.model_choice import MODEL_HELP, add_trust_option, chosen_model
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.contracts import SPLITS, UNKNOWN_SPEAKER
from bcfusion.errors import DataError
from bcfusion.startup import loading

if TYPE_CHECKING:
    from bcfusion.contracts import Corpus, Row

HELP = """\
Adapt a trained network to a sensor by simultaneous recordings of it and of an air microphone: 10 seconds to 10
minutes, best several recordings of several wearers. At most four folds of the recordings decide how many steps of
training help recordings that were not trained on; the bundle that is written is trained on all of them for as long,
or is the start, unchanged, where nothing helps (but for --fresh). report.md says which, and what is gained.

examples:
  bcfusion adapt RUN --body recordings/throat --air recordings/air --output adapted
  bcfusion adapt throat --body recordings/throat --air recordings/air --output adapted    # a model by its name
  bcfusion adapt RUN --pairs pairs.jsonl --output adapted --minutes 10
  bcfusion adapt RUN --pairs pairs.jsonl --speech /data/speech --output adapted
  bcfusion adapt RUN --pairs pairs.jsonl --fresh --output adapted
  bcfusion enhance adapted recordings/throat --output restored

Lag and polarity are measured and undone. Pairs that do not belong together are refused, a line for each. --speech
adds clean speech through a simulation of the sensor, which is calibrated on the pairs that are trained on. --fresh
starts from random weights of the same network, which are kept whether or not they are better. --steps instead of
--minutes gives the same result each time.
"""

_ANY_SHARE = 1.0  # of the files may be unreadable: a warning names them, and what is left decides
MOST_SPEECH = 2000  #: recordings of --speech; an adaptation has no time for more


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: the model cannot be loaded, the pairs do not suffice, the time is too short, or the output cannot
            be written.
    """
    started = time.monotonic()
    parser = _parser()
    arguments = parser.parse_args(argv)
    folders = [folder is not None for folder in (arguments.body, arguments.air)]
    if not (all(folders) if arguments.pairs is None else not any(folders)):
        parser.error("give --pairs MANIFEST, or --body DIR and --air DIR")
    if arguments.steps is not None and arguments.minutes is not None:
        parser.error("give --minutes or --steps, not both")
    if arguments.share is not None and arguments.speech is None:
        parser.error("--share is the share of --speech, which is not given")

    with loading():
        from bcfusion.adaptation.adapt import Settings, adapt
        from bcfusion.adaptation.report import check_output, report_text, unused, write_adaptation

    make_cwd_importable()  # for a network of the user's own
    model = chosen_model(arguments.model, trust_code=arguments.trust_code)
    check_output(arguments.output, arguments.overwrite)
    pairs = _pairs(arguments)
    speech = [] if arguments.speech is None else _speech(arguments.speech)
    settings = Settings(
        minutes=5.0 if arguments.minutes is None else arguments.minutes,
        steps=arguments.steps,
        fresh=arguments.fresh,
        share=0.5 if arguments.share is None else arguments.share,
        lr=arguments.lr,
        seed=arguments.seed,
    )
    try:
        adaptation = adapt(
            model,
            pairs,
            settings,
            speech,
            device_of(arguments.device),
            started=started,
            trust_code=arguments.trust_code,
        )
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        raise
    output = arguments.output
    try:
        check_output(output, arguments.overwrite)
    except DataError as error:  # another process has written it since, whose work is worth as much
        output = unused(output)
        print(f"{error}\nthis adaptation is in {output}", file=sys.stderr)
    write_adaptation(adaptation, output)
    print(f"\n{report_text(adaptation)}")
    print(f"{output}: bcfusion enhance {shlex.quote(str(output))} RECORDINGS --output restored")
    if settings.steps is None:
        print(f"the same again: --steps {adaptation.tried} --seed {settings.seed} in place of --minutes")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("adapt", HELP)
    parser.add_argument("model", metavar="MODEL", help=f"to start from: {MODEL_HELP}")
    add_trust_option(parser)
    parser.add_argument("--pairs", metavar="MANIFEST", type=path, help="manifest with air and the network's sensors")
    parser.add_argument("--body", metavar="DIR", help="folder of the sensor's recordings, matched with --air by name")
    parser.add_argument("--air", metavar="DIR", help="folder of the air microphone's recordings")
    parser.add_argument("--output", metavar="DIR", type=path, required=True, help="folder of the bundle to write")
    parser.add_argument("--split", choices=(*SPLITS, "all"), default="all", help="of the manifest; default: all")
    parser.add_argument("--minutes", metavar="N", type=positive_number, help="time for everything; default: 5")
    parser.add_argument("--steps", metavar="N", type=positive_int, help="steps in each fold, however long they take")
    parser.add_argument("--fresh", action="store_true", help="start from random weights of the same network")
    parser.add_argument(
        "--speech", metavar="PATH", type=path, help="folder or manifest of clean speech, to simulate the sensor on"
    )
    parser.add_argument("--share", metavar="S", type=between(0, 0.95), help="of the crops from --speech; default: 0.5")
    parser.add_argument("--lr", metavar="LR", type=positive_number, default=1e-3, help="learning rate; default: 1e-3")
    parser.add_argument("--seed", metavar="N", type=between(0, 2**32 - 1, int), default=0, help="default: 0")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier adaptation in --output")
    add_device_option(parser)
    return parser


def _pairs(arguments: argparse.Namespace) -> list[Row]:
    from bcfusion.data.corpora.listing import ManifestCorpus
    from bcfusion.data.corpora.pairs import PairsCorpus
    from bcfusion.files import on_disk
    from bcfusion.nearest import nearest_path

    corpus: Corpus
    if arguments.pairs is not None:
        corpus, where = ManifestCorpus(str(arguments.pairs), _ANY_SHARE), str(arguments.pairs)
    else:
        folders = {"--body": on_disk(arguments.body), "--air": on_disk(arguments.air)}
        missing = [
            f"{option}: no such folder: {folder}{nearest_path(folder.absolute())}"
            for option, folder in folders.items()
            if not folder.is_dir()
        ]
        if missing:
            raise DataError("\n".join(missing))
        # pairs of different length are named with the others that are refused
        corpus = PairsCorpus(arguments.body, arguments.air, max_unreadable_share=_ANY_SHARE)
        where = f"{arguments.body} and {arguments.air}"
    splits = SPLITS if arguments.split == "all" else (arguments.split,)
    rows = [row for split in splits for row in corpus.rows(split)]
    if not rows:
        split = "" if arguments.split == "all" else f" in split {arguments.split}"
        raise DataError(f"{where}: no pair of recordings{split}")
    return rows


def _speech(source: Path) -> list[Row]:
    """Return the recordings of clean speech in a manifest or anywhere below a folder; of a corpus those to train on."""
    from bcfusion import audio
    from bcfusion.contracts import Row
    from bcfusion.data.corpora.folder import FolderCorpus
    from bcfusion.data.corpora.headers import read_headers
    from bcfusion.data.corpora.listing import ManifestCorpus
    from bcfusion.data.loading.rows import spread
    from bcfusion.files import name_below, on_disk
    from bcfusion.nearest import nearest_path

    rows: Sequence[Row]
    source = on_disk(source)
    if not source.exists():
        raise DataError(f"--speech {source}: no such folder or manifest{nearest_path(source.absolute())}")
    if source.is_dir() and (source / "train").is_dir():
        rows = FolderCorpus(str(source), max_unreadable_share=_ANY_SHARE).rows("train")
    elif source.is_dir():
        files = list(audio.walk(source))
        headers = read_headers(files, _ANY_SHARE, str(source))
        rows = [
            Row(
                id=name_below(source, file),
                paths={"air": str(file)},
                speaker=file.parent.name if file.parent != source else UNKNOWN_SPEAKER,
                split="train",
                sample_rate=found.sample_rate,
                duration=found.duration,
            )
            for file, found in headers.items()
        ]
    else:
        corpus = ManifestCorpus(str(source), _ANY_SHARE)
        rows = corpus.rows("train") or [row for split in SPLITS for row in corpus.rows(split)]
    if not rows:
        raise DataError(f"--speech {source}: no recordings")
    return [replace(row, paths={"air": row.paths["air"]}) for row in spread(rows, MOST_SPEECH)]


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
