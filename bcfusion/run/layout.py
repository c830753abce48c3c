"""What a run directory is: the names of its parts, and which directory a run gets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bcfusion.errors import ConfigError

__all__ = ["BUNDLE_CONFIG", "BUNDLE_WEIGHTS", "RunDir", "find_run", "register_resolver", "run_dir"]

BUNDLE_WEIGHTS, BUNDLE_CONFIG = "generator.safetensors", "config.yaml"  #: the files of a bundle


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

    def closing_scores(self) -> Path | None:
        """Return the scores of the closing evaluation: the test split, else the valid split, else None."""
        tables = (self.quality / f"{split}.csv" for split in ("test", "valid"))
        return next((table for table in tables if table.is_file()), None)


def register_resolver() -> None:
    """Make ``${run_dir:...}`` known to OmegaConf; may be repeated."""
    from omegaconf import OmegaConf

    # Cached: with resume=auto the newest run is looked up once, not each time the key is read.
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True, use_cache=True)


def run_dir(root: str, resume: str | None, recipe: str | None, experiment: str | None, now: str) -> str:
    """The directory of a run.

    Args:
        root: directory of all runs.
        resume: None for a new run; ``auto`` for the run below ``root/recipe/experiment`` whose
            ``checkpoints/last.ckpt`` was written last, or a new run where there is none; else a run directory, its
            checkpoints folder or a checkpoint in it.
        recipe, experiment: names of the chosen group members; None stands as ``default``.
        now: time stamp that names a new run; given, so that every reader of one process gets the same directory. In
            a step of several processes that srun started, the numbers of job and step name it.

    Raises:
        ConfigError: ``resume`` is a path, but not that of a run.
    """
    runs = Path(root) / _choice(recipe) / _choice(experiment)
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # srun's must agree, and each looks at its own clock
        now = f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    if resume is None:
        return str(runs / now)
    if resume == "auto":
        resumable = sorted(runs.glob("*/checkpoints/last.ckpt"), key=lambda path: (path.stat().st_mtime_ns, str(path)))
        return str(resumable[-1].parent.parent if resumable else runs / now)
    return str(find_run(resume))


def find_run(path: str | Path) -> Path:
    """The run directory that ``path`` means: itself, or the one around a checkpoints folder or a checkpoint.

    Raises:
        ConfigError: there is nothing at ``path``, or it belongs to no run.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError([f"resume: there is no {path}; give a run directory, or a checkpoint inside one, or auto"])
    if path.is_file() and path.suffix == ".ckpt" and path.name != RunDir(path).last.name:
        raise ConfigError(
            [
                f"resume: {path} holds weights, not the state of a run: give {path.with_name(RunDir(path).last.name)}, "
                f"or start anew with init_from={path}"
            ]
        )
    if path.is_file():
        run = path.parent.absolute().parent
    else:
        run = path.absolute().parent if path.name == "checkpoints" else path
    if not any((run / "checkpoints").glob("*.ckpt")):
        raise ConfigError([f"resume: {path} is no run: a run directory holds checkpoints/last.ckpt"])
    return run


def _choice(name: str | None) -> str:
    return "default" if name in (None, "null", "") else str(name)
