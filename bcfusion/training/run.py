"""``train(cfg) -> Result``: from a composed configuration to a run directory with a closing table."""

from __future__ import annotations

import dataclasses
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from omegaconf import DictConfig

from bcfusion.configuration.compose import build, plain
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.errors import ConfigError
from bcfusion.evaluation.pool import Scorer
from bcfusion.run.record import Provenance, hyperparameters, write_record
from bcfusion.training import device
from bcfusion.training.assemble import build_datamodule, build_module, build_trainer
from bcfusion.training.beginning import initialise, learns, resumed_content
from bcfusion.training.callbacks.checkpointing import Checkpointing, restore_networks
from bcfusion.training.callbacks.clock import Clock
from bcfusion.training.callbacks.pruning import Pruning
from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.final_evaluation import FinalEvaluation, evaluate_best
from bcfusion.training.fitting import Fitting
from bcfusion.training.module import NonFiniteSteps, SpeechModule
from bcfusion.training.selection import Selection


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        run_dir: where everything was written. step: batches trained. objective: best selection score, in 0..1.
        best: metric means of the best validation. closing: the closing evaluation, on rank zero.
    """

    run_dir: Path
    step: int
    objective: float
    best: Mapping[str, float]
    closing: FinalEvaluation | None


def budget_seconds(cfg: DictConfig) -> float:
    """Wall-clock seconds that the run may take, by the configuration and the device."""
    if cfg.budget.minutes is not None:
        return 60.0 * cfg.budget.minutes
    return 60.0 * (cfg.budget.minutes_gpu if device.on_gpu(cfg.trainer.accelerator) else cfg.budget.minutes_cpu)


def train(
    cfg: DictConfig,
    run_dir: Path,
    provenance: Provenance,
    started: float | None = None,
    hopeless: Callable[[int, float], bool] | None = None,
) -> Result:
    """Trains, validates, and closes with an evaluation of the best generator.

    A generator without anything to train (the identity), and any with ``trainer.max_steps=0``, is validated as it is
    and closes like any other.

    Args:
        cfg: composed and verified configuration.
        run_dir: where everything is written; with ``resume`` the directory of the run that goes on.
        provenance: command line and overrides, for the record.
        started: ``time.monotonic()`` when the command began; the budget counts from there.
        hopeless: gets step and selection score of each validation, on rank zero; where it says so the run ends.

    Raises:
        BcfusionError: data, checkpoint or configuration do not allow it.
        RunPruned: ``hopeless`` ended the run, without closing evaluation and bundle.
        RunInterrupted: a signal ended the run; its state is saved.
    """
    started = time.monotonic() if started is None else started
    settings = cfg.trainer
    device.configure(settings)
    seed_everything(cfg.seed, workers=False, verbose=False)
    config = plain(cfg)
    last = run_dir / "checkpoints" / "last.ckpt"
    resumed = resumed_content(config, last)
    datamodule = build_datamodule(cfg)
    datamodule.setup("fit")
    module, left_out = build_module(cfg)
    module.complete_batch = datamodule.on_after_batch_transfer
    if resumed is not None:
        restore_networks(module, resumed, last)
    elif cfg.init_from is not None:
        initialise(module, cfg)
    if settings.compile:
        module.generator.compile()
        for network in module.adversary.discriminators.values() if module.adversary is not None else ():
            network.compile()
    clock = Clock(
        budget_seconds(cfg),
        started,
        validate_every=settings.validate_every,
        max_steps=settings.max_steps,
        closing_ratio=datamodule.audio_seconds("test") / max(datamodule.audio_seconds("valid"), 1e-9),
        **({} if resumed is None else resumed["clock"]),
    )
    description = {
        "config": config,
        "training": {
            "recipe": provenance.recipe,
            "experiment": provenance.experiment,
            "overrides": list(provenance.overrides),
            "config_dir": provenance.config_dir,
        },
    }
    checkpointing = Checkpointing(
        module,
        last.parent,
        description,
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
            directory=run_dir / "quality",
            hyperparameters=hyperparameters(config, provenance),
            resumed=None if resumed is None else resumed["training"]["quality"],
        )
        ended = settings.max_steps is not None and module.step >= settings.max_steps
        untrained = settings.max_steps == 0 or not learns(module)
        trains = not untrained and (resumed is None or not (clock.spent() or ended))
        # a run that was stopped in a validation makes up for it, one that was stopped in its closing closes; one that
        # does not train at all is validated as it is
        due = (resumed is not None or untrained) and quality.validated_step != module.step
        due = due and (not trains or module.step % settings.validate_every == 0)
        if not trains and not due and (run_dir / "bundle").is_dir():
            raise ConfigError(
                [
                    f"resume: {run_dir} is finished: step {module.step}, {clock.elapsed() / 60:.1f} minutes of a "
                    f"budget of {budget_seconds(cfg) / 60:g}. Raise budget.minutes or trainer.max_steps to go on"
                ]
            )
        anew = resumed is None and cfg.init_from is None
        beginning = [Fitting(datamodule)] if anew else []
        ending = [Pruning(hopeless, quality, selection)] if hopeless is not None else []
        trainer = build_trainer(cfg, run_dir, module.step, clock, quality, checkpointing, beginning, ending)
        datamodule.trainer = trainer  # it divides the data among the ranks
        torch.manual_seed(cfg.seed + trainer.global_rank)  # dropout differs between ranks; a resume restores its own
        if trainer.is_global_zero:
            shutil.rmtree(run_dir / "bundle", ignore_errors=True)  # an earlier session's; this one writes its own
            write_record(run_dir, config, provenance, resumed_at=None if resumed is None else module.step)
            _announce(cfg, module, datamodule, left_out, run_dir)
        _fit(trainer, module, datamodule, run_dir, due, trains)
        closing = evaluate_best(run_dir, datamodule, scorer, cfg, trainer, started=started)
    return Result(
        run_dir=run_dir,
        step=module.step,
        objective=quality.best["best"],
        best=quality.best_values,
        closing=closing,
    )


def _fit(
    trainer: Trainer, module: SpeechModule, datamodule: SpeechDataModule, run_dir: Path, due: bool, trains: bool
) -> None:
    loader = datamodule.train_dataloader()
    loader.start_batch = module.step
    valid = datamodule.val_dataloader()
    try:
        with warnings.catch_warnings():
            # the averaged generator is meant to be in evaluation mode
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            # reading takes a few milliseconds of a step: data.workers is the user's choice
            warnings.filterwarnings("ignore", message=r".*does not have many workers")
            # Lightning's own use of torch
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            if due:
                trainer.validate(module, dataloaders=valid, verbose=False)
            if trains:
                trainer.fit(module, train_dataloaders=loader, val_dataloaders=valid)
    except NonFiniteSteps as error:
        lines = [f"step {step}: {' '.join(ids)}" for step, ids in error.batches]
        (run_dir / f"non_finite_batches-{trainer.global_rank}.txt").write_text("\n".join(lines) + "\n")
        raise
    finally:
        loader.close()


def _announce(
    cfg: DictConfig,
    module: SpeechModule,
    datamodule: SpeechDataModule,
    left_out: Sequence[str],
    run_dir: Path,
) -> None:
    parameters = sum(p.numel() for p in module.generator.parameters()) / 1e6
    print(
        f"bcfusion: {cfg.task.name}, {type(module.generator).__name__} ({parameters:.2f} M parameters), "
        f"{datamodule.describe()}"
    )
    if cfg.trainer.max_steps == 0 or not learns(module):
        why = "trainer.max_steps=0" if learns(module) else f"{type(module.generator).__name__} has nothing to train"
        print(f"{why}: no steps, it is evaluated as it is. Run directory: {run_dir}")
        return
    until = f", at most {cfg.trainer.max_steps} steps" if cfg.trainer.max_steps is not None else ""
    print(
        f"Budget: {budget_seconds(cfg) / 60:g} minutes{until}, closing evaluation included "
        f"(budget.minutes=... changes it). Run directory: {run_dir}"
    )
    if left_out:
        print(f"No discriminators: regression, without {', '.join(f'losses.{name}' for name in left_out)}")
    if module.step:
        print(f"Resumed at step {module.step}")
