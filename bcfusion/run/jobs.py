"""Results of the jobs of a sweep or a search: files in each job's directory.

A job may run in another process or on another machine, so its result is passed on through files alone:

- ``objective.json``: the number (or list of numbers) that the job returned;
- ``failed.txt``: the first line of the error, followed by its traceback;
- ``pruned.txt``: why a search ended the job early.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bcfusion.errors import CheckpointError, first_line
from bcfusion.files import from_json, from_yaml, write_text
from bcfusion.run.layout import RunDir

OBJECTIVE, FAILED, PRUNED = "objective.json", "failed.txt", "pruned.txt"
Status = Literal["finished", "pruned", "failed", "no result"]
END_FILES: dict[Status, str] = {"failed": FAILED, "pruned": PRUNED, "finished": OBJECTIVE}  #: the first that exists


@dataclass(frozen=True)
class Outcome:
    """The result of one job.

    Attributes:
        job: its directory relative to that of the sweep, usually the job's number.
        overrides: as the sweep set them.
        status: ``no result`` if the job was killed or is still running.
        objective: the numbers that it returned; empty if there are none.
        note: first line of the error of a failed job, or why a job was pruned.
        time: when it ended, as the modification time of its file; 0 if it has not ended.
    """

    job: str
    overrides: tuple[str, ...]
    status: Status
    objective: tuple[float, ...] = ()
    note: str = ""
    time: float = 0.0


def begin(job_dir: Path) -> None:
    """Create the directory of a job or a run, and delete the results of an earlier one in it."""
    job_dir.mkdir(parents=True, exist_ok=True)
    for name in END_FILES.values():
        (job_dir / name).unlink(missing_ok=True)


def write_composed(job_dir: Path, config: str, hydra: str, overrides: str) -> None:
    """Write what Hydra composed, each part as YAML: the configuration, Hydra's own settings, and the overrides."""
    run = RunDir(job_dir)
    for file, text in ((run.hydra_composed, config), (run.hydra_config, hydra), (run.hydra_overrides, overrides)):
        write_text(file, text)


def note_objective(job_dir: Path, value: Any) -> None:
    """Write what a job returned, if it is a number or a list of numbers."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if values and all(isinstance(v, int | float) for v in values):
        write_text(job_dir / OBJECTIVE, json.dumps(value) + "\n")


def note_pruned(job_dir: Path, reason: object) -> None:
    """Write why a search ended a job early."""
    write_text(job_dir / PRUNED, f"{reason}\n")


def note_failure(job_dir: Path, error: Exception) -> str:
    """Write why a job failed, with the traceback, if that is possible; return the first line alone."""
    line = first_line(error)
    with suppress(OSError):  # the disk may be full, which is then the failure itself
        write_text(job_dir / FAILED, f"{line}\n\n{''.join(traceback.format_exception(error))}")
    return line


def job_folders(sweep_dir: Path) -> Iterator[Path]:
    """Yield the directory of each job of a sweep that has begun, in no particular order."""
    marker = RunDir(Path()).hydra_overrides.as_posix()
    return (file.parents[1] for file in sweep_dir.rglob(marker))


def read_objective(job_dir: Path) -> tuple[float, ...]:
    """Return the numbers of ``objective.json``; an empty tuple if there are none.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = job_dir / OBJECTIVE
    if not file.is_file():
        return ()
    try:
        value = from_json(file.read_bytes())
        return tuple(float(v) for v in (value if isinstance(value, list) else [value]))
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{file} holds no numbers: {error}") from error


def read_outcomes(sweep_dir: Path) -> list[Outcome]:
    """Return the results of all jobs of a sweep, by number."""
    found = [_read_outcome(folder, folder.relative_to(sweep_dir).as_posix()) for folder in job_folders(sweep_dir)]
    return sorted(found, key=lambda outcome: (not outcome.job.isdigit(), outcome.job.zfill(9)))


def read_end(job_dir: Path) -> tuple[Status, str]:
    """Return how a job ended, and the first line of its error or the reason why it was pruned."""
    for status, name in END_FILES.items():
        file = job_dir / name
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            return status, "" if status == "finished" else text.partition("\n")[0] or "no reason was written"
    return "no result", ""


def _read_outcome(job_dir: Path, name: str) -> Outcome:
    file = RunDir(job_dir).hydra_overrides
    try:
        overrides = from_yaml(file.read_bytes()) or []
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(overrides, list):
        raise CheckpointError(f"{file} holds no list of overrides")
    status, note = read_end(job_dir)
    time = 0.0 if status == "no result" else (job_dir / END_FILES[status]).stat().st_mtime
    return Outcome(name, tuple(str(o) for o in overrides), status, read_objective(job_dir), note, time)


def best_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Sort jobs: finished ones by descending objective (the sum of several), then pruned ones, then all others."""
    rank = {"finished": 0, "pruned": 1, "no result": 2, "failed": 3}

    def key(outcome: Outcome) -> tuple[int, float]:
        value = sum(outcome.objective) if outcome.objective else -math.inf
        return rank[outcome.status], math.inf if math.isnan(value) else -value

    return sorted(outcomes, key=key)


def distinguishing_overrides(outcomes: Sequence[Outcome]) -> list[str]:
    """Return each job's overrides without those that all jobs share; of a single job, all of them."""
    shared = set.intersection(*(set(o.overrides) for o in outcomes)) if len(outcomes) > 1 else set()
    return [" ".join(override for override in o.overrides if override not in shared) for o in outcomes]
