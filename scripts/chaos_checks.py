"""What has to hold of the directory of a run that was interrupted, and of one that was resumed until it ended.

Each check returns the problems that it found, as sentences; scripts/chaos.py runs all of them after each interruption.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bcfusion.errors import CheckpointError
from bcfusion.run import checkpoint
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_WEIGHTS, RunDir

__all__ = ["Known", "Reference", "closed", "interrupted", "leftovers", "same"]

HIDDEN = re.compile(r"\..+\.[0-9a-f]{8}\.(part|old)")  # names of bcfusion.files for what is not complete
MEASURED = ("rate/",)  # starts of the tags that hold times, which differ between sessions
OF_A_VALIDATION = ("valid/", "valid_input/", "best/")
MARK_LEFT = "running.json is left"
PNG_END = b"IEND\xaeB`\x82"

# in `last.ckpt`: what has to be equal bit for bit at the end, however often a run was interrupted
STATE = ("step", "generator", "generator_ema", "ema_updates", "discriminators", "critics", "optimizers", "state")
STATE += ("random", "critic_states")
# in `best*.ckpt`
WEIGHTS = ("step", "generator", "generator_ema", "discriminators", "critics")

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it names each session that was resumed

Curves = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Reference:
    """What a run that nobody interrupted has written.

    Attributes:
        run: its directory.
        rows: of metrics.csv, by step, without times.
        curves: of TensorBoard, by tag, without times.
        interval: steps between writes of ``last.ckpt``.
    """

    run: RunDir
    rows: dict[int, dict[str, str]]
    curves: Curves
    interval: int

    @classmethod
    def read(cls, path: Path, interval: int) -> Reference:
        rows, problems = read_rows(path)
        assert not problems, problems
        return cls(RunDir(path), dict(rows), read_curves(path), interval)


@dataclass
class Known:
    """What is known of a run from before a session, which the session must not lose.

    Attributes:
        step: of ``last.ckpt``; 0 without one.
        best: the score of each best checkpoint, by its name.
        sessions: number of them in run.json.
        hidden: files that were being written when the session before ended.
    """

    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    sessions: int = 0
    hidden: tuple[Path, ...] = ()


def interrupted(
    path: Path, reference: Reference, before: Known, reached: int, began: bool, at_once: bool = False
) -> tuple[list[str], Known]:
    """Check the directory of a run after a session ended in whatever way.

    Args:
        path: the directory.
        reference: the run that nobody interrupted.
        before: what was known before the session.
        reached: number of batches that were trained in the end; -1 if the session did not come so far.
        began: whether the session had begun to write.
        at_once: whether the state of the end has to be saved, as after a first signal.

    Returns:
        What is wrong, and what is known now.
    """
    run = RunDir(path)
    now = Known(before.step, dict(before.best), before.sessions, tuple(leftovers(path)))
    problems = [
        f"{file.relative_to(path)} of an earlier session is left" for file in before.hidden if began and file.exists()
    ]
    problems += _check_checkpoints(run, before, now, reached, 0 if at_once else reference.interval)
    problems += _check_record(run, before, now)
    problems += _check_files(path)
    last = _state(run.last)
    validated = -1 if last is None else int(last["training"]["quality"]["validated_step"])
    rows, torn = read_rows(path)
    problems += [*torn, *_check_rows(rows, reference, now.step, validated)]
    problems += _check_curves(read_curves(path), reference, now.step, validated)
    return problems, now


def closed(path: Path, reference: Reference, samples: bool = True) -> list[str]:
    """Check the directory of a run that has come to its end: it is that of the run that nobody interrupted.

    Args:
        path: the directory.
        reference: the run that nobody interrupted.
        samples: whether the run has written samples.
    """
    run, other = RunDir(path), reference.run
    problems = [f"{file.relative_to(path)} is left" for file in leftovers(path)]
    if run.running.exists():
        problems.append(MARK_LEFT)
    for name, keys in (("last", STATE), ("best", WEIGHTS), ("best-stoi", WEIGHTS)):
        mine, theirs = (_state(one.checkpoints / f"{name}.ckpt") for one in (run, other))
        if mine is None or theirs is None:
            problems.append(f"{name}.ckpt is missing or damaged")
            continue
        for key in keys:
            if (key in mine or key in theirs) and (where := same(mine.get(key), theirs.get(key), key)):
                problems.append(f"{name}.ckpt: {where} is not that of the run that was not interrupted")
        if where := same(mine["training"]["quality"], theirs["training"]["quality"], "quality"):
            problems.append(f"{name}.ckpt: {where} is not that of the run that was not interrupted")
    rows, torn = read_rows(path)
    problems += torn + ["metrics.csv: rows differ"] * (dict(rows) != reference.rows or len(rows) != len(reference.rows))
    problems += ["TensorBoard: curves differ"] * (read_curves(path) != reference.curves)
    problems += _differing_files(run, other, samples)
    return problems


def leftovers(path: Path) -> list[Path]:
    """Return the files and folders that were not completed."""
    return sorted(file for file in path.rglob(".*") if HIDDEN.fullmatch(file.name))


def same(mine: Any, theirs: Any, name: str = "") -> str | None:
    """Return where two plain containers differ, bit for bit; None if they are equal."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        if mine.keys() != theirs.keys():
            return f"{name} (its keys)"
        return next(filter(None, (same(mine[key], theirs[key], f"{name}.{key}") for key in mine)), None)
    if isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        if len(mine) != len(theirs):
            return f"{name} (its length)"
        pairs = enumerate(zip(mine, theirs, strict=True))
        return next(filter(None, (same(a, b, f"{name}[{index}]") for index, (a, b) in pairs)), None)
    if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
        alike = mine.dtype == theirs.dtype and mine.shape == theirs.shape
        return None if alike and mine.numpy().tobytes() == theirs.numpy().tobytes() else name
    if isinstance(mine, float) and isinstance(theirs, float):
        return None if struct.pack("d", mine) == struct.pack("d", theirs) else name
    return None if type(mine) is type(theirs) and mine == theirs else name


# ---------------------------------------------------------------- reading


def read_rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Return the rows of metrics.csv, without times and empty cells, in their order; and what is wrong with the file.

    A last line without an end was being written when the process died; the next session drops it.
    """
    file = RunDir(path).metrics
    if not file.is_file():
        return [], []
    lines = file.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    if not lines:
        return [], []
    header, *rows = csv.reader(lines)
    found, problems = [], []
    for row in rows:
        if len(row) > len(header) or not row or not row[0].isdigit():
            problems.append(f"metrics.csv: a torn line, {','.join(row)[:40]}")
            continue
        values = {name: value for name, value in zip(header, row, strict=False) if value and name != "step"}
        found.append((int(row[0]), {name: v for name, v in values.items() if not name.startswith(MEASURED)}))
    return found, problems


def read_curves(path: Path) -> Curves:
    """Return the scalars of all event files of a run as TensorBoard shows them, without times."""
    if not any(path.glob("events.*")):
        return {}
    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 1, "audio": 1, "tensors": 1}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(MEASURED)]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def _state(file: Path) -> dict[str, Any] | None:
    try:
        return checkpoint.read(file)
    except CheckpointError:
        return None


# ---------------------------------------------------------------- parts


def _check_checkpoints(run: RunDir, before: Known, now: Known, reached: int, interval: int) -> Iterator[str]:
    files = sorted(run.checkpoints.glob("*.ckpt")) if run.checkpoints.is_dir() else []
    contents = {}
    for file in files:
        try:
            contents[file.stem] = checkpoint.read(file)
        except CheckpointError as error:
            yield f"{file.name} cannot be read: {error}"
    for name in ("last",) * bool(before.step) + tuple(before.best):
        if name not in [file.stem for file in files]:
            yield f"{name}.ckpt is lost"
    last = contents.get("last")
    if last is not None:
        now.step = int(last["step"])
    if now.step < before.step:
        yield f"last.ckpt went back from step {before.step} to {now.step}"
    if reached - now.step > interval:
        yield f"{reached - now.step} steps are to be repeated, from {now.step} to {reached}: more than {interval}"
    for name in contents.keys() - {"last"}:
        content = contents[name]
        score = float(content["training"]["quality"]["best"][name])
        if score < before.best.get(name, -math.inf):
            yield f"{name}.ckpt got worse: {before.best[name]} before, {score} now"
        now.best[name] = score
        noted = {} if last is None else last["training"]["quality"]["best"]
        if score < noted.get(name, -math.inf):
            yield f"{name}.ckpt is not the best of last.ckpt: {noted[name]} there, {score} here"
    for name in () if last is None else last["training"]["quality"]["best"]:
        if name not in [file.stem for file in files]:
            yield f"{name}.ckpt is missing, although last.ckpt of step {now.step} knows it"


def _check_record(run: RunDir, before: Known, now: Known) -> Iterator[str]:
    if not run.record.is_file():
        if before.sessions:
            yield "run.json is lost"
        return
    try:
        now.sessions = len(json.loads(run.record.read_bytes())["sessions"])
    except (ValueError, KeyError, TypeError) as error:
        yield f"run.json cannot be read: {type(error).__name__}: {error}"
        return
    if not before.sessions <= now.sessions <= before.sessions + 1:
        yield f"run.json names {now.sessions} sessions after {before.sessions} before"


def _check_files(path: Path) -> Iterator[str]:
    """Look into every file that is complete by its name."""
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        hidden = any(HIDDEN.fullmatch(part) for part in name.parts)
        if hidden or not file.is_file() or name.name in ("metrics.csv", "run.json"):
            continue
        try:
            if file.suffix == ".json":
                json.loads(file.read_bytes())
            elif file.suffix == ".yaml":
                if yaml.safe_load(file.read_text(encoding="utf-8")) is None:
                    yield f"{name} is empty"
            elif file.suffix in (".csv", ".md"):
                if not file.read_text(encoding="utf-8").endswith("\n"):
                    yield f"{name} is cut off"
            elif file.suffix == ".wav":
                size = int.from_bytes(file.read_bytes()[4:8], "little")  # of the file without its first eight bytes
                if size + 8 != file.stat().st_size or not soundfile.info(file).frames:
                    yield f"{name} is cut off"
            elif file.suffix == ".png":
                if not file.read_bytes().endswith(PNG_END):
                    yield f"{name} is cut off"
            elif file.suffix == ".safetensors":
                load_file(file)
        except Exception as error:
            yield f"{name} cannot be read: {type(error).__name__}: {error}"
    bundle = RunDir(path).bundle
    for part in (BUNDLE_WEIGHTS, BUNDLE_CONFIG) if bundle.is_dir() else ():
        if not (bundle / part).is_file():
            yield f"the bundle has no {part}"


def _check_rows(
    rows: Sequence[tuple[int, dict[str, str]]], reference: Reference, step: int, validated: int
) -> Iterator[str]:
    steps = [number for number, _ in rows]
    if steps != sorted(set(steps)):
        yield f"metrics.csv: steps are repeated or out of order: {steps}"
    found = dict(rows)
    missing = [number for number in reference.rows if number <= step and number not in found]
    if missing:
        yield f"metrics.csv: a gap, steps {missing} are missing up to step {step} of last.ckpt"
    for number, expected in reference.rows.items():
        if number <= step and number in found:
            pending = number == step and validated < step  # its validation was interrupted
            wanted = {tag: v for tag, v in expected.items() if not (pending and tag.startswith(OF_A_VALIDATION))}
            differing = [tag for tag in wanted if found[number].get(tag) != wanted[tag]]
            if differing:
                yield f"metrics.csv: step {number} has not the values of the run: {', '.join(differing[:3])}"


def _check_curves(curves: Curves, reference: Reference, step: int, validated: int) -> Iterator[str]:
    for tag, points in curves.items():
        steps = [number for number, _ in points]
        if steps != sorted(set(steps)):
            yield f"TensorBoard: steps of {tag} are repeated or out of order: {steps}"
    for tag, expected in reference.curves.items():
        most = validated if tag.startswith(OF_A_VALIDATION) and validated < step else step
        wanted = [(number, value) for number, value in expected if number <= most]
        points = [(number, value) for number, value in curves.get(tag, []) if number <= most]
        gap = sorted({number for number, _ in wanted} - {number for number, _ in points})
        if gap:
            yield f"TensorBoard: a gap, steps {gap} of {tag} are missing up to step {step} of last.ckpt"
        elif dict(points) != dict(wanted):
            yield f"TensorBoard: {tag} has not the values of the run"


def _differing_files(run: RunDir, other: RunDir, samples: bool) -> Iterator[str]:
    """Compare tables, samples and bundle; at the first validation of a session a table has the input, too."""
    sounds = other.samples.iterdir() if samples else ()
    for theirs in sorted((*other.quality.glob("*.csv"), *sounds, *other.bundle.iterdir())):
        name = theirs.relative_to(other.path)
        mine = run.path / name
        if not mine.is_file():
            yield f"{name} is missing"
        elif theirs.name.startswith("valid-"):
            if _enhanced(mine) != _enhanced(theirs):
                yield f"{name} differs"
        elif theirs.name != BUNDLE_CONFIG and mine.read_bytes() != theirs.read_bytes():
            yield f"{name} differs"


def _enhanced(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if ",enhanced," in line]
