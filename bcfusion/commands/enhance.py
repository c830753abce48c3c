"""``bcfusion enhance``: recordings in, restored recordings out."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import USER_ERROR, exit_status
from bcfusion.commands.enhance_plan import (
    EXISTS,
    Job,
    Plan,
    existing,
    plan_inputs,
    plan_sensors,
    require_model_first,
)
from bcfusion.commands.shared.arguments import path, positive_number, verb_parser
from bcfusion.commands.shared.computing import add_device_option, device_of
from bcfusion.commands.shared.model_choice import chosen_model, sensors_needed
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.errors import AudioError, BcfusionError, WriteError

if TYPE_CHECKING:
    from bcfusion.inference.enhance import Enhanced

HELP = """\
Restore recordings with a trained network: files, folders and globs in, mono WAV files out, in the same tree of folders.
Recordings may have any length (memory does not grow with it) and any sample rate; the output has the network's rate.

examples:
  bcfusion enhance throat recording.wav --output restored         # a model by its name; bcfusion models lists them
  bcfusion enhance runs/bone_to_air/seanet/TIME throat.wav
  bcfusion enhance RUN recordings/ --output restored/
  bcfusion enhance RUN/checkpoints/best-stoi.ckpt 'recordings/**/*.flac' --subtype FLOAT
  bcfusion enhance RUN two_channels.wav                           # a channel for each sensor, in the network's order
  bcfusion enhance RUN . --dry-run                                # list what would be read and written, and stop
  bcfusion enhance RUN --sensor body=throat/ --sensor noisy=mic/  # a folder for each sensor, files matched by name

Recordings that cannot be restored are listed at the end, the others are not affected; the exit status is then 2. A disk
that takes no more data ends the command; given again, it continues with what is not restored yet.
"""

SHORTEST_CUT = 1e-3  # seconds; a difference that resampling may make is not worth a line


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: there is no model, no recording or no such device.
    """
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if bool(arguments.inputs) == bool(arguments.sensor):
        needed = sensors_needed(arguments.model)
        parser.error(needed or "give recordings, or --sensor NAME=FOLDER for each sensor")
    require_model_first(arguments.model, arguments.inputs)
    make_cwd_importable()  # for a network of the user's own
    sensors = _parse_sensors(arguments.sensor)
    plan = plan_inputs(arguments.inputs, arguments.output, arguments.suffix)
    if arguments.inputs and not plan.jobs:  # reported before torch is loaded
        raise AudioError("\n".join(plan.problems))
    model = chosen_model(arguments.model)

    import torch

    from bcfusion.inference.enhance import enhance_file, misfits
    from bcfusion.run.bundle import bundle_of, load_generator

    generator = load_generator(model, device=device_of(arguments.device))
    bundle = bundle_of(generator)
    assert bundle is not None  # load_generator attaches it
    if sensors:
        plan = plan_sensors(sensors, bundle.sensors, arguments.output, arguments.suffix)
    wrong = misfits(generator, [job.sources for job in plan.jobs], not arguments.no_resample)
    plan = plan.without({job: wrong[job.sources] for job in plan.jobs if job.sources in wrong})
    if not arguments.overwrite:
        plan = plan.without(existing(plan.jobs))
    if arguments.dry_run:
        return _show(plan, arguments)

    def restore(job: Job) -> Enhanced:
        try:
            return enhance_file(
                generator,
                job.sources,
                job.target,
                chunk_seconds=arguments.chunk,
                resample=not arguments.no_resample,
                subtype=arguments.subtype,
            )
        except torch.OutOfMemoryError as error:
            size = f"--chunk {arguments.chunk:g}"
            raise AudioError(f"{job.sources[0]}: the GPU is out of memory with {size}; give fewer seconds") from error

    return _work(plan, restore, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("enhance", HELP)
    parser.add_argument(
        "model", metavar="MODEL", help="run directory, bundle, .ckpt, or a name that bcfusion models lists"
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="sound files, folders, quoted globs")
    parser.add_argument(
        "--output", metavar="DIR", type=path, default=Path("enhanced"), help="folder to write to; default: ./enhanced"
    )
    parser.add_argument("--suffix", metavar="TEXT", default="", help="appended to each name, such as _enhanced")
    parser.add_argument(
        "--sensor",
        metavar="NAME=DIR",
        action="append",
        default=[],
        help="folder (or file) of one sensor; once for each",
    )
    parser.add_argument(
        "--subtype",
        choices=("PCM_16", "PCM_24", "FLOAT"),
        default="PCM_16",
        help="sample format of the output; default: PCM_16",
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be read and written, and stop")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument("--no-resample", action="store_true", help="refuse recordings whose rate is not the network's")
    parser.add_argument(
        "--chunk", metavar="SECONDS", type=positive_number, default=10.0, help="length computed at once; default: 10"
    )
    add_device_option(parser)
    return parser


def _parse_sensors(given: Sequence[str]) -> dict[str, Path]:
    sensors: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in sensors:
            raise AudioError(f"--sensor {text}: give NAME=FOLDER, once for each sensor of the network")
        sensors[name] = path(folder)
    return sensors


def _show(plan: Plan, arguments: argparse.Namespace) -> int:
    """Print what would be read and written, and return the exit status."""
    for job in plan.jobs:
        replaced = "  (replaced)" if os.path.exists(job.target) else ""
        print(f"{' + '.join(map(str, job.sources))} -> {job.target}{replaced}")
    print(f"{_count(len(plan.jobs))} would be written to {arguments.output}")
    return _report(plan, "would not be restored")


def _work(plan: Plan, restore: Callable[[Job], Enhanced], arguments: argparse.Namespace) -> int:
    """Restore one recording after the other, print a line for each and return the exit status."""
    done: list[Enhanced] = []
    started = time.perf_counter()
    for number, job in enumerate(plan.jobs, start=1):
        print(f"[{number}/{len(plan.jobs)}] {job.sources[0]} -> {job.target}", end="", flush=True)
        begun = time.perf_counter()
        try:
            if not arguments.overwrite and os.path.exists(job.target):  # written since the command was given
                raise AudioError(f"{job.target} {EXISTS}")
            result = restore(job)
        except (BcfusionError, OSError) as error:
            print("  FAILED")
            plan.leave_out(str(error))
            left = len(plan.jobs) - number
            if isinstance(error.__cause__, WriteError) and error.__cause__.nothing_fits:
                if left:
                    plan.leave_out(f"{_count(left)} after it: not tried, since nothing more can be written there", left)
                break
            continue
        done.append(result)
        print(f"  {result.seconds:.1f} s of audio in {time.perf_counter() - begun:.1f} s")
        for remark in result.remarks:
            print(f"note: {remark}")
        if result.overs:
            fate = "kept" if arguments.subtype == "FLOAT" else "clipped (--subtype FLOAT keeps them)"
            print(f"warning: {job.target}: {result.overs} samples above full scale, peak {result.peak:.2f}; {fate}")
    took = time.perf_counter() - started
    if done:
        seconds = sum(result.seconds for result in done)
        print(
            f"{_count(len(done))}, {seconds:.1f} s of audio, real-time factor {took / seconds:.3f}, "
            f"in {arguments.output}"
        )
    if cut := [result.cut for result in done if result.cut > SHORTEST_CUT]:
        print(
            f"the sensors of {_count(len(cut))} differ in length, by up to {1e3 * max(cut):.1f} ms; "
            "their common part was restored"
        )
    return _report(plan, "not restored")


def _report(plan: Plan, what: str) -> int:
    if plan.problems:
        print(f"{plan.left_out} {what}:", file=sys.stderr)
        for problem in plan.problems:
            print(f"  {problem}", file=sys.stderr)
    return USER_ERROR if plan.problems else 0


def _count(files: int) -> str:
    return f"{files} file{'s' * (files != 1)}"


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
