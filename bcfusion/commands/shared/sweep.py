"""What a sweep prints about its jobs: the closing table, and the error that stands for the failed ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback

from bcfusion.commands.shared.process_state import is_further_process
from bcfusion.errors import BcfusionError
from bcfusion.run.jobs import FAILED, Outcome, best_first, distinguishing_overrides, job_folders, read_outcomes

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.table import Table


class SweepFailed(BcfusionError):
    """Some jobs of a sweep failed; the others have run all the same."""


class SweepDirectory(Callback):
    """Make the directory of a sweep, and the folders that Hydra is about to make, known to the process that started it.

    Attributes:
        missing: folders that did not exist before, the innermost first.
    """

    missing: tuple[Path, ...] = ()

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        HydraConfig.instance().set_config(config)  # the directory refers to it
        self._note(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        HydraConfig.instance().set_config(config)  # Hydra itself does so in jobs only
        if not _varies(config):
            print(
                "bcfusion: -m: no key has several values, so this sweep has one job; several are typed as "
                "optimizer.lr=1e-4,3e-4",
                file=sys.stderr,
            )
        self._note(config, "sweep")

    @staticmethod
    def _note(config: DictConfig, kind: str) -> None:
        from omegaconf.errors import OmegaConfBaseException

        try:
            directory = Path(str(config.hydra[kind].dir)).absolute()
        except OmegaConfBaseException:  # Hydra asks for it again, outside of a callback, and says what is wrong
            SweepDirectory.missing = ()
            return
        SweepDirectory.missing = tuple(folder for folder in (directory, *directory.parents) if not folder.exists())


def _varies(config: DictConfig) -> bool:
    """Return whether a sweep, typed or set in YAML, has several jobs. A search says by itself if nothing varies."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    if not str(config.hydra.sweeper["_target_"]).startswith("hydra."):
        return True
    typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    params: Any = OmegaConf.to_container(config.hydra.sweeper.get("params") or OmegaConf.create({}), resolve=False)
    given = [*typed, *(f"{key}={value}" for key, value in params.items())]
    return any(override.is_sweep_override() for override in OverridesParser.create().parse_overrides(given))


def remove_made_directories() -> None:
    """Remove the folders that Hydra made for a job or a sweep, as far as they are empty.

    Of a sweep without a job, the file that Hydra writes before it composes the first job is removed too.
    """
    if not SweepDirectory.missing or Path.cwd() in SweepDirectory.missing:
        return
    if is_further_process():
        return  # the first process of a run may just have begun to write
    first = SweepDirectory.missing[0]
    if first.is_dir() and [entry.name for entry in first.iterdir()] == ["multirun.yaml"]:
        (first / "multirun.yaml").unlink()
    for folder in SweepDirectory.missing:
        try:
            folder.rmdir()
        except OSError:  # not empty, or another process was faster
            return


def sweep_directory() -> Path | None:
    """Return the directory of the last sweep that this process started; None if it started none."""
    from hydra.types import RunMode

    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    return Path(str(hydra.sweep.dir)) if hydra.mode == RunMode.MULTIRUN else None


def has_begun(sweep_dir: Path | None) -> bool:
    """Return whether a job of the sweep has started, so that later errors do not come from its configuration."""
    return sweep_dir is not None and any(job_folders(sweep_dir))


def sweep_table(outcomes: Sequence[Outcome]) -> Table:
    """Return the closing table, best job first: its number, its own overrides, its objective or why it has none."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("job", no_wrap=True)
    table.add_column("overrides", overflow="fold")
    table.add_column("objective", justify="right", no_wrap=True)
    table.add_column("result", overflow="fold")
    ordered = best_first(outcomes)
    for outcome, overrides in zip(ordered, distinguishing_overrides(ordered), strict=True):
        objective = " ".join(f"{value:.4f}" for value in outcome.objective) or "–"
        result = f"{outcome.status}: {outcome.note}" if outcome.note else outcome.status
        table.add_row(outcome.job, escape(overrides), objective, escape(result))
    return table


def close_sweep(sweep_dir: Path, since: float, kept: bool = True) -> str | None:
    """Print the closing table of a sweep.

    Args:
        sweep_dir: directory of the sweep.
        since: ``time.time()`` when this session of it began.
        kept: whether the directory outlives the command.

    Returns:
        Which jobs failed in this session, in one line; None if none did.
    """
    outcomes = read_outcomes(sweep_dir)
    if not outcomes:
        return None
    from rich.console import Console

    console = Console()
    jobs = "1 job" if len(outcomes) == 1 else f"{len(outcomes)} jobs"
    console.print(f"\nSweep {sweep_dir}, {jobs}, best first:" if kept else f"\n{jobs}:", highlight=False)
    console.print(sweep_table(outcomes))
    failed = [o.job for o in outcomes if o.status == "failed" and o.time >= since - 1.0]  # file systems have own clocks
    if not failed:
        return None
    names = ", ".join(failed)
    if not kept:
        return f"{len(failed)} of {jobs} failed: {names}"
    return f"{len(failed)} of {jobs} failed: {names}; see {sweep_dir / failed[0] / FAILED}"
