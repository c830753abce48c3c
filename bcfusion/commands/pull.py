"""``bcfusion pull``: bring a model of the Hugging Face hub into a folder."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import path, verb_parser
from bcfusion.commands.shared.model_choice import add_trust_option
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.run.models import HUB, require_reference

HELP = """\
Bring the bundle of a model on the Hugging Face hub, and its card.yaml, into a folder, whole or not at all.
It is checked before: it names no code but that of bcfusion's networks, and its files can be read. Needs pip install
'bcfusion[hub]'. No folder is needed to use a model: hf:OWNER/NAME stands wherever a MODEL is taken.

examples:
  bcfusion pull me/seanet-throat                                    # to ./seanet-throat
  bcfusion pull me/seanet-throat@v2 --output models/throat_v2
  bcfusion pull team/helmet --output models/helmet --overwrite      # private: after hf auth login, or with HF_TOKEN

then: bcfusion enhance models/helmet RECORDINGS --output ENHANCED
"""


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: the model cannot be fetched, is damaged, names other code, or cannot be written.
    """
    arguments = _parser().parse_args(argv)
    reference = arguments.repository.removeprefix(HUB)
    output = arguments.output or Path(require_reference(reference).name.partition("/")[2])
    from bcfusion.hub.pull import pull

    make_cwd_importable()  # for a network of the user's own
    with cleaning_up_when_ended():
        fetched = pull(reference, output, overwrite=arguments.overwrite, trust_code=arguments.trust_code)
    if fetched.offline:
        print(f"from the cache: {fetched.offline}")
    print(f"{output}: {fetched.repository}, revision {fetched.revision}")
    print(f"next: bcfusion enhance {shlex.quote(str(output))} RECORDINGS --output ENHANCED")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("pull", HELP)
    parser.add_argument("repository", metavar="OWNER/NAME[@REVISION]", help="of the hub; a branch, tag or commit of it")
    parser.add_argument("--output", metavar="DIR", type=path, help="the folder to write; default: ./NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier model in DIR")
    add_trust_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
