"""``bcfusion push``: upload a model to the Hugging Face hub."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import path, verb_parser
from bcfusion.commands.shared.model_choice import MODEL_HELP, add_trust_option, chosen_model
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.errors import CheckpointError
from bcfusion.run.fetching import parse_reference

if TYPE_CHECKING:
    from bcfusion.hub.package import Package

HELP = """\
Upload a model to the Hugging Face hub in one commit: the bundle, an ONNX file (a streaming step of a causal network,
else a graph for whole files, compared with the network), the scores of the run, and a model card made from what the run
records: task, data and licences, scores with intervals, latency, size, how to use it. Needs pip install 'bcfusion[hub]'
and a token that may write.

What belongs to this machine (paths, folders, budgets, names of recordings) is not uploaded. Data, licences and limits
are those of a card.yaml beside the model; the card says what is not known.

examples:
  bcfusion push RUN me/seanet-throat --dry-run out                  # write what would be uploaded, and stop
  bcfusion push RUN me/seanet-throat --licence cc-by-4.0
  bcfusion push models/helmet team/helmet --private --message "Trained with wind noise"
  bcfusion push throat me/throat --revision v2 --no-onnx

then: bcfusion enhance hf:me/seanet-throat RECORDINGS --output ENHANCED
"""


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: the model cannot be loaded, would tell what belongs to this machine, or the hub refuses it.
    """
    arguments = _parser().parse_args(argv)
    reference = parse_reference(arguments.repository)
    if reference is None or reference.revision is not None:
        raise CheckpointError(f"{arguments.repository} names no repository: write OWNER/NAME; a branch is --revision")
    if arguments.dry_run is not None:
        _require_new_folder(arguments.dry_run)
    from bcfusion.hub.upload import check_login, upload

    # before the work: an upload that cannot succeed is not prepared
    api = check_login(reference.name) if arguments.dry_run is None else None
    make_cwd_importable()  # for a network of the user's own
    model = chosen_model(arguments.model, trust_code=arguments.trust_code)

    from bcfusion.hub.package import write_package

    with cleaning_up_when_ended(), tempfile.TemporaryDirectory(prefix="bcfusion-push-") as scratch:
        folder = arguments.dry_run or Path(scratch) / "package"
        package = write_package(
            model,
            folder,
            reference.name,
            onnx=not arguments.no_onnx,
            licence=arguments.licence,
            trust_code=arguments.trust_code,
        )
        print("\n".join(_lines(package, reference.name)), flush=True)
        if api is None:
            print(f"{folder}: this would be uploaded; nothing was")
            return 0
        done = upload(
            api,
            package,
            reference.name,
            private=arguments.private,
            revision=arguments.revision,
            message=arguments.message or _message(package),
        )
    for name in done.removed:
        print(f"  {name} of an earlier model is deleted")
    print(f"{done.address}\nrevision {done.revision}")
    at = f"@{arguments.revision}" if arguments.revision else ""
    print(f"next: bcfusion enhance hf:{reference.name}{at} RECORDINGS --output ENHANCED")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("push", HELP)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("repository", metavar="OWNER/NAME", help="of the hub; it is made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the repository for its members only")
    parser.add_argument("--revision", metavar="BRANCH", help="upload to this branch; default: main")
    parser.add_argument("--message", metavar="TEXT", help="of the commit; default: what was trained, and how long")
    parser.add_argument("--no-onnx", action="store_true", help="leave the ONNX file out")
    parser.add_argument(
        "--licence",
        "--license",
        metavar="ID",
        type=_licence,
        help="of the weights, as the hub calls it: mit, cc-by-4.0, ...; default: that of the model's card.yaml",
    )
    parser.add_argument("--dry-run", metavar="DIR", type=path, help="write what would be uploaded into DIR, and stop")
    add_trust_option(parser)
    return parser


def _licence(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(f"{text} is no identifier of the hub: small letters, as in cc-by-4.0")
    return text


def _require_new_folder(folder: Path) -> None:
    """Refuse a folder that holds anything: a model in it would be replaced by its copy for the hub."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty: give a new folder to --dry-run")


def _lines(package: Package, repository: str) -> list[str]:
    sizes = {name: (package.folder / name).stat().st_size for name in package.files}
    lines = [f"{repository}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB"]
    lines += [f"  {name:<26}{size / 1e3:>10.1f} kB" for name, size in sizes.items()]
    return [*lines, *(f"note: {note}" for note in package.notes)]


def _message(package: Package) -> str:
    training = package.facts.bundle.training
    known = [str(training[key]) for key in ("recipe", "experiment") if training.get(key)]
    known += [f"step {training['step']}"] if training.get("step") is not None else []
    return f"{package.facts.network}{': ' if known else ''}{', '.join(known)}"


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
