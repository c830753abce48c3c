"""``train(cfg) -> Result``: from a composed configuration to a run directory with a closing evaluation."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from bcfusion.configuration.compose import build, plain
from bcfusion.configuration.later import later
from bcfusion.configuration.locations import relative_paths
from bcfusion.contracts import Taught
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.errors import ConfigError, TrainingError, first_line
from bcfusion.evaluation.pool import Scorer
from bcfusion.files import remove_folder, write_text
from bcfusion.run.layout import RunDir
from bcfusion.run.models import Resolved, hub_name
from bcfusion.run.record import Provenance, hyperparameters, write_record
from bcfusion.training import device
from bcfusion.training.assemble import build_datamodule, build_module, build_trainer
from bcfusion.training.callbacks.checkpointing import Checkpointing, Restoring
from bcfusion.training.callbacks.clock import Clock
from bcfusion.training.callbacks.early_stopping import EarlyStopping
from bcfusion.training.callbacks.interrupt import Interrupt, RunInterrupted
from bcfusion.training.callbacks.progress import Progress
from bcfusion.training.callbacks.pruning import Pruning
from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.callbacks.schedule_length import ScheduleLength
from bcfusion.training.callbacks.step_log import StepLog
from bcfusion.training.callbacks.whereabouts import Whereabouts
from bcfusion.training.closing_report import patience_key
from bcfusion.training.final_evaluation import FinalEvaluation, evaluate_best
from bcfusion.training.fitting import Fitting
from bcfusion.training.guard import NonFiniteSteps
from bcfusion.training.initial_state import initial_model, load_initial_weights, restore_networks, resumed_content
from bcfusion.training.limits import check_batch_of, check_devices, warn_user
from bcfusion.training.module import SpeechModule
from bcfusion.training.plan import Plan, plan
from bcfusion.training.resumed_settings import kept_choices
from bcfusion.training.selection import Selection
from bcfusion.training.trackers.tracking import tracking
from bcfusion.training.watch import Watch
from bcfusion.training.writing import writing


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of a run.

    Attributes:
        run_dir: where everything was written.
        step: batches trained.
        score: best selection score, usually in 0..1.
        best: metric means of the best validation.
        closing: the closing evaluation, on rank zero.
    """

    run_dir: Path
    step: int
    score: float
    best: Mapping[str, float]
    closing: FinalEvaluation | None


def budget_seconds(cfg: DictConfig) -> float | None:
    """Return the wall-clock seconds that the run may take; None: it takes as long as its steps do."""
    return None if cfg.budget.minutes is None else 60.0 * cfg.budget.minutes


def train(
    cfg: DictConfig,
    run_dir: Path,
    provenance: Provenance,
    started: float | None = None,
    prune: Callable[[int, float], bool] | None = None,
    on_begin: Callable[[int], None] | None = None,
) -> Result:
    """Train, validate, and close with an evaluation of the best generator.

    A generator without anything to train (the identity), and any with ``trainer.max_steps=0``, is validated as it is
    and evaluated like any other.

    Args:
        cfg: composed and verified configuration.
        run_dir: where everything is written; with ``resume`` the directory of the run to resume.
        provenance: command line and overrides, for the record.
        started: ``time.monotonic()`` when the command began; the budget counts from there.
        prune: called on rank zero with step and selection score of each validation; if it returns true, the run ends.
        on_begin: called with the rank of this process when all checks have passed and nothing has been written yet.

    Raises:
        BcfusionError: data, checkpoint or configuration do not allow it.
        RunPruned: ``prune`` ended the run, without closing evaluation and bundle.
        RunInterrupted: a signal ended the run; its state is saved.
    """
    started = time.monotonic() if started is None else started
    run = RunDir(run_dir)
    resumed = resumed_content(cfg, run, provenance)
    if resumed is not None:
        provenance = kept_choices(run, provenance)
    settings = cfg.trainer
    device.configure(settings)
    seed_everything(cfg.seed, workers=False, verbose=False)
    config = plain(cfg)
    warned = check_devices(settings)
    start = None if cfg.init_from is None else initial_model(cfg)
    if start is not None and (named := start.named):
        config["init_from"] = hub_name(named.folder) or os.fspath(named.folder)  # where the model of that name was
    datamodule = build_datamodule(cfg)
    datamodule.setup("fit")
    module, left_out = _module(cfg, datamodule, resumed, run, start)
    warned += check_batch_of(cfg, module, datamodule)
    warn_user(warned)
    if settings.compile:
        _compile(module)
    clock = Clock(
        budget_seconds(cfg),
        started,
        validate_every=settings.validate_every,
        max_steps=settings.max_steps,
        closing_ratio=datamodule.audio_seconds("test", settings.max_test_items)
        / max(datamodule.audio_seconds("valid", settings.max_valid_items), 1e-9),
        closing_items=datamodule.closing_items(settings.max_test_items),
        **({} if resumed is None else resumed["clock"]),
    )
    checkpointing = Checkpointing(
        module,
        run,
        _description(config, provenance),
        every=settings.checkpoint_every,
        validate_every=settings.validate_every,
        clock=clock.state,
        resumed=resumed,
    )
    with Scorer({name: build(node) for name, node in cfg.metrics.items()}, cfg.sample_rate) as scorer:
        selection = Selection(config["selection"])
        quality = Quality(
            scorer,
            selection,
            keep_best=settings.keep_best,
            checkpointing=checkpointing,
            sensors=cfg.task.sensors,
            sample_rate=cfg.sample_rate,
            samples=settings.samples,
            directory=run.quality,
            hyperparameters=hyperparameters(config, provenance),
            resumed=None if resumed is None else resumed["training"]["quality"],
        )
        own_callbacks = [build(node) for node in cfg.callbacks.values()]
        stopping = _stopped_early(own_callbacks, resumed)
        session = plan(
            trainable=module.trainable,
            max_steps=settings.max_steps,
            resumed=resumed is not None,
            step=module.step,
            budget_spent=clock.spent(),
            stopped_early=stopping is not None,
            validated_step=quality.validated_step,
            validate_every=settings.validate_every,
            closed=run.bundle.is_dir(),
        )
        if session.finished:
            raise ConfigError([_finished(cfg, run_dir, module.step, clock.elapsed() / 60, stopping)])
        again = _repeated_point(session, resumed)
        step_log = StepLog(settings.log_every, checkpointing.what_now, again)
        # in the order in which they are called: statistics come before everything, and a search ends a run after all
        # others have done their part
        fitting = Fitting(datamodule, later(cfg, "trainer.statistics_batches"))
        callbacks: list[Callback] = [fitting] if resumed is None and cfg.init_from is None else []
        watch = Watch(60.0 * later(cfg, "trainer.hang_minutes"), checkpointing.what_next)
        callbacks += [Whereabouts(watch), step_log, quality, ScheduleLength(clock)]
        # those of the user after what restores their state, and before what saves it
        callbacks += [Restoring(checkpointing), *own_callbacks, checkpointing]
        callbacks += [Interrupt(checkpointing), clock, Progress(clock, step_log, quality)]
        callbacks += [Pruning(prune, quality, selection)] if prune is not None else []
        trainer = build_trainer(cfg, run_dir, module.step - (again is not None), callbacks, watch)
        datamodule.trainer = trainer  # it divides the data among the ranks
        torch.manual_seed(cfg.seed + trainer.global_rank)  # dropout differs between ranks; a resume restores its own
        if on_begin is not None:
            on_begin(trainer.global_rank)
        if trainer.is_global_zero:
            with writing(run_dir, checkpointing.what_now):
                for folder in (run.bundle, run.samples):  # an earlier session's; this one writes its own
                    remove_folder(folder)
                if resumed is None:
                    _clear(run)
                write_record(run_dir, config, provenance, None if resumed is None else module.step, relative_paths(cfg))
            _announce(cfg, module, datamodule, session, left_out, run_dir)
        with tracking(trainer, hyperparameters(config, provenance), lambda: module.step), watch.guarding():
            _fit(trainer, module, datamodule, session, run, checkpointing.description)
        closing = evaluate_best(run_dir, datamodule, scorer, cfg, trainer, started=started)
        watch.end_children()
    return Result(
        run_dir=run_dir,
        step=module.step,
        score=quality.best_score,
        best=quality.best_values,
        closing=closing,
    )


def _repeated_point(session: Plan, resumed: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the state of the log if the validation of the latest step is repeated, and the step was logged.

    The session before may have logged this validation, and died before it was saved. Loggers then drop all of that
    step, and what was logged of its training is logged again.
    """
    if resumed is None or not session.validate_first:
        return None
    point: Mapping[str, Any] | None = resumed.get("callbacks", {}).get(StepLog.__qualname__)
    return point if point is not None and point["step"] == resumed["step"] else None


def _clear(run: RunDir) -> None:
    """Delete what an attempt has left that ended before it could be resumed, or a run that this one replaces.

    Its curves would be shown with those of this run, and its best checkpoint would be taken for one of this run.
    """
    for file in (*run.checkpoints.glob("*.ckpt"), *run.path.glob("events.out.tfevents.*"), run.metrics):
        file.unlink(missing_ok=True)
    for file in run.all_non_finite_batches():
        file.unlink()
    for folder in (run.quality, run.samples, run.diverged().parent):
        remove_folder(folder)


def _module(
    cfg: DictConfig,
    datamodule: SpeechDataModule,
    resumed: Mapping[str, Any] | None,
    run: RunDir,
    start: Resolved | None,
) -> tuple[SpeechModule, list[str]]:
    """Build the module with the weights that the session starts from, and name the losses that were left out."""
    module, left_out = build_module(cfg)
    module.complete_batch = datamodule.on_after_batch_transfer
    if resumed is not None:
        restore_networks(module, resumed, run.last)
    elif start is not None:
        load_initial_weights(module, cfg, start)
    return module, left_out


def _stopped_early(callbacks: Sequence[Callback], resumed: Mapping[str, Any] | None) -> EarlyStopping | None:
    """Return the callback that has ended the run to resume and would end it again at once; None if none would."""
    states = {} if resumed is None else resumed.get("callbacks", {})
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])
            if callback.ends():
                return callback
    return None


def _finished(cfg: DictConfig, run_dir: Path, step: int, minutes: float, stopping: EarlyStopping | None) -> str:
    """Return why a session is refused that has nothing to do."""
    if stopping is not None:
        return f"resume: {run_dir} is finished: step {step}, {stopping.reason}. Raise {patience_key(cfg)} to continue"
    of = "" if cfg.budget.minutes is None else f" of a budget of {cfg.budget.minutes:g}"
    return (
        f"resume: {run_dir} is finished: step {step}, {minutes:.1f} minutes{of}. Raise budget.minutes or "
        "trainer.max_steps to continue"
    )


def _compile(module: SpeechModule) -> None:
    module.generator.compile()
    if isinstance(module.generator, Taught):  # training calls nothing else of it
        vars(module.generator)["teach"] = torch.compile(module.generator.teach)
    for network in module.adversary.discriminators.values() if module.adversary is not None else ():
        network.compile()


def _description(config: Mapping[str, Any], provenance: Provenance) -> dict[str, Any]:
    """Return what each checkpoint holds about the run."""
    return {
        "config": config,
        "training": {
            "recipe": provenance.recipe,
            "experiment": provenance.experiment,
            "overrides": list(provenance.overrides),
            "config_dir": provenance.config_dir,
            "losses": config["losses"],  # by which a bundle is adapted
        },
    }


def _fit(
    trainer: Trainer,
    module: SpeechModule,
    datamodule: SpeechDataModule,
    session: Plan,
    run: RunDir,
    description: Mapping[str, Any],
) -> None:
    loader = datamodule.train_dataloader()
    loader.start_batch = module.step
    valid = datamodule.val_dataloader()
    try:
        with warnings.catch_warnings():
            # the averaged generator is in evaluation mode on purpose
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            # reading takes a few milliseconds of a step: data.workers is the user's choice
            warnings.filterwarnings("ignore", message=r".*does not have many workers")
            # Lightning's own use of torch
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            if session.validate_first:
                trainer.validate(module, dataloaders=valid, verbose=False)
                if trainer.received_sigterm:  # after its last batch: Lightning would forget it
                    raise SIGTERMException
            if session.train:
                trainer.fit(module, train_dataloaders=loader, val_dataloaders=valid)
    except NonFiniteSteps as error:
        _keep(error, module, run, trainer.global_rank, description)
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(
            f"out of memory after step {module.step}: lower data.batch_size, data.segment_seconds or, if validation "
            f"failed, the length of its files ({first_line(error)})"
        ) from error
    except SIGTERMException:  # before training began, or a second signal; by itself it is an end without an error
        raise RunInterrupted(signal.SIGTERM, module.step) from None
    except SystemExit as end:  # of Lightning, which says nothing of Ctrl-C to whoever waits for the process
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        loader.close()
        module.close()


def _keep(error: NonFiniteSteps, module: SpeechModule, run: RunDir, rank: int, description: Mapping[str, Any]) -> None:
    """Write what is needed to look into the steps that end the run, and say so in the error."""
    lines = [f"step {step}: {' '.join(ids)}" for step, ids in error.batches]
    try:
        write_text(run.non_finite_batches(rank), "\n".join(lines) + "\n")
        if module.kept is not None:
            module.kept.write(run.diverged(rank), description, rank)
            error.args = (f"{error}\nTo see what became non-finite first: {run.replay_command}",)
    except OSError as refused:  # the run ends for another reason
        print(f"bcfusion: {refused}", file=sys.stderr)


def _length(cfg: DictConfig) -> str:
    """Return how long the run is to be, and how to change that."""
    minutes, steps = cfg.budget.minutes, cfg.trainer.max_steps
    if minutes is None:
        return f"Length: {steps} steps (trainer.max_steps=... changes it, budget.minutes=... bounds it)"
    until = "" if steps is None else f", at most {steps} steps"
    return f"Budget: {minutes:g} minutes{until}, closing evaluation included (budget.minutes=... changes it)"


def _announce(
    cfg: DictConfig,
    module: SpeechModule,
    datamodule: SpeechDataModule,
    session: Plan,
    left_out: Sequence[str],
    run_dir: Path,
) -> None:
    parameters = sum(p.numel() for p in module.generator.parameters()) / 1e6
    print(
        f"bcfusion: {cfg.task.name}, {type(module.generator).__name__} ({parameters:.2f} M parameters), "
        f"{datamodule.describe()}"
    )
    if session.as_is:
        why = "trainer.max_steps=0" if module.trainable else f"{type(module.generator).__name__} has nothing to train"
        print(f"{why}: no steps, it is evaluated as it is. Run directory: {run_dir}")
        return
    print(f"{_length(cfg)}. Run directory: {run_dir}")
    if left_out:
        print(f"No discriminators: regression, without {', '.join(f'losses.{name}' for name in left_out)}")
    if module.step:
        print(f"Resumed at step {module.step}")
    elif cfg.resume == "auto":
        print(f"resume=auto: no run in {run_dir.parent} has a checkpoint yet: this one starts from scratch")
