"""``bcfusion import``: make a bundle of a public checkpoint of another project."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import between, path, verb_parser
from bcfusion.importing.source import source_names, summary_of

if TYPE_CHECKING:
    from bcfusion.importing.bundle import Imported

HELP = f"""\
Make a bundle of a public checkpoint: it computes what the public program computes, and works wherever a MODEL is taken,
to evaluate, enhance, listen, compare and adapt, and as init_from of a training. A card beside it states origin, licence
and training data; bcfusion models prints it.

The checkpoint is a file, a folder, or a repository of the Hugging Face hub, OWNER/NAME or OWNER/NAME@REVISION, which
needs pip install 'bcfusion[hub]' and a network connection. Files are read without running any code in them.

sources:
{chr(10).join(f"  {name:<14}{summary_of(name)}" for name in source_names())}

examples:
  bcfusion import eben Cnam-LMSSC/EBEN_throat_microphone --output models/eben_throat
  bcfusion import eben EBEN_temple/ --discriminators DiscriminatorEBENMultiScales_temple/ --output models/eben_temple
  bcfusion import conv_tasnet pytorch_model.bin --source-index 0 --output models/speaker_1
  bcfusion import ap_bwe checkpoints/AP-BWE_4kto16k/g_4kto16k --output models/bwe_4k    # with config.json beside it

then: bcfusion enhance models/eben_throat RECORDINGS --output ENHANCED
"""


def main(argv: list[str]) -> None:
    """Run the verb.

    Raises:
        BcfusionError: there is no such source or checkpoint, it cannot be imported or fetched, or not be written.
    """
    arguments = _parser().parse_args(argv)
    from bcfusion.importing.bundle import import_model

    imported = import_model(
        arguments.source,
        arguments.checkpoint,
        arguments.output,
        sensor=arguments.sensor,
        recipe=arguments.recipe,
        source_index=arguments.source_index,
        discriminators=arguments.discriminators,
        overwrite=arguments.overwrite,
    )
    print(f"{imported.folder}: {imported.card.summary}")
    print(f"licence of the weights: {imported.card.licence}")
    for note in imported.card.notes:
        print(note)
    print(f"next: bcfusion enhance {shlex.quote(str(imported.folder))} RECORDINGS --output ENHANCED")
    print(f"train from it: {_training(imported)}")


def _parser() -> argparse.ArgumentParser:
    from bcfusion.configuration.paths import group_members

    parser = verb_parser("import", HELP)
    parser.add_argument("source", metavar="SOURCE", help="one of those above")
    parser.add_argument("checkpoint", metavar="FILE_OR_REPO", help="file, folder, or OWNER/NAME of the hub")
    parser.add_argument("--output", metavar="DIR", type=path, required=True, help="the bundle to write")
    parser.add_argument("--sensor", metavar="NAME", help="name of the network's input; default: that of the recipe")
    parser.add_argument(
        "--recipe",
        choices=group_members("recipe"),
        metavar="NAME",
        help="that it is evaluated with; default: that of the source",
    )
    parser.add_argument(
        "--discriminators", metavar="FILE_OR_REPO", help="their checkpoint, for init_discriminators=true; of eben"
    )
    parser.add_argument(
        "--source-index",
        metavar="N",
        type=between(0, 99, int),
        help="which output of a network that separates several sources, from 0",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier bundle in DIR")
    return parser


def _training(imported: Imported) -> str:
    """Return the command that trains from the bundle, with the overrides that make the networks the same."""
    from bcfusion.importing.training import overrides_to_train

    words: list[Any] = ["bcfusion", "train", *overrides_to_train(imported), f"init_from={_place(imported.folder)}"]
    if imported.discriminators:
        words.append("init_discriminators=true")
    return shlex.join(map(str, words))


def _place(folder: Path) -> str:
    """Return a folder as init_from takes it: one with a single part would be the name of a model."""
    return str(folder) if len(folder.parts) > 1 else f"./{folder}"


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
