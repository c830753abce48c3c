"""What ``bcfusion enhance`` reads and writes: the recordings named, their outputs, and what stands in the way."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bcfusion.errors import AudioError, CheckpointError
from bcfusion.files import fixed_part, name_below, normal_name, on_disk
from bcfusion.run.models import holds_model, is_on_hub, named_models

__all__ = ["EXISTS", "Fault", "Job", "Plan", "existing", "plan_inputs", "plan_sensors", "require_model_first"]

EXISTS = "exists: give --overwrite to replace it, or another --output"


@dataclass(frozen=True)
class Job:
    """One recording: a file with all sensors, or a file for each sensor; and the file to write."""

    sources: tuple[Path, ...]
    target: Path


@dataclass(frozen=True)
class Fault:
    """A recording that is not restored: its sources as far as they are known, why, and its target if it has one."""

    sources: tuple[Path, ...]
    reason: str
    target: Path | None = None
    exists: bool = False  # the target, which is kept


@dataclass
class Plan:
    """The recordings to restore, and those that cannot be restored.

    Attributes:
        jobs: what to restore, in order.
        problems: a line for each recording that cannot be restored, or for several with the same problem.
        left_out: number of recordings that cannot be restored.
        faults: the same, one by one.
    """

    jobs: list[Job] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: int = 0
    faults: list[Fault] = field(default_factory=list)

    def leave_out(self, problem: str, count: int = 1, sources: Sequence[Path] = ()) -> None:
        """Note why a recording, or several, cannot be restored."""
        self.problems.append(problem)
        self.left_out += count
        if sources:
            self.faults.append(Fault(tuple(sources), problem))

    def without(self, faults: Mapping[Job, tuple[Path, str]]) -> Plan:
        """Return the plan without jobs; those with the same fault become one problem.

        Args:
            faults: job to a file and what is wrong with it, as the end of a sentence.
        """
        plan = Plan([job for job in self.jobs if job not in faults], list(self.problems), self.left_out)
        plan.faults = [
            *self.faults,
            *(
                Fault(job.sources, f"{path} {fault}", job.target, exists=fault == EXISTS)
                for job, (path, fault) in faults.items()
            ),
        ]
        alike: dict[str, list[Path]] = {}
        for path, fault in faults.values():
            alike.setdefault(fault, []).append(path)
        for fault, paths in alike.items():
            likewise = f"; likewise {len(paths) - 1} more" if len(paths) > 1 else ""
            plan.leave_out(f"{paths[0]} {fault}{likewise}", len(paths))
        return plan


def require_model_first(model: str, inputs: Sequence[str]) -> None:
    """Raise an error if recordings stand where the model belongs.

    Args:
        model: the first argument.
        inputs: those after it.

    Raises:
        CheckpointError: with the command to type, if one of the others is a model.
    """
    from bcfusion.audio import EXTENSIONS

    models = [given for given in inputs if _is_model(given)]
    is_sound = model.lower().endswith(EXTENSIONS)
    if not is_sound and (not models or _is_model(model)):
        return
    others = [model, *(given for given in inputs if given not in models[:1])]
    raise CheckpointError(
        f"{model}: {'a sound file' if is_sound else 'no model'}; the model comes first\n"
        f"write bcfusion enhance {shlex.join(models[:1]) or 'RUN'} {shlex.join(others)}"
    )


def _is_model(given: str) -> bool:
    if is_on_hub(given):
        return True
    path = Path(os.path.expanduser(given))
    is_sound = os.path.isfile(path) and path.suffix != ".ckpt"
    return path.suffix == ".ckpt" or given in named_models() or (not is_sound and holds_model(path))


def plan_inputs(inputs: Sequence[str], output: Path, suffix: str, ending: str = ".wav") -> Plan:
    """Find the recordings; the output mirrors the tree below the folder that all inputs have in common.

    Args:
        inputs: files, folders and glob patterns.
        output: folder to write to.
        suffix: appended to each name.
        ending: of the names, such as ``.wav``.
    """
    from bcfusion.audio import find_audio

    plan = Plan()
    found: dict[str, Path] = {}  # by absolute path, in order, each once
    roots = [os.fspath(fixed_part(os.path.abspath(os.path.expanduser(given)))) for given in inputs]
    outputs = os.path.abspath(output)
    for given, root in zip(inputs, roots, strict=True):
        try:
            paths = {os.path.abspath(path): path for path in find_audio(given)}
        except AudioError as error:
            plan.leave_out(str(error), sources=[Path(given)])
            continue
        # outputs of an earlier call, in a folder below the recordings, are not recordings
        found |= {key: path for key, path in paths.items() if root == outputs or not key.startswith(outputs + os.sep)}
    common = os.path.commonpath(roots) if roots else ""
    plan.jobs = [
        Job((path,), _target(Path(key).relative_to(common), output, suffix, ending)) for key, path in found.items()
    ]
    return _without_clashes(plan)


def plan_sensors(
    folders: Mapping[str, Path], sensors: Sequence[str], output: Path, suffix: str, ending: str = ".wav"
) -> Plan:
    """Match the files of the sensors that have the same name below their folders (:func:`bcfusion.files.name_below`).

    Args:
        folders: sensor to its folder, file or glob pattern.
        sensors: of the network, in its order.
        output: folder to write to.
        suffix: appended to each name.
        ending: of the names, such as ``.wav``.

    Raises:
        AudioError: other sensors are given than the network has, or there are no recordings of one.
    """
    from bcfusion.audio import find_audio

    if set(folders) != set(sensors):
        raise AudioError(f"--sensor names {', '.join(folders)}; the network takes {', '.join(sensors)}")
    plan = Plan()
    by_name: dict[str, dict[str, Path]] = {}
    relative: dict[str, Path] = {}  # as the first sensor spells it
    for sensor in sensors:
        given = on_disk(folders[sensor])
        root = fixed_part(given)
        for path in find_audio(given):
            single = path == given  # two files need not have the same name
            name = "" if single else name_below(root, path)
            relative.setdefault(name, Path(path.name) if single else path.relative_to(root))
            other = by_name.setdefault(name, {}).setdefault(sensor, path)
            if other != path:
                plan.leave_out(f"{path}: {other.name} has the same name; keep one of them", sources=[path])
    for name, files in sorted(by_name.items()):
        missing = [str(folders[sensor]) for sensor in sensors if sensor not in files]
        if missing:
            wanted = f"no recording named {name}" if name else "no single recording"
            found = next(iter(files.values()))
            plan.leave_out(f"{found}: {wanted} in {' and '.join(missing)}", sources=[*files.values()])
        else:
            sources = tuple(files[sensor] for sensor in sensors)
            plan.jobs.append(Job(sources, _target(relative[name], output, suffix, ending)))
    return _without_clashes(plan)


def existing(jobs: Iterable[Job]) -> dict[Job, tuple[Path, str]]:
    """Return the jobs whose output exists, with it and what to do; see :meth:`Plan.without`."""
    return {job: (job.target, EXISTS) for job in jobs if os.path.exists(job.target)}


def _target(relative: Path, output: Path, suffix: str, ending: str) -> Path:
    from bcfusion.audio import EXTENSIONS

    stem = relative.stem if relative.suffix.lower() in EXTENSIONS else relative.name
    return output / relative.parent / f"{stem}{suffix}{ending}"


def _without_clashes(plan: Plan) -> Plan:
    """Leave out what would overwrite a recording or another output, or share its name with a sound file beside it."""
    sources = {os.path.realpath(path) for job in plan.jobs for path in job.sources}
    beside = _SoundsByName()
    taken: dict[str, Path] = {}
    kept = []
    for job in plan.jobs:
        target, source = os.path.realpath(job.target), job.sources[0]
        other = beside.other(job.target)
        if target in sources:
            fault = f"its output would replace the recording {job.target}; give --output or --suffix"
        elif target in taken:
            fault = f"{taken[target]} has the same output {job.target}; rename one of them"
        elif other is not None:
            fault = f"its output {job.target} would have the name of {other} beside it; give --output or --suffix"
        else:
            taken[target] = source
            kept.append(job)
            continue
        plan.leave_out(f"{source}: {fault}", sources=job.sources)
    plan.jobs = kept
    return plan


class _SoundsByName:
    """The sound files of folders by name without suffix; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def other(self, path: Path) -> Path | None:
        """Return a sound file beside ``path`` whose name differs only in suffix or Unicode form; None without one."""
        from bcfusion.audio import EXTENSIONS

        if path.parent not in self._folders:
            try:
                names = [name for name in os.listdir(path.parent) if name.lower().endswith(EXTENSIONS)]
            except OSError:
                names = []
            by_name: dict[str, list[str]] = {}
            for name in sorted(names):
                by_name.setdefault(normal_name(Path(name).stem), []).append(name)
            self._folders[path.parent] = by_name
        same = self._folders[path.parent].get(normal_name(path.stem), [])
        return next((path.with_name(name) for name in same if name != path.name), None)
