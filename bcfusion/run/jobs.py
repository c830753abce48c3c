"""What becomes of the jobs of a sweep or a search: files in each job's directory.

A job may run in another process or on another machine, so that everything is told and read here:

- ``objective.json``: the number (or list of numbers) that the job returned;
- ``failed.txt``: the first line says what was wrong, the traceback follows;
- ``pruned.txt``: why a search ended the job early.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from bcfusion.errors import BcfusionError

OBJECTIVE, FAILED, PRUNED = "objective.json", "failed.txt", "pruned.txt"
Status = Literal["finished", "pruned", "failed", "no result"]


@dataclass(frozen=True)
class Outcome:
    """What became of one job.

    Attributes:
        job: directory below that of the sweep, usually the job's number. overrides: as the sweep gave them.
        status: ``no result`` where the job was ended from outside, or still runs. objective: empty where there is none.
        note: first error line of a failed job, reason of a pruned one. time: when it ended, as a file's time; 0 where
            it has not.
    """

    job: str
    overrides: tuple[str, ...]
    status: Status
    objective: tuple[float, ...] = ()
    note: str = ""
    time: float = 0.0


def begin(job_dir: Path) -> None:
    """Forgets what an earlier job has left in the same directory."""
    job_dir.mkdir(parents=True, exist_ok=True)
    for name in (OBJECTIVE, FAILED, PRUNED):
        (job_dir / name).unlink(missing_ok=True)


def note_objective(job_dir: Path, value: Any) -> None:
    """Writes what a job returned, where it is a number or a list of numbers."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if values and all(isinstance(v, int | float) for v in values):
        (job_dir / OBJECTIVE).write_text(json.dumps(value) + "\n")


def first_line(error: Exception) -> str:
    """What was wrong in one line: a user's error by its text alone, any other with its kind before."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, BcfusionError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def note_failure(job_dir: Path, error: Exception) -> str:
    """Writes why a job failed; returns the first line, without a traceback, that says so."""
    line = first_line(error)
    (job_dir / FAILED).write_text(f"{line}\n\n{''.join(traceback.format_exception(error))}", encoding="utf-8")
    return line


def read_objective(job_dir: Path) -> tuple[float, ...]:
    """The numbers of ``objective.json``; empty where there are none."""
    file = job_dir / OBJECTIVE
    if not file.is_file():
        return ()
    value = json.loads(file.read_bytes())
    return tuple(float(v) for v in (value if isinstance(value, list) else [value]))


def read_outcome(job_dir: Path, name: str) -> Outcome:
    """What became of the job in a directory, whose overrides Hydra has written there."""
    overrides = yaml.safe_load((job_dir / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or []
    status: Status = "no result"
    note, time = "", 0.0
    files: list[tuple[str, Status]] = [(FAILED, "failed"), (PRUNED, "pruned"), (OBJECTIVE, "finished")]
    for file, meaning in files:
        if (job_dir / file).is_file():
            status, time = meaning, (job_dir / file).stat().st_mtime
            note = "" if file == OBJECTIVE else (job_dir / file).read_text(encoding="utf-8").partition("\n")[0]
            break
    return Outcome(name, tuple(str(o) for o in overrides), status, read_objective(job_dir), note, time)


def read_outcomes(sweep_dir: Path) -> list[Outcome]:
    """The jobs of a sweep, by number."""
    folders = [file.parent.parent for file in sweep_dir.rglob(".hydra/overrides.yaml")]
    found = [read_outcome(folder, folder.relative_to(sweep_dir).as_posix()) for folder in folders]
    return sorted(found, key=lambda outcome: (not outcome.job.isdigit(), outcome.job.zfill(9)))


def best_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Finished jobs by falling objective (the sum of several), then pruned ones, then those without a result."""
    rank = {"finished": 0, "pruned": 1, "no result": 2, "failed": 3}

    def key(outcome: Outcome) -> tuple[int, float]:
        value = sum(outcome.objective) if outcome.objective else -math.inf
        return rank[outcome.status], math.inf if math.isnan(value) else -value

    return sorted(outcomes, key=key)


def told_apart(outcomes: Sequence[Outcome]) -> list[str]:
    """Each job's overrides without those that all jobs share; all of them where there is one job."""
    shared = set.intersection(*(set(o.overrides) for o in outcomes)) if len(outcomes) > 1 else set()
    return [" ".join(override for override in o.overrides if override not in shared) for o in outcomes]
