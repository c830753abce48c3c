"""What a run directory is: the names of its parts, and which directory a run gets."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from bcfusion.configuration.machine import published_name
from bcfusion.errors import ConfigError
from bcfusion.nearest import nearest_path
from bcfusion.run.processes import TORCHRUN, torchrun_began

__all__ = [
    "BUNDLE_CONFIG",
    "BUNDLE_DISCRIMINATORS",
    "BUNDLE_WEIGHTS",
    "RunDir",
    "find_run",
    "register_run_dir",
    "run_dir",
]

BUNDLE_WEIGHTS, BUNDLE_CONFIG = "generator.safetensors", "config.yaml"  #: the files of a bundle
BUNDLE_DISCRIMINATORS = "discriminators.safetensors"  #: beside a bundle that was imported with its discriminators


@dataclass(frozen=True)
class RunDir:
    """The parts of a run directory by name; nothing is created or read.

    Args:
        path: the run directory.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        """The overrides as typed."""
        return self.path / "overrides.yaml"

    @property
    def record(self) -> Path:
        """Command, versions, seed and device of each session."""
        return self.path / "run.json"

    @property
    def running(self) -> Path:
        """The process that trains the run now."""
        return self.path / "running.json"

    @property
    def resume_command(self) -> str:
        """What to type to continue the run, ready to be pasted into a shell."""
        path = str(self.path)
        if not re.fullmatch(r"[A-Za-z0-9 /._+@%:-]*", path):  # Hydra reads other characters in quotes only
            path = '"' + path.replace('"', '\\"') + '"'
        return f"bcfusion train {shlex.quote(f'resume={path}')}"

    @property
    def replay_command(self) -> str:
        """What to type to repeat the step that ended the run."""
        return f"{self.resume_command} debug=replay"

    def log(self, rank: int = 0) -> Path:
        """Return the copy of what one process of the run printed."""
        return self.path / ("train.log" if rank == 0 else f"train-{rank}.log")

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The state from which training continues."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The weights of the best validation by ``selection``."""
        return self.checkpoints / "best.ckpt"

    @property
    def bundle(self) -> Path:
        """The folder with all that inference needs."""
        return self.path / "bundle"

    @property
    def quality(self) -> Path:
        """The folder of the scores per utterance."""
        return self.path / "quality"

    @property
    def samples(self) -> Path:
        """The folder of sounds and spectrograms of the closing evaluation."""
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        """The log of losses and metrics by step."""
        return self.path / "metrics.csv"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the process that trains the run writes, and nobody else while it does; some may not exist."""
        return self.path, self.checkpoints, self.quality, self.samples, self.hydra_config.parent

    def tracker(self, title: str) -> Path:
        """Return the file with the run's id at an experiment tracker, and with what was sent there."""
        return self.path / f"{title}.json"

    @property
    def evaluation_record(self) -> Path:
        """What was evaluated, in the folder of one evaluation: model, split, steps and the settings that were typed."""
        return self.path / "evaluation.json"

    @property
    def evaluations(self) -> Path:
        """The folder of later evaluations, one folder each."""
        return self.path / "evaluation"

    @property
    def hydra_overrides(self) -> Path:
        """The overrides of a job of a sweep, as Hydra records them."""
        return self.path / ".hydra" / "overrides.yaml"

    @property
    def hydra_config(self) -> Path:
        """Hydra's own settings, with the choices of the groups."""
        return self.path / ".hydra" / "hydra.yaml"

    @property
    def hydra_composed(self) -> Path:
        """The configuration as Hydra composed it, interpolations unresolved."""
        return self.path / ".hydra" / "config.yaml"

    @classmethod
    def around(cls, path: str | os.PathLike[str]) -> RunDir | None:
        """Return the run that ``path`` is or lies in, at most three folders deep; None if it belongs to no run.

        A run is known by its ``run.json`` or its ``checkpoints/last.ckpt``. ``path`` itself need not exist.
        """
        given = Path(path)
        for start in (given, given.absolute()):  # as given first, so that a relative path gives a relative run
            for folder in (start, *start.parents[:3]):
                run = cls(folder)
                if run.record.is_file() or run.last.is_file():
                    return run
        return None

    def non_finite_batches(self, rank: int) -> Path:
        """Return the list of the batches with which non-finite gradients ended the run on one rank."""
        return self.path / f"non_finite_batches-{rank}.txt"

    def all_non_finite_batches(self) -> list[Path]:
        """Return the lists of all ranks."""
        return [path for path in self.path.glob("non_finite_batches-*.txt") if path.is_file()]

    def diverged(self, rank: int = 0) -> Path:
        """Return the file with the last of the steps that ended the run, of one rank."""
        return self.path / "diverged" / f"rank-{rank}.ckpt"

    def closing_scores(self) -> Path | None:
        """Return the scores of the closing evaluation: the test split, else the valid split, else None."""
        tables = (self.quality / f"{split}.csv" for split in ("test", "valid"))
        return next((table for table in tables if table.is_file()), None)


def register_run_dir() -> None:
    """Make ``${run_dir:...}`` known to OmegaConf; may be called repeatedly."""
    from omegaconf import OmegaConf

    # Cached: with resume=auto the newest run is looked up once, not each time the key is read.
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True, use_cache=True)


def run_dir(root: str, resume: str | None, recipe: str | None, experiment: str | None, now: str) -> str:
    """Return the directory of a run.

    Args:
        root: directory of all runs.
        resume: None for a new run; ``auto`` for the run below ``root/recipe/experiment`` whose
            ``checkpoints/last.ckpt`` was written last, or a new run if there is none; else a run directory or
            something inside one.
        recipe: name of the chosen recipe; None is written as ``default``.
        experiment: name of the chosen experiment; None is written as ``default``.
        now: time stamp that names a new run, passed in so that every reader in one process gets the same directory.
            Where several processes were started together, by srun or torchrun, they must agree, but each reads its
            own clock: the numbers of the job and the step, or the moment at which torchrun began, are used instead.

    Raises:
        ConfigError: ``resume`` is a path, but not the path of a run; or torchrun started processes on several
            machines, which have no moment in common.
    """
    # str: what is no text is refused later, with all other problems of the configuration
    runs = Path(str(root)) / _choice(recipe) / _choice(experiment)
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        now = f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    elif TORCHRUN in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1 and resume in (None, "auto"):
        now = _begin_of_torchrun()
    if resume is None:
        return str(runs / now)
    if resume == "auto":
        saved = [RunDir(path) for path in runs.glob("*") if RunDir(path).last.is_file()]
        newest = max(saved, key=lambda run: (run.last.stat().st_mtime_ns, str(run.path)), default=RunDir(runs / now))
        return str(newest.path)
    return str(find_run(str(resume)))


def _begin_of_torchrun() -> str:
    began = torchrun_began()
    if began is None or int(os.environ.get("GROUP_WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            [
                "hydra.run.dir: torchrun started several processes, and each would name the run by its own clock: give "
                "all of them the same directory, hydra.run.dir=DIR"
            ]
        )
    return began


def find_run(path: str | Path) -> Path:
    """Return the run directory that ``resume`` means: ``path`` itself or the run that it lies in.

    Raises:
        ConfigError: ``path`` does not exist, belongs to no run, or is a checkpoint that holds weights only.
    """
    path = Path(path)
    if not path.exists():
        near = nearest_path(path)
        raise ConfigError(
            [f"resume: there is no {path}{near or '; give a run directory, or a checkpoint inside one, or auto'}"]
        )
    if path.is_file() and path.suffix == ".ckpt" and path.name != RunDir(path).last.name:
        raise ConfigError(
            [
                f"resume: {path} holds weights, not the state of a run: give {path.with_name(RunDir(path).last.name)}, "
                f"or start a new run with init_from={path}"
            ]
        )
    run = RunDir.around(path)
    kept = run is not None and run.diverged().is_file()  # a run may diverge before its first checkpoint
    if run is None or not (kept or any(run.checkpoints.glob("*.ckpt"))):
        raise ConfigError([f"resume: {path} is not a run: a run directory holds checkpoints/last.ckpt"])
    return run.path


def _choice(name: str | None) -> str:
    return "default" if name in (None, "null", "") else published_name(str(name))
