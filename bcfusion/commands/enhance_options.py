"""The options of ``bcfusion enhance``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bcfusion.commands.shared.arguments import VerbParser, path, positive_int, positive_number, verb_parser
from bcfusion.commands.shared.blending import add_blend_options
from bcfusion.commands.shared.channels import add_channels_option
from bcfusion.commands.shared.computing import add_device_option
from bcfusion.commands.shared.model_choice import MODEL_HELP, add_steps_option, add_trust_option
from bcfusion.errors import AudioError

__all__ = ["STANDARD", "enhance_parser", "is_piped", "parse_sensors"]

STANDARD = "-"  #: the standard input, and the standard output
RAW_FORMATS = ("s16le", "s24le", "s32le", "f32le", "wav")


def enhance_parser(text: str) -> VerbParser:
    """Return the parser; ``text`` is the help of the verb."""
    parser = verb_parser("enhance", text)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_trust_option(parser)
    add_steps_option(parser)
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="*", help="sound files, folders, quoted globs; - is raw PCM from the stdin"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=path,
        default=Path("enhanced"),
        help="folder to write to, or - for raw PCM to the stdout; default: ./enhanced",
    )
    parser.add_argument("--suffix", metavar="TEXT", default="", help="appended to each name, such as _enhanced")
    parser.add_argument(
        "--sensor",
        metavar="NAME=DIR",
        action="append",
        default=[],
        help="folder (or file) of one sensor; once for each",
    )
    add_channels_option(parser)
    add_blend_options(parser)
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="of the output: wav, flac, ogg, opus, mp3, w64, rf64, aiff, caf and all others that libsndfile writes; "
        "default: wav",
    )
    parser.add_argument(
        "--subtype",
        metavar="NAME",
        help="sample format of the output, as soundfile names it: PCM_16, PCM_24, PCM_32, FLOAT, ...; default: the "
        "usual one of the format, PCM_16 for wav",
    )
    parser.add_argument(
        "--peak",
        choices=("keep", "scale", "limit", "clip"),
        help="what is done to samples beyond full scale, which no integer can hold: keep them (FLOAT and DOUBLE), "
        "scale the whole file down, limit their surroundings by a smooth gain, clip them; default: keep if "
        "possible, else scale (limit in a pipe)",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=path,
        help="append a row for each recording to a .jsonl or .csv file: seconds, peak, gain, real-time factor, "
        "error, ...",
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be read and written, and stop")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs, and a report, that exist")
    parser.add_argument("--no-resample", action="store_true", help="refuse recordings whose rate is not the network's")
    parser.add_argument(
        "--chunk", metavar="SECONDS", type=positive_number, default=10.0, help="length computed at once; default: 10"
    )
    parser.add_argument(
        "--batch",
        metavar="N",
        type=positive_int,
        help="recordings shorter than --chunk that are computed at once; default: 1; a GPU is faster with more",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the network's products; bf16 is faster on many GPUs and has 8 bits of mantissa; default: fp32",
    )
    add_device_option(parser)
    pipe = parser.add_argument_group("raw PCM, as in bcfusion enhance MODEL - --output -")
    pipe.add_argument(
        "--raw-format",
        choices=RAW_FORMATS,
        help="of both sides; wav has a header, which gives rate and channels; default: s16le",
    )
    pipe.add_argument(
        "--raw-rate", metavar="HZ", type=positive_int, help="of the input; default: the network's, which the output has"
    )
    pipe.add_argument(
        "--raw-channels",
        metavar="N",
        type=positive_int,
        help="interleaved in the input; default: one for each sensor, or as many as --channels names",
    )
    return parser


def is_piped(arguments: argparse.Namespace) -> bool:
    """Return whether raw PCM is read from the standard input and written to the standard output.

    Raises:
        AudioError: only the input or only the output is ``-``, or other inputs are given too.
    """
    reads, writes = STANDARD in arguments.inputs, str(arguments.output) == STANDARD
    if not reads and not writes:
        for option in ("raw_format", "raw_rate", "raw_channels"):
            if getattr(arguments, option):
                raise AudioError(f"--{option.replace('_', '-')} is for raw PCM in a pipe, - --output -: leave it out")
        return False
    if not (reads and writes and len(arguments.inputs) == 1):
        raise AudioError("raw PCM goes from the standard input to the standard output, by itself: give - --output -")
    for option in ("sensor", "suffix", "dry_run", "report", "subtype", "format", "batch", "overwrite", "no_resample"):
        if getattr(arguments, option):
            raise AudioError(f"--{option.replace('_', '-')} is for files, not for raw PCM in a pipe: leave it out")
    if arguments.raw_format == "wav" and (arguments.raw_rate or arguments.raw_channels):
        raise AudioError(
            "--raw-format wav: its header gives rate and channels; leave out --raw-rate and --raw-channels"
        )
    return True


def parse_sensors(given: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each sensor from the values of ``--sensor``.

    Raises:
        AudioError: one is not NAME=FOLDER, or a sensor is given twice.
    """
    sensors: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in sensors:
            raise AudioError(f"--sensor {text}: give NAME=FOLDER, once for each sensor of the network")
        sensors[name] = path(folder)
    return sensors
