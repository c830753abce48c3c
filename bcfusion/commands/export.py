"""``bcfusion export``: a trained network as a file for other runtimes."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import path, positive_int, verb_parser
from bcfusion.commands.shared.blending import add_blend_options, share_of
from bcfusion.commands.shared.model_choice import MODEL_HELP, add_steps_option, add_trust_option, chosen_model
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.errors import ExportError
from bcfusion.run.models import model_name
from bcfusion.startup import loading

if TYPE_CHECKING:
    from bcfusion.export.writing import Exported

HELP = """\
Write a trained network as one ONNX file that needs neither torch nor bcfusion: STFT, state and look-ahead are part of
the graph, and what a program has to know (rate, frame, sensors, state, licences) is in its metadata.
A causal network becomes a step of a stream, any network becomes a graph for whole files with --whole.
The file appears only after it has been compared with the network, in onnxruntime. Needs pip install 'bcfusion[onnx]'.

examples:
  bcfusion export throat_causal                                   # a model by its name, to ./throat_causal.onnx
  bcfusion export RUN --output model.onnx
  bcfusion export RUN --pack --frame 512 --sidecar                # one vector of state; two hops of 256 at a time
  bcfusion export throat --whole --output throat.onnx             # x (1, sensors, T) to y (1, 1, T), any T
  bcfusion export RUN --precision int8 --output small.onnx
  bcfusion export RUN --limit-db 12                               # at most 12 dB of attenuation, as part of the graph
  bcfusion export throat_causal --runtime sherpa-onnx             # for the denoiser of the stock package sherpa-onnx
  bcfusion export RUN --format torch --output model.pt2           # a program of torch.export
  bcfusion export RUN --check recording.wav                       # compare on your own recording
  bcfusion export RUN --check recording.wav --reference clean.wav  # PESQ and STOI against the clean speech
"""

NAMES = {"pesq_wb": "PESQ", "pesq_nb": "PESQ (narrow-band)", "stoi": "STOI"}


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: there is no model, it cannot be exported as wished, or the file does not do what it does.
    """
    from bcfusion.export.metadata import sidecar_of

    parser = _parser()
    arguments = parser.parse_args(argv)
    suffix = ".onnx" if arguments.format == "onnx" else ".pt2"
    target = arguments.output or Path(model_name(arguments.model) + suffix)  # a dot may be part of the name
    if target.suffix.lower() != suffix:
        parser.error(f"--output {target}: the name of this format ends in {suffix}")
    if arguments.reference and not arguments.check:
        parser.error("--reference is the clean speech of a recording: give --check, too")
    for file in (target, sidecar_of(target))[: 1 + arguments.sidecar]:
        if os.path.exists(file) and not arguments.overwrite:
            raise ExportError(f"{file} exists: give another --output, or --overwrite")
    with cleaning_up_when_ended():
        return _export(arguments, target)


def _export(arguments: argparse.Namespace, target: Path) -> int:
    make_cwd_importable()  # for a network of the user's own
    model = chosen_model(arguments.model, trust_code=arguments.trust_code)

    with loading():
        from bcfusion.export.verification import check_reference, check_signal
        from bcfusion.export.writing import Wishes, export_file
        from bcfusion.run.bundle import in_steps, load_generator
        from bcfusion.run.card import CARD, read_card

    wishes = Wishes(
        format=arguments.format,
        runtime=arguments.runtime,
        whole=arguments.whole,
        frame=arguments.frame,
        packed=arguments.pack,
        share=share_of(arguments),
        precision=arguments.precision,
        opset=arguments.opset,
    )
    generator = in_steps(load_generator(model, trust_code=arguments.trust_code), arguments.steps)
    signal = clean = None
    if arguments.check:
        signal = check_signal(arguments.check, generator)
        if arguments.reference:
            clean = check_reference(arguments.reference, generator, signal.shape[-1])
    card = read_card(model / CARD)
    exported = export_file(generator, target, wishes, signal=signal, clean=clean, card=card, sidecar=arguments.sidecar)
    print("\n".join(_lines(exported, arguments.check, arguments.reference)))
    if exported.gains_nothing:
        print(
            f"warning: {arguments.precision} makes this file neither smaller nor faster: most of it is filters of "
            "transforms, which stay float32; --precision fp32 loses nothing",
            file=sys.stderr,
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    from bcfusion.export.metadata import OPSET

    parser = verb_parser("export", HELP)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_trust_option(parser)
    add_steps_option(parser)
    parser.add_argument("--output", metavar="FILE", type=path, help="file to write; default: ./NAME-OF-MODEL.onnx")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--whole", action="store_true", help="a graph for whole files, for networks of any kind")
    parser.add_argument(
        "--runtime",
        choices=("onnxruntime", "sherpa-onnx"),
        default="onnxruntime",
        help="sherpa-onnx: a mono network for its speech denoiser; default: onnxruntime",
    )
    parser.add_argument(
        "--frame",
        metavar="SAMPLES",
        type=positive_int,
        help="of a step, a multiple of the network's hop; default: the shortest of at least 8 ms (sherpa-onnx: 5), or "
        "what the network declares",
    )
    parser.add_argument("--pack", action="store_true", help="the whole state as one vector, state and state.next")
    add_blend_options(parser)
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the weights; signals and states are always float32; default: fp32",
    )
    parser.add_argument(
        "--format", choices=("onnx", "torch"), default="onnx", help="torch: a .pt2 of torch.export; default: onnx"
    )
    parser.add_argument("--opset", metavar="N", type=positive_int, default=OPSET, help=f"of ONNX; default: {OPSET}")
    parser.add_argument("--sidecar", action="store_true", help="write the metadata as JSON beside the file, too")
    parser.add_argument("--check", metavar="FILE", type=path, help="recording to compare on, a channel for each sensor")
    parser.add_argument(
        "--reference",
        metavar="FILE",
        type=path,
        help="clean speech of --check, mono and aligned, for PESQ and STOI; default: the network's own output",
    )
    return parser


def _lines(exported: Exported, recording: Path | None, reference: Path | None) -> list[str]:
    """Return the report."""
    metadata, verified = exported.metadata, exported.verified
    from bcfusion.report.table import size_text

    size = size_text(exported.size)
    if exported.float32 is not None:
        size += f" (fp32: {size_text(exported.float32[0])})"
    sensors = " + ".join(metadata.sensors)
    lines = [f"{exported.file}: {metadata.network}, {metadata.precision}, {size}"]
    if metadata.kind == "sherpa-onnx":
        lines.append(
            f"  for the speech denoiser of sherpa-onnx (model type gtcrn), {metadata.sample_rate} Hz in hops of "
            f"{metadata.frame}; late by {metadata.lookahead} samples beside the hop"
        )
    elif metadata.kind == "stream":
        values = sum(math.prod(state.shape) for state in metadata.states)
        lines.append(
            f"  takes {sensors} at {metadata.sample_rate} Hz in frames of {metadata.frame}, and {len(metadata.states)} "
            f"states of {values} values; late by {metadata.lookahead} samples beside the frame"
        )
    else:
        lines.append(f"  takes {sensors} at {metadata.sample_rate} Hz, files of any length")
    compared = str(recording) if recording else "synthetic speech"
    runtime = "onnxruntime" if exported.file.suffix.lower() == ".onnx" else "torch"
    lines.append(f"  compared with the network on noise and {compared}: differs by {verified.difference:.1e} at most")
    if verified.reference == "network":
        compared = "the network's own output"
    else:
        compared = str(reference) if reference else "the speech itself"
    lines += [
        f"  {NAMES[name]} of the network {own:.3f}, of the file {verified.scores[name]:.3f}, loss "
        f"{round(own - verified.scores[name], 3) + 0.0:.3f}; the reference is {compared}"  # no loss of -0.000
        for name, own in verified.own_scores.items()
    ]
    lines += [f"  {NAMES[name]} is not measured: {reason}" for name, reason in verified.unscored.items()]
    speed = f"{verified.real_time_factor:.3f}"
    if exported.float32 is not None:
        speed += f" (fp32: {exported.float32[1]:.3f})"
    lines.append(f"  real-time factor {speed} in {runtime}, on one thread of this machine")
    return lines


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
