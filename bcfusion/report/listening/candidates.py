"""The runs to listen to: which folders hold their samples, whether they have a model, and their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bcfusion.configuration.overrides import key_of
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.evaluation.systems import TARGET
from bcfusion.files import read_object
from bcfusion.nearest import did_you_mean
from bcfusion.report.comparison.names import run_names
from bcfusion.report.comparison.run import Run
from bcfusion.report.comparison.runs import find_runs
from bcfusion.run.description import read_description
from bcfusion.run.layout import BUNDLE_CONFIG, BUNDLE_WEIGHTS, RunDir
from bcfusion.run.models import named_models

__all__ = ["Candidate", "find_candidates"]

_How = tuple[object, bool, str, frozenset[str]]  # steps, whether a checkpoint was named, the split, and what was typed

#: settings of an evaluation with which the sounds are those of one without
SAME_SOUNDS = (
    *("metrics", "machine", "data.workers", "data.max_unreadable_share"),
    *(f"trainer.{name}" for name in ("samples", "max_test_items", "max_valid_items", "accelerator")),
)


@dataclass(frozen=True)
class Candidate:
    """A run to listen to.

    Attributes:
        name: a unique name.
        samples: folders that hold ``samples/``: the run itself (its closing evaluation), then later evaluations of the
            same model on the same data, the newest first.
        model: run directory, bundle or checkpoint to enhance with; None if there is none.
    """

    name: str
    samples: tuple[Path, ...]
    model: Path | None


def find_candidates(given: Sequence[str], names: Sequence[str] | None, warn: Callable[[str], None]) -> list[Candidate]:
    """Return the runs that paths mean.

    Args:
        given: run directories, folders of runs, bundles, checkpoints, or single evaluations (``RUN/evaluation/TIME``).
        names: their names, in the same order; None for names made of the settings in which the runs differ.
        warn: called with one line for each path without anything to listen to, if others have something.

    Raises:
        CheckpointError: no path holds anything to listen to.
        ConfigError: the number of names differs from the number of runs, or a name is one of the page's own.
    """
    found: list[tuple[Run | None, Path]] = []
    problems: list[str] = []
    for path in (Path(os.path.expanduser(text)) for text in given):
        warnings: list[str] = []
        runs = find_runs([path], warnings.append)
        if RunDir(path).samples.is_dir() or _is_model(path):  # this alone, without runs below it
            found.append((runs[0] if len(runs) == 1 else None, path))
        else:
            found += [(run, run.path) for run in runs]
            meant = "" if path.exists() else did_you_mean(str(path), named_models())
            problems += [line if "did you mean" in line else line + meant for line in warnings]
    labels = iter(run_names([run for run, _ in found if run is not None]))
    candidates = []
    for run, path in found:
        samples, model = _samples(run, path), _model(run, path)
        name = next(labels) if run is not None else path.stem
        if samples or model:
            candidates.append(Candidate(name, samples, model))
        else:
            problems.append(f"{path}: it has neither samples nor a bundle")
    if not candidates:
        raise CheckpointError("\n".join(problems))
    for problem in problems:
        warn(problem)
    return _named(candidates, names)


def _samples(run: Run | None, path: Path) -> tuple[Path, ...]:
    if run is None or path.resolve() != run.path.resolve():
        return (path,) if RunDir(path).samples.is_dir() else ()
    later = [each for each in sorted(RunDir(path).evaluations.glob("*"), reverse=True) if RunDir(each).samples.is_dir()]
    if RunDir(path).samples.is_dir():
        wanted, step, own = _CLOSING, _step_of(path), (path,)
    elif later:  # of a bundle that no run made
        record = _record(later[0])
        wanted, step, own = _how(record), record.get("step"), (later[0],)
    else:
        return ()
    others = [each for each in later if each not in own]
    return (*own, *(each for each in others if _how(_record(each)) == wanted and _is_step(_record(each), step)))


_CLOSING: _How | None = (
    None,
    False,
    "test",
    frozenset[str](),
)  # what `_how` says of an evaluation that is like the closing one of a run


def _record(folder: Path) -> dict[str, Any]:
    return read_object(RunDir(folder).evaluation_record)


def _how(record: Mapping[str, Any]) -> _How | None:
    """Return what makes an evaluation another one: steps, a checkpoint, split, data, levels; None: not recorded."""
    if not record:
        return None
    overrides = {str(override) for override in record.get("overrides") or ()}
    keys = {override: key_of(override) for override in overrides}
    others = {o for o, key in keys.items() if key not in SAME_SOUNDS and not key.startswith("metrics.")}
    is_checkpoint = str(record.get("model", "")).endswith(".ckpt")
    return record.get("steps"), is_checkpoint, str(record.get("split") or "test"), frozenset(others)


def _is_step(record: Mapping[str, Any], step: object) -> bool:
    """Return whether an evaluation is of the weights of this step, as far as both are known."""
    return None in (record.get("step"), step) or record["step"] == step


def _step_of(run: Path) -> object:
    bundle = RunDir(run).bundle
    return read_description(bundle).training.get("step") if (bundle / BUNDLE_CONFIG).is_file() else None


def _model(run: Run | None, path: Path) -> Path | None:
    if _is_model(path):
        return path
    return run.path if run is not None and run.bundle else None


def _is_model(path: Path) -> bool:
    return (path / BUNDLE_WEIGHTS).is_file() or path.suffix == ".ckpt"


def _named(candidates: list[Candidate], names: Sequence[str] | None) -> list[Candidate]:
    """Return the candidates with names that differ from each other and from the names of inputs, target and anchors."""
    if names is not None and len(names) != len(candidates):
        known = ", ".join(candidate.name for candidate in candidates)
        raise ConfigError([f"--names: {len(names)} names for {len(candidates)} runs ({known})"])
    taken = {TARGET}
    named = []
    for number, candidate in enumerate(candidates):
        name = names[number] if names is not None else candidate.name
        if name in taken or name.startswith(("input", "anchor")):
            if names is not None:
                raise ConfigError(
                    [f"--names: {name} is the name of a sound of the page itself (input, target, anchor)"]
                )
            name = f"{name} ({number + 1})"
        taken.add(name)
        named.append(replace(candidate, name=name))
    return named
