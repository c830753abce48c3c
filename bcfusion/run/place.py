"""Whether a session may write into a directory: never into a run of another kind, nor over files of something else."""

from __future__ import annotations

from pathlib import Path

from bcfusion.errors import ConfigError
from bcfusion.files import read_object
from bcfusion.run.layout import RunDir
from bcfusion.run.record import Provenance

__all__ = ["check_kind", "check_place"]


def check_place(directory: Path, provenance: Provenance, resumes: bool, sweeping: bool) -> None:
    """Check the directory of a session before anything is written into it.

    Args:
        directory: where the run is, or will be.
        provenance: what the session trains.
        resumes: whether the session continues the run that is there, if there is one.
        sweeping: whether the session is a job of a sweep, which may repeat an earlier one in its place.

    Raises:
        ConfigError: it is a run of another recipe or experiment, holds a run that the session would overwrite, or files
            that no run has written.
    """
    run = RunDir(directory)
    record = read_object(run.record)
    resumes = resumes and run.last.is_file()
    if resumes:
        check_kind(directory, recipe=provenance.recipe, experiment=provenance.experiment)
    if resumes or sweeping:
        return
    if run.last.is_file():
        raise ConfigError(
            [
                f"hydra.run.dir: {directory} holds a run already: continue it with resume={directory}, or choose "
                "another directory"
            ]
        )
    own = (run.config, run.overrides, run.metrics, run.bundle, run.checkpoints, run.quality)
    foreign = [path.name for path in own if path.exists()]
    if foreign and not record:
        raise ConfigError(
            [f"hydra.run.dir: {directory} holds {', '.join(foreign)} of something else: choose another directory"]
        )


def check_kind(directory: Path, **asked: str | None) -> None:
    """Check that a run to resume has the ``recipe`` and the ``experiment`` that are asked for.

    Raises:
        ConfigError: it is a run of another one.
    """
    record = read_object(RunDir(directory).record)
    for name, choice in asked.items():
        found, asked_for = record.get(name) or "null", choice or "null"
        if name in record and found != asked_for:
            raise ConfigError(
                [
                    f"resume: {directory} is a run of {name}={found}, not of {name}={asked_for}",
                    f"continue it with resume={directory} alone, or start a new run from its weights with "
                    f"init_from={directory}",
                ]
            )
