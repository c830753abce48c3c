"""``bcfusion train``: train from a configuration, into a run directory."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.hydra_app import record_composition, run
from bcfusion.commands.shared.process_state import is_further_process
from bcfusion.commands.shared.recorded import recorded_overrides
from bcfusion.commands.shared.whose_settings import group_choices, say_whose_settings
from bcfusion.configuration.machine import as_typed, published_name
from bcfusion.configuration.overrides import merge_overrides
from bcfusion.configuration.paths import ROOT_CONFIG
from bcfusion.errors import ConfigError
from bcfusion.files import remove_unfinished
from bcfusion.run import jobs
from bcfusion.run.alive import RunIsTrained, claim, unmark_alive
from bcfusion.run.layout import RunDir
from bcfusion.run.place import check_kind, check_place
from bcfusion.startup import loading

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from bcfusion.run.log import RunLog

HELP = """\
usage: bcfusion train [experiment=NAME] [recipe=NAME] [key=value ...] [hydra options]

Train a network, validate it by PESQ and STOI, keep the best, and finish with a table, sounds and a figure.

examples:
  bcfusion train experiment=seanet                        the demo corpus, within the budget
  bcfusion train experiment=seanet budget.minutes=30      more time
  bcfusion train experiment=eben machine=gpu              the published settings, which a GPU has by itself
  bcfusion train experiment=seanet_streaming data=folder data.root=/data/speech
  bcfusion train experiment=seanet recipe=fusion data.noise_root=/data/noise
  bcfusion train experiment=seanet discriminators=[]      regression
  bcfusion train experiment=seanet resume=auto            continue the newest run of this kind
  bcfusion train resume=runs/bone_to_air/seanet/TIME      continue this run, with its own settings
  bcfusion train resume=RUN debug=replay                  repeat the step that ended RUN, to see what was not finite
  bcfusion train experiment=seanet init_from=RUN          start from the weights of another run
  bcfusion train -m experiment=seanet,eben optimizer.lr=1e-4,3e-4   sweep: one run per combination
  bcfusion train -m hparams_search=optuna experiment=seanet 'optimizer.lr=tag(log,interval(1e-4,1e-2))'   search

hydra options:
  --cfg job               print the composed configuration and stop
  -m, --multirun          sweep over comma-separated values
  --config-dir DIR        your own conf folder (./conf is found without it)
  --hydra-help, --info    more of Hydra
"""


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status."""
    begun = time.monotonic()
    recorded = _recorded(argv)
    argv = merge_overrides(recorded, argv)
    run(lambda cfg: task(cfg, begun), argv, module_file=__file__, verb="train", recorded=recorded)
    return 0


def _recorded(argv: list[str]) -> list[str]:
    """Return the overrides of the run that ``resume=RUN`` names, if it names one."""
    values = [argument.partition("=")[2].strip("'\"") for argument in argv if argument.startswith("resume=")]
    if not values or values[-1] in ("auto", "null", ""):
        return []
    if not {"-m", "--multirun"}.isdisjoint(argv):
        raise ConfigError(
            [
                f"resume={values[-1]}: a sweep starts new runs: leave out -m to continue one, or write "
                f"init_from={values[-1]} to start from its weights"
            ]
        )
    if (found := RunDir.around(values[-1])) is not None:  # before keys of another network are looked up in this one's
        typed = (argument.partition("=")[::2] for argument in argv)
        check_kind(found.path, **{name: value for name, value in typed if name in ("recipe", "experiment")})
    return recorded_overrides(values[-1])


def task(cfg: DictConfig, started: float) -> float | list[float]:
    """Verify the composed configuration and train.

    Args:
        cfg: the composed configuration.
        started: ``time.monotonic()`` when the command began, from which the budget counts. The budget of a job of a
            sweep, which may have waited for others, counts from the start of the job.

    Returns:
        The objective of a sweep: the best score of ``selection`` or, if a search asks for them, its metrics one by
        one, each scaled from worst (0) to best (1). Higher is better, and it is always finite.

    Raises:
        BcfusionError: data, checkpoint or configuration do not allow it.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from bcfusion.run.log import RunLog

    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    run_dir = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    sweeping = hydra.mode == RunMode.MULTIRUN
    session = _Session(cfg, run_dir, sweeping)
    with RunLog() as log, session.ending():
        return _train(cfg, session, log, time.monotonic() if sweeping else started)


class _Session:
    """The run directory of one session: checked first, made when all checks have passed, closed however it ends."""

    def __init__(self, cfg: DictConfig, run_dir: Path, sweeping: bool) -> None:
        self.cfg = cfg
        self.run_dir = run_dir
        self.sweeping = sweeping
        self._writes = False
        self._state = _version(RunDir(run_dir).last)  # from before it is read

    def begin(self, rank: int, log: RunLog, title: str) -> None:
        """Make the directory, and copy what was and will be printed into its log."""
        run = RunDir(self.run_dir)
        if rank == 0:
            if process := claim(run):
                raise RunIsTrained([f"resume: {self.run_dir} is being trained by {process}: wait, or end it first"])
            if _version(run.last) != self._state:  # and the process that did so has ended since
                unmark_alive(run)
                raise RunIsTrained(
                    [f"resume: {self.run_dir} was trained further by another process meanwhile: repeat the command"]
                )
            self._writes = True
            remove_unfinished(run.folders)  # of a session that was killed
            if not self.sweeping:
                jobs.begin(self.run_dir)
                record_composition(self.cfg, self.run_dir)
        log.open(run.log(rank), title)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Note why a session failed after it had begun, and that it is no longer trained."""
        try:
            yield
        except Exception as error:
            # a job of a sweep notes its own failure, which may come before it has begun
            if self._writes and not self.sweeping:
                jobs.note_failure(self.run_dir, error)
            raise
        finally:
            if self._writes:
                unmark_alive(RunDir(self.run_dir))


def _version(file: Path) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None if there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _train(cfg: DictConfig, session: _Session, log: RunLog, started: float) -> float | list[float]:
    from hydra.core.hydra_config import HydraConfig

    with loading():
        from bcfusion.configuration.check import verify_or_raise
        from bcfusion.configuration.later import later
        from bcfusion.search.trial import SearchTrial

    hydra = HydraConfig.get()
    run_dir = session.run_dir
    trial = SearchTrial.of_this_job()
    if later(cfg, "replay"):
        return _replay(cfg, run_dir)
    verify_or_raise(cfg)
    if cfg.resume is None or not RunDir(run_dir).last.is_file():  # else the run's own, which it has announced
        say_whose_settings(cfg)
    # Lightning lists devices and gives tips; bcfusion prints what matters
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    with loading():
        from bcfusion.run.record import Provenance
        from bcfusion.training.callbacks.interrupt import RunInterrupted
        from bcfusion.training.callbacks.pruning import RunPruned
        from bcfusion.training.run import train
        from bcfusion.training.selection import Selection

    # a run that is resumed or repeated is no longer a job of its search
    passing = ("resume=", "hparams_search=", "+hparams_search=")
    overrides = [
        override for override in as_typed(hydra.overrides.task, cfg.machine) if not override.startswith(passing)
    ]
    provenance = Provenance(
        recipe=str(hydra.runtime.choices.get("recipe") or cfg.task.name),  # the config.yaml of a run chooses no members
        experiment=published_name(hydra.runtime.choices.get("experiment")),
        overrides=overrides,
        choices=group_choices(),
        command=["bcfusion", "train", *overrides],
        config_dir=next((s.path for s in hydra.runtime.config_sources if s.provider == "command-line"), None),
        config_name=None if hydra.job.config_name == Path(ROOT_CONFIG).stem else hydra.job.config_name,
    )
    if not is_further_process():  # else the first process checks; it may have begun to write already
        check_place(run_dir, provenance, resumes=cfg.resume is not None, sweeping=session.sweeping)
    title = shlex.join([*provenance.command, *([f"resume={cfg.resume}"] if cfg.resume else [])])
    try:
        result = train(
            cfg,
            run_dir,
            provenance,
            started,
            trial.should_prune if trial and trial.prunes else None,
            lambda rank: session.begin(rank, log, title),
        )
    except RunPruned as pruned:
        if trial is not None and trial.trial is not None:  # one process of several
            jobs.note_pruned(run_dir, pruned)
            print(f"bcfusion: {pruned}, best score {pruned.score:.4f}: the search ends this run")
        return pruned.score
    except RunInterrupted as interruption:
        # a search repeats the trial by itself
        run = RunDir(run_dir)
        resumable = trial is None and run.last.is_file()
        further = f". Continue with:\n  {run.resume_command}" if resumable else ""
        print(f"\nbcfusion: {interruption}{further}", file=sys.stderr)
        raise SystemExit(128 + interruption.signum) from None
    if trial is not None and trial.by_values:
        return Selection(cfg.selection).scaled(result.best)
    return result.score


def _replay(cfg: DictConfig, run_dir: Path) -> float:
    """Print what the step that ended a run shows when it is repeated; nothing is written."""
    if cfg.resume is None:
        raise ConfigError(["debug=replay: name the run that non-finite steps have ended: resume=RUN"])
    with loading():
        from bcfusion.training.replay import replay

    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    print(replay(RunDir(run_dir), cfg.trainer.accelerator).text())
    return 0.0


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
