"""``bcfusion enhance``: recordings in, restored recordings out."""

from __future__ import annotations

import argparse
import glob
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import USER_ERROR
from bcfusion.commands.shared.arguments import positive_number, verb_parser
from bcfusion.commands.shared.process_state import make_cwd_importable
from bcfusion.errors import AudioError, BcfusionError

if TYPE_CHECKING:
    from bcfusion.inference.enhance import Enhanced

HELP = """\
Restore recordings with a trained network: files, folders and globs in, mono WAV files out, in the same tree of folders.
Recordings may have any length (memory does not grow with it) and any sample rate; the output has the network's rate.

examples:
  bcfusion enhance runs/bone_to_air/seanet/TIME throat.wav
  bcfusion enhance RUN recordings/ --output restored/
  bcfusion enhance RUN/checkpoints/best-stoi.ckpt 'recordings/**/*.flac' --subtype FLOAT
  bcfusion enhance RUN two_channels.wav                           # a channel for each sensor, in the network's order
  bcfusion enhance RUN --sensor body=throat/ --sensor noisy=mic/  # a folder for each sensor, files matched by name

Recordings that cannot be restored are listed at the end, the others are not affected; the exit status is then 2.
"""


@dataclass(frozen=True)
class Job:
    """One recording: a file with all sensors, or a file for each sensor; and the file to write."""

    sources: tuple[Path, ...]
    target: Path


@dataclass
class Plan:
    """The recordings to restore, and a message for each one that cannot be restored."""

    jobs: list[Job]
    problems: list[str]


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: there is no model, no recording or no such device.
    """
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if bool(arguments.inputs) == bool(arguments.sensor):
        parser.error("give recordings, or --sensor NAME=FOLDER for each sensor")
    make_cwd_importable()  # for a network of the user's own
    sensors = _parse_sensors(arguments.sensor)
    plan = _plan(arguments.inputs, arguments.output, arguments.suffix)
    if arguments.inputs and not plan.jobs:  # reported before torch is loaded
        raise AudioError("\n".join(plan.problems))

    import torch

    from bcfusion.inference.enhance import enhance_file
    from bcfusion.run.bundle import bundle_of, load_generator

    generator = load_generator(arguments.model, device=_device(arguments.device))
    bundle = bundle_of(generator)
    assert bundle is not None  # load_generator attaches it
    if sensors:
        plan = _match(sensors, bundle.sensors, arguments.output, arguments.suffix)

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
    parser.add_argument("model", metavar="MODEL", help="run directory, bundle or .ckpt")
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="sound files, folders, quoted globs")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("enhanced"), help="folder to write to; default: ./enhanced"
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
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument("--no-resample", action="store_true", help="refuse recordings whose rate is not the network's")
    parser.add_argument(
        "--chunk", metavar="SECONDS", type=positive_number, default=10.0, help="length computed at once; default: 10"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; default: a GPU if there is one",
    )
    return parser


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise BcfusionError("--device cuda: torch finds no GPU here; leave the option out, or give --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _plan(inputs: Sequence[str], output: Path, suffix: str) -> Plan:
    """Find the recordings; the output mirrors the tree below the folder that all inputs have in common."""
    from bcfusion.audio import find_audio

    found: dict[str, Path] = {}  # by absolute path, in order, each once
    problems = []
    roots = [_root(given) for given in inputs]
    outputs = os.path.abspath(output.expanduser())
    for given, root in zip(inputs, roots, strict=True):
        try:
            paths = {os.path.abspath(path): path for path in find_audio(given)}
        except AudioError as error:
            problems.append(str(error))
            continue
        # outputs of an earlier call, in a folder below the recordings, are not recordings
        found |= {key: path for key, path in paths.items() if root == outputs or not key.startswith(outputs + os.sep)}
    common = os.path.commonpath(roots) if roots else ""
    jobs = [Job((path,), _target(Path(key).relative_to(common), output, suffix)) for key, path in found.items()]
    return _without_clashes(Plan(jobs, problems))


def _root(given: str) -> str:
    """Return the folder that was given, that holds a given file or that a glob starts from, as an absolute path."""
    path = os.path.abspath(os.path.expanduser(given))
    if os.path.isdir(path):
        return path
    while not os.path.exists(path) and glob.has_magic(path):
        path = os.path.dirname(path)
    return path if os.path.isdir(path) else os.path.dirname(path)


def _parse_sensors(given: Sequence[str]) -> dict[str, Path]:
    sensors: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in sensors:
            raise AudioError(f"--sensor {text}: give NAME=FOLDER, once for each sensor of the network")
        sensors[name] = Path(folder).expanduser()
    return sensors


def _match(folders: dict[str, Path], sensors: list[str], output: Path, suffix: str) -> Plan:
    """Match the files of the sensors' folders that have the same path below them, apart from the extension."""
    from bcfusion.audio import find_audio

    if set(folders) != set(sensors):
        raise AudioError(f"--sensor names {', '.join(folders)}; the network takes {', '.join(sensors)}")
    plan = Plan([], [])
    by_key: dict[Path, dict[str, Path]] = {}
    for sensor in sensors:
        folder = folders[sensor]
        for path in find_audio(folder):
            key = path.relative_to(folder).with_suffix("") if folder.is_dir() else Path(folders[sensors[0]].stem)
            other = by_key.setdefault(key, {}).setdefault(sensor, path)
            if other != path:
                plan.problems.append(f"{path}: {other.name} has the same name; keep one of them")
    for key, files in sorted(by_key.items()):
        missing = [str(folders[sensor]) for sensor in sensors if sensor not in files]
        if missing:
            plan.problems.append(f"{next(iter(files.values()))}: no recording named {key} in {' and '.join(missing)}")
        else:
            plan.jobs.append(Job(tuple(files[sensor] for sensor in sensors), _target(key, output, suffix)))
    return _without_clashes(plan)


def _target(relative: Path, output: Path, suffix: str) -> Path:
    from bcfusion.audio import EXTENSIONS

    stem = relative.stem if relative.suffix.lower() in EXTENSIONS else relative.name
    return output.expanduser() / relative.parent / f"{stem}{suffix}.wav"


def _without_clashes(plan: Plan) -> Plan:
    """Leave out what would overwrite a recording or another output."""
    sources = {os.path.realpath(path) for job in plan.jobs for path in job.sources}
    taken: dict[str, Path] = {}
    kept = []
    for job in plan.jobs:
        target, source = os.path.realpath(job.target), job.sources[0]
        if target in sources:
            plan.problems.append(
                f"{source}: its output would replace the recording {job.target}; give --output or --suffix"
            )
        elif target in taken:
            plan.problems.append(f"{source}: {taken[target]} has the same output {job.target}; rename one of them")
        else:
            taken[target] = source
            kept.append(job)
    return Plan(kept, plan.problems)


def _work(plan: Plan, restore: Callable[[Job], Enhanced], arguments: argparse.Namespace) -> int:
    """Restore one recording after the other, print a line for each and return the exit status."""
    problems = list(plan.problems)
    done: list[Enhanced] = []
    started = time.perf_counter()
    for number, job in enumerate(plan.jobs, start=1):
        print(f"[{number}/{len(plan.jobs)}] {job.sources[0]} -> {job.target}", end="", flush=True)
        begun = time.perf_counter()
        try:
            if job.target.exists() and not arguments.overwrite:
                raise AudioError(f"{job.target} exists: give --overwrite to replace it, or another --output")
            result = restore(job)
        except BcfusionError as error:
            problems.append(str(error))
            print("  FAILED")
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
        files = f"{len(done)} file{'s' * (len(done) != 1)}"
        print(f"{files}, {seconds:.1f} s of audio, real-time factor {took / seconds:.3f}, in {arguments.output}")
    if problems:
        print(f"{len(problems)} not restored:", file=sys.stderr)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    return USER_ERROR if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
