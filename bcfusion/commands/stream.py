"""``bcfusion stream``: live sound through a trained network, by a sound card or by a clock."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.commands import USER_ERROR, exit_status
from bcfusion.commands.shared.arguments import path, positive_int, positive_number, verb_parser
from bcfusion.commands.shared.blending import add_blend_options, share_of
from bcfusion.commands.shared.channels import add_channels_option, parse_channels
from bcfusion.commands.shared.model_choice import MODEL_HELP, add_steps_option, add_trust_option, chosen_model
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.commands.shared.restored import SHORTEST_CUT, peak_warning
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.errors import AudioError
from bcfusion.startup import loading

if TYPE_CHECKING:
    from bcfusion.inference.inputs import Signal
    from bcfusion.inference.stepping import Frames, Stepper
    from bcfusion.live.status import StatusLine

HELP = """\
Restore sound while it is heard: the channels of a sound card go through a causal network to its output. A line shows
latency, load, losses and levels; Ctrl-C ends it with a summary. Wear headphones: microphones hear a loudspeaker.
With --file, a clock takes the place of the sound card: the file is restored at the pace at which it would be heard.

examples:
  bcfusion stream --list-devices
  bcfusion stream throat_causal                                   # the default devices
  bcfusion stream throat_causal --input-device 3 --output-device Headphones --channels 2
  bcfusion stream RUN --channels body=1,noisy=2 --record sessions # keep what was heard and what was played
  bcfusion stream model.onnx                                      # a file that bcfusion export wrote
  bcfusion stream throat_causal --file throat.wav --output restored.wav
  bcfusion stream RUN --file throat.wav,mic.wav --output restored.wav --no-pace --json

Sound cards need pip install 'bcfusion[live]' and PortAudio (apt-get install libportaudio2); --file needs neither.
"""

WITHOUT_CARD = "--file needs no sound card"


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: the model is missing or cannot stream, a sound card fails, or a file cannot be read or written.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.list_devices:
        from bcfusion.live.device import device_lines

        print("\n".join(device_lines(WITHOUT_CARD)))
        return 0
    _check_usage(parser, arguments)
    share_of(arguments)
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):  # notes; JSON is alone there
        if arguments.file is None:
            from bcfusion.live.device import find_card

            for kind, given in (("input", arguments.input_device), ("output", arguments.output_device)):
                find_card(given, kind, 1, WITHOUT_CARD)  # before the model is loaded
        else:
            _check_output(arguments)
        make_cwd_importable()  # for a network of the user's own
        stepper = _stepper(arguments)
    with closing(stepper):
        return _play_file(stepper, arguments) if arguments.file else _play_card(stepper, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("stream", HELP)
    parser.add_argument("model", metavar="MODEL", nargs="?", help=f"exported .onnx, {MODEL_HELP}")
    add_trust_option(parser)
    add_steps_option(parser)
    card = parser.add_argument_group("sound card")
    card.add_argument("--list-devices", action="store_true", help="list the sound devices, and stop")
    card.add_argument("--input-device", metavar="DEVICE", help="number or part of the name; default: the system's")
    card.add_argument("--output-device", metavar="DEVICE", help="number or part of the name; default: the system's")
    add_channels_option(parser)
    card.add_argument("--record", metavar="DIR", type=path, help="write heard-TIME.wav and played-TIME.wav there")
    card.add_argument("--seconds", metavar="N", type=positive_number, help="end after N seconds; default: at Ctrl-C")
    card.add_argument("--latency", choices=("low", "high"), help="of the sound card's own buffers; default: low")
    file = parser.add_argument_group("file")
    file.add_argument(
        "--file", metavar="IN", help="in place of a sound card: a file with a channel for each sensor, or FILE,FILE"
    )
    file.add_argument(
        "--output", metavar="OUT", type=path, help="with --file: what to write, in the format of its name"
    )
    file.add_argument("--no-pace", action="store_true", help="as fast as possible, and report the real-time factor")
    file.add_argument("--subtype", metavar="NAME", help="sample format of OUT; default: the usual one, PCM_16 for .wav")
    file.add_argument(
        "--peak",
        choices=("keep", "scale", "limit", "clip"),
        help="what is done to samples beyond full scale; default: keep if the format can, else scale the whole file",
    )
    file.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--frame",
        metavar="SAMPLES",
        type=positive_int,
        help="that are computed at once, a multiple of the network's hop; default: the shortest of at least 8 ms",
    )
    parser.add_argument(
        "--buffers",
        metavar="N",
        type=positive_int,
        default=2,
        help="frames that wait to be played, the one that is computed included; more is later and safer; default: 2",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "onnx", "torch"),
        default="auto",
        help="what computes; default: onnx where it is installed and can do it, else torch",
    )
    parser.add_argument("--threads", metavar="N", type=positive_int, default=1, help="that compute; default: 1")
    add_blend_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON; all else goes to stderr")
    return parser


def _check_usage(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.model is None:
        parser.error("give a MODEL; bcfusion models lists those that have a name")
    given = {name for name in ("output", "no_pace", "subtype", "peak", "overwrite") if getattr(arguments, name)}
    if arguments.file is None and given:
        options = " and ".join("--" + name.replace("_", "-") for name in sorted(given))
        parser.error(f"{options} {'are' if len(given) > 1 else 'is'} for --file IN, which is not given")
    if arguments.file is not None and arguments.output is None:
        parser.error("--file IN needs --output OUT")
    live = [
        name for name in ("input_device", "output_device", "latency", "record", "seconds") if getattr(arguments, name)
    ]
    if arguments.file is not None and live:
        parser.error(f"--{live[0].replace('_', '-')} is for a sound card, and --file takes its place: give one of them")


def _stepper(arguments: argparse.Namespace) -> Stepper:
    given = Path(arguments.model)
    model = given if given.suffix.lower() == ".onnx" else chosen_model(arguments.model, trust_code=arguments.trust_code)

    with loading():
        from bcfusion.live.steppers import open_stepper

    return open_stepper(
        model,
        arguments.backend,
        arguments.frame,
        arguments.strength,
        arguments.limit_db,
        arguments.threads,
        lambda text: print(text, file=sys.stderr, flush=True),
        trust_code=arguments.trust_code,
        steps=arguments.steps,
    )


def _check_output(arguments: argparse.Namespace) -> None:
    from bcfusion.inference.containers import format_of_name
    from bcfusion.inference.writing import check_peak

    check_peak(arguments.peak, format_of_name(arguments.output, arguments.subtype))
    if os.path.exists(arguments.output) and not arguments.overwrite:
        raise AudioError(f"{arguments.output} exists: give another --output, or --overwrite to replace it")


def _columns(stepper: Stepper, arguments: argparse.Namespace) -> list[int]:
    if arguments.channels is None:
        return list(range(len(stepper.sensors)))
    return parse_channels(arguments.channels, stepper.sensors)


@contextmanager
def _status() -> Iterator[StatusLine]:
    from bcfusion.live.status import StatusLine

    line = StatusLine(sys.stderr, lambda: shutil.get_terminal_size().columns)
    try:
        yield line
    finally:
        line.close()


# ---------------------------------------------------------------- sound card


def _play_card(stepper: Stepper, arguments: argparse.Namespace) -> int:
    from bcfusion.live.device import SoundCard, common_rate, find_card
    from bcfusion.live.engine import Engine
    from bcfusion.live.status import plain, status_line, summary_lines
    from bcfusion.live.streaming import run_stream, undisturbed, until_stopped
    from bcfusion.live.tape import Tape

    columns = _columns(stepper, arguments)
    source = find_card(arguments.input_device, "input", max(columns) + 1)
    sink = find_card(arguments.output_device, "output", 1)
    rate = common_rate(stepper.sample_rate, source, max(columns) + 1, sink, min(2, sink.channels))
    with ExitStack() as stack:
        stop = stack.enter_context(until_stopped())
        stack.enter_context(undisturbed())
        tape = stack.enter_context(Tape(arguments.record, rate, columns)) if arguments.record else None
        engine = stack.enter_context(Engine(stepper, rate, arguments.buffers, columns, tape=tape))
        line = stack.enter_context(_status())
        card = stack.enter_context(SoundCard(engine, source, sink, arguments.latency or "low"))
        heard = ", ".join(f"{name} {column + 1}" for name, column in zip(stepper.sensors, columns, strict=True))
        resampled = "" if rate == stepper.sample_rate else f", resampled from and to {rate} Hz"
        print(
            f"{source} to {sink}; channels: {heard}; {stepper.sample_rate} Hz{resampled}, frames of {stepper.frame} "
            "samples; Ctrl-C ends it",
            file=sys.stderr,
        )

        def show() -> None:
            line.show(lambda: status_line(engine.snapshot(), engine.latency(card.latency), stepper.sensors))

        try:
            run_stream(engine, card, stop, show, arguments.seconds)
        finally:
            state, latency = engine.snapshot(), engine.latency(card.latency)
            line.close()
            card.stop()
            written = [] if tape is None else [str(file) for file in tape.paths]
            if arguments.json:
                print(json.dumps({**plain(state, latency), "device_rate": rate, "written": written}, indent=2))
            else:
                print("\n".join(summary_lines(state, latency)))
    if tape is not None:
        if not arguments.json:
            print(f"written: {', '.join(written)}")
        if tape.lost:
            print(f"the disk was too slow: {tape.lost / rate:.1f} s are silence in the files", file=sys.stderr)
        if tape.problem:
            print(f"the files end early: {tape.problem}", file=sys.stderr)
    engine.check()  # of the frames that were computed while the stream was ended
    return USER_ERROR if tape is not None and (tape.lost or tape.problem) else 0


# ---------------------------------------------------------------- file


def _play_file(stepper: Stepper, arguments: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from bcfusion.inference.containers import check_rate, format_of_name
    from bcfusion.inference.writing import check_peak, write_blocks
    from bcfusion.live.clock import paced, unpaced
    from bcfusion.live.engine import Engine
    from bcfusion.live.status import plain, status_line, summary_lines
    from bcfusion.live.streaming import undisturbed

    target = arguments.output
    how = format_of_name(target, arguments.subtype)
    check_rate(how, stepper.sample_rate)
    with _told_if_ended(target), ExitStack() as stack:
        stack.enter_context(cleaning_up_when_ended())
        signal = stack.enter_context(_signal(stepper, arguments))
        total = signal.total
        _remark(signal)
        engine = Engine(stepper, buffers=arguments.buffers, lossless=True)
        line = stack.enter_context(_status())
        begun = time.perf_counter()

        def read(start: int, stop: int) -> Frames:
            if stop <= start:
                return np.zeros((len(stepper.sensors), 0), dtype=np.float32)
            return signal.read(start, stop).numpy()

        def blocks() -> Iterator[Any]:
            outputs = (unpaced if arguments.no_pace else paced)(engine, read, total)
            for output in outputs:
                yield torch.from_numpy(output)[None]
                line.show(lambda: status_line(engine.snapshot(), engine.latency(), stepper.sensors))

        if not arguments.no_pace:
            stack.enter_context(undisturbed())
            stack.enter_context(engine)
            begun = time.perf_counter()
        done = write_blocks(blocks(), target, stepper.sample_rate, total, how, arguments.peak)
        took = time.perf_counter() - begun
    state, latency = engine.statistics.snapshot(took), engine.latency()
    factor = took / (total / stepper.sample_rate)
    if arguments.json:
        known = {**plain(state, latency), "written": [str(target)], "overs": done.overs, "peak": done.peak}
        known["gain"] = done.gain
        if arguments.no_pace:
            known["real_time_factor"] = factor
        else:
            known["missed_deadlines"] = state.underruns
        print(json.dumps(known, indent=2))
        return 0
    lines = summary_lines(state, latency, file=True)
    if arguments.no_pace:
        lines[2:3] = [f"real-time factor {factor:.3f}: {took:.1f} s for {total / stepper.sample_rate:.1f} s of sound"]
    print("\n".join([*lines, f"written: {target}"]))
    if done.overs:
        protection = check_peak(arguments.peak, how)
        print(peak_warning(done.overs, done.peak, done.gain, protection, target, "--subtype FLOAT"))
    return 0


@contextmanager
def _told_if_ended(target: Path) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(f"ended before the end of the sound: nothing is written to {target}", file=sys.stderr)
        raise


def _signal(stepper: Stepper, arguments: argparse.Namespace) -> AbstractContextManager[Signal]:
    from bcfusion.inference.inputs import opened_signal

    whole = os.path.exists(arguments.file)  # a name may hold a comma
    files = [arguments.file] if whole else [name for name in arguments.file.split(",") if name]
    return opened_signal(
        [path(name) for name in files],
        stepper.sample_rate,
        len(stepper.sensors),
        stepper.sensors,
        channels=None if arguments.channels is None else parse_channels(arguments.channels, stepper.sensors),
        separate="--file FILE,FILE with one for each",
    )


def _remark(signal: Signal) -> None:
    for remark in signal.remarks:
        print(f"note: {remark}", file=sys.stderr)
    if signal.cut > SHORTEST_CUT:
        print(
            f"note: the sensors differ in length, by {1e3 * signal.cut:.1f} ms; their common part is restored",
            file=sys.stderr,
        )


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
