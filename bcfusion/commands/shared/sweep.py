"""What a sweep shows of its jobs: the table that closes it, and the error that stands for the failed ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback

from bcfusion.errors import BcfusionError
from bcfusion.run.jobs import FAILED, Outcome, best_first, read_outcomes, told_apart

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.table import Table


class SweepFailed(BcfusionError):
    """Some jobs of a sweep failed; the others have run all the same."""


class SweepDirectory(Callback):
    """Lets the process that started a sweep see, after it, the configuration of the sweep with its directory."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Hydra itself sets this in jobs only."""
        HydraConfig.instance().set_config(config)


def sweep_directory() -> Path | None:
    """Where the sweep lies that this process has started last; None where it started none."""
    from hydra.types import RunMode

    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    return Path(str(hydra.sweep.dir)) if hydra.mode == RunMode.MULTIRUN else None


def has_begun(sweep_dir: Path | None) -> bool:
    """Whether a job of the sweep has started, so that what goes wrong is no longer its configuration."""
    return sweep_dir is not None and any(sweep_dir.rglob(".hydra/overrides.yaml"))


def sweep_table(outcomes: Sequence[Outcome]) -> Table:
    """The closing table, best on top: job, what sets it apart, objective, or why there is none."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("job", no_wrap=True)
    table.add_column("overrides", overflow="fold")
    table.add_column("objective", justify="right", no_wrap=True)
    table.add_column("result", overflow="fold")
    ordered = best_first(outcomes)
    for outcome, overrides in zip(ordered, told_apart(ordered), strict=True):
        objective = " ".join(f"{value:.4f}" for value in outcome.objective) or "–"
        result = f"{outcome.status}: {outcome.note}" if outcome.note else outcome.status
        table.add_row(outcome.job, escape(overrides), objective, escape(result))
    return table


def close_sweep(sweep_dir: Path, since: float) -> str | None:
    """Prints the closing table of a sweep.

    Args:
        sweep_dir: directory of the sweep. since: ``time.time()`` when this session of it began.

    Returns:
        What went wrong in this session, in one line; None where none failed.
    """
    outcomes = read_outcomes(sweep_dir)
    if not outcomes:
        return None
    from rich.console import Console

    console = Console()
    jobs = "1 job" if len(outcomes) == 1 else f"{len(outcomes)} jobs"
    console.print(f"\nSweep {sweep_dir}, {jobs}, best first:", highlight=False)
    console.print(sweep_table(outcomes))
    failed = [o.job for o in outcomes if o.status == "failed" and o.time >= since - 1.0]  # a file system's own clock
    if not failed:
        return None
    return f"{len(failed)} of {jobs} failed: {', '.join(failed)}; {sweep_dir / failed[0] / FAILED} says more"
