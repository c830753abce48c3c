"""``train(cfg) -> Result``: from a composed configuration to a run directory with a closing table."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from omegaconf import DictConfig
from torch import nn

from bcfusion.config import build, plain
from bcfusion.config_check import provides_noise
from bcfusion.data.datamodule import SpeechDataModule
from bcfusion.errors import ConfigError
from bcfusion.metrics.pool import Scorer
from bcfusion.training import checkpoint, device
from bcfusion.training.adversary import Adversary
from bcfusion.training.callbacks.checkpointing import Checkpointing, require_resumable
from bcfusion.training.callbacks.clock import Clock
from bcfusion.training.callbacks.interrupt import Interrupt
from bcfusion.training.callbacks.progress import Progress
from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.callbacks.step_log import StepLog
from bcfusion.training.closing import Closing, close_run
from bcfusion.training.module import JUDGEMENTS, NonFiniteSteps, Optimization, SpeechModule
from bcfusion.training.record import Provenance, hyperparameters, write_record
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
    closing: Closing | None


def build_datamodule(cfg: DictConfig) -> SpeechDataModule:
    """The data of a configuration: corpus, simulators, segments."""
    data = cfg.data
    return SpeechDataModule(
        corpus=build(data.corpus),
        simulators={name: build(node) for name, node in cfg.degradation.items() if name in cfg.task.sensors},
        sensors=list(cfg.task.sensors),
        sample_rate=cfg.sample_rate,
        segment_seconds=data.segment_seconds,
        batch_size=data.batch_size,
        batches_per_pass=cfg.trainer.validate_every,
        workers=data.workers,
        resample=data.resample,
        seed=cfg.seed,
        max_unreadable_share=data.max_unreadable_share,
        max_valid_items=cfg.trainer.max_valid_items,
        max_train_items=data.max_train_items,
    )


def build_losses(cfg: DictConfig) -> tuple[dict[str, nn.Module], dict[str, float], list[str]]:
    """Losses and weights by name, and the names of those left out because there is no discriminator to feed them."""
    losses: dict[str, nn.Module] = {}
    weights: dict[str, float] = {}
    left_out = []
    for name, node in cfg.losses.items():
        arguments = {key: value for key, value in node.items() if key != "weight"}
        loss = build(arguments)
        if not cfg.discriminators and JUDGEMENTS.intersection(loss.forward.__code__.co_varnames):
            left_out.append(name)
            continue
        losses[name], weights[name] = loss, float(node.weight)
    return losses, weights, left_out


def build_module(cfg: DictConfig) -> tuple[SpeechModule, list[str]]:
    """The Lightning module of a configuration, and the names of the losses that were left out."""
    losses, weights, left_out = build_losses(cfg)
    if not any(weights.values()) and not cfg.discriminators:
        raise ConfigError(["losses: nothing to learn from: give a loss with a weight, or discriminators"])
    adversary = None
    if cfg.discriminators:
        adversary = Adversary(
            {name: build(node) for name, node in cfg.discriminators.items()},
            objective=build(cfg.adversarial.objective),
            weight=cfg.adversarial.weight,
            start_step=cfg.adversarial.start_step,
            interval=cfg.adversarial.interval,
        )
    names = ("generator", "discriminator")
    optimization = Optimization(
        optimizers={name: build(cfg.optimizer[name]) for name in names},
        schedulers={name: build(cfg.scheduler[name]) for name in names},
        clip={name: cfg.trainer.clip[name] for name in names},
        accumulate=cfg.trainer.accumulate,
        max_bad_steps=cfg.trainer.max_bad_steps,
    )
    module = SpeechModule(
        generator=build(cfg.generator),
        losses=losses,
        weights=weights,
        balancer=build(cfg.balancer),
        optimization=optimization,
        adversary=adversary,
        ema_decay=cfg.trainer.ema_decay,
        batch_names=["noise"] if provides_noise(cfg) else [],
    )
    return module, left_out


def budget_seconds(cfg: DictConfig) -> float:
    """Wall-clock seconds that the run may take, by the configuration and the device."""
    if cfg.budget.minutes is not None:
        return 60.0 * cfg.budget.minutes
    return 60.0 * (cfg.budget.minutes_gpu if device.on_gpu(cfg.trainer.accelerator) else cfg.budget.minutes_cpu)


def initialise(module: SpeechModule, cfg: DictConfig) -> None:
    """Starts from the weights of another run, checkpoint or bundle.

    Raises:
        CheckpointError: there are none, or they are those of another network.
    """
    source = Path(cfg.init_from)
    state, discriminators = checkpoint.weights_of(source)
    checkpoint.load_weights(module.generator, state, source)
    if module.ema is not None:
        checkpoint.load_weights(module.ema.network, state, source)
    if cfg.init_discriminators:
        if module.adversary is None or discriminators is None:
            raise ConfigError(
                [f"init_discriminators: {'this run has none' if discriminators else f'{source} holds none'}"]
            )
        checkpoint.load_weights(module.adversary.discriminators, discriminators, source)


def train(cfg: DictConfig, run_dir: Path, provenance: Provenance, started: float | None = None) -> Result:
    """Trains, validates, and closes with an evaluation of the best generator.

    Args:
        cfg: composed and verified configuration.
        run_dir: where everything is written; with ``resume`` the directory of the run that goes on.
        provenance: command line and overrides, for the record.
        started: ``time.monotonic()`` when the command began; the budget counts from there.

    Raises:
        BcfusionError: data, checkpoint or configuration do not allow it.
        RunInterrupted: a signal ended the run; its state is saved.
    """
    started = time.monotonic() if started is None else started
    settings = cfg.trainer
    device.configure(settings)
    seed_everything(cfg.seed, workers=False, verbose=False)
    last = run_dir / "checkpoints" / "last.ckpt"
    resumed: dict[str, Any] | None = None
    if cfg.resume is not None and last.is_file():
        resumed = checkpoint.read(last)
        require_resumable(resumed, last)
    elif cfg.resume is not None and cfg.resume != "auto":
        raise ConfigError([f"resume: {run_dir} holds no checkpoints/last.ckpt"])

    datamodule = build_datamodule(cfg)
    module, left_out = build_module(cfg)
    if cfg.init_from is not None and resumed is None:
        initialise(module, cfg)
    if settings.compile:
        module.generator.compile()
        if module.adversary is not None:
            module.adversary.discriminators.compile()
    config = plain(cfg)
    write_record(run_dir, config, provenance, resumed_at=None if resumed is None else int(resumed["step"]))

    datamodule.setup("fit")
    step = 0 if resumed is None else int(resumed["step"])
    used = 0.0 if resumed is None else float(resumed["elapsed"])
    clock = Clock(
        budget_seconds(cfg),
        started,
        max_steps=settings.max_steps,
        closing_ratio=datamodule.audio_seconds("test") / max(datamodule.audio_seconds("valid"), 1e-9),
        used=used,
    )
    if resumed is not None and (clock.spent() or step >= (settings.max_steps or step + 1)):
        raise ConfigError(
            [
                f"resume: {run_dir} is finished: step {step}, {used / 60:.1f} minutes of a budget of "
                f"{budget_seconds(cfg) / 60:g}. Raise budget.minutes or trainer.max_steps to go on"
            ]
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
        elapsed=clock.elapsed,
        resumed=resumed,
    )
    selection = Selection(config["selection"])
    metrics = {name: build(node) for name, node in cfg.metrics.items()}
    with Scorer(metrics, cfg.sample_rate) as scorer:
        step_log = StepLog(settings.log_every)
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
            resumed=None if resumed is None else resumed["training"].get("quality"),
        )
        callbacks: list[Callback] = [step_log, quality, checkpointing, Interrupt(checkpointing), clock]
        callbacks += [Progress(clock, step_log, quality)]
        callbacks += [build(node) for node in cfg.callbacks.values()]
        trainer = Trainer(
            accelerator=settings.accelerator,
            devices=1 if settings.devices == "auto" and not device.on_gpu(settings.accelerator) else settings.devices,
            strategy=_strategy(settings),
            precision=settings.precision,
            max_epochs=-1,
            logger=[build(node, run_dir=run_dir, first_step=step) for node in cfg.logger.values()],
            callbacks=callbacks,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=run_dir,
        )
        datamodule.trainer = trainer  # it divides the data among the ranks
        loader = datamodule.train_dataloader()
        loader.start_batch = step
        if trainer.is_global_zero:
            _announce(cfg, module, datamodule, left_out, step, run_dir)
        try:
            with warnings.catch_warnings():
                # the averaged generator is meant to be in evaluation mode
                warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
                # a pass has no length: after a resume the first one is shorter
                warnings.filterwarnings("ignore", message=r".*does not have many workers")
                # Lightning's own use of torch
                warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
                trainer.fit(module, train_dataloaders=loader, val_dataloaders=datamodule.val_dataloader())
        except NonFiniteSteps as error:
            if trainer.is_global_zero:
                (run_dir / "non_finite_batch.txt").write_text("\n".join(error.ids) + "\n")
            raise
        closing = close_run(run_dir, datamodule, scorer, cfg, trainer, started=started)
    return Result(
        run_dir=run_dir,
        step=module.step,
        objective=quality.best.get("best", 0.0),
        best=quality.best_values,
        closing=closing,
    )


def _strategy(settings: DictConfig) -> str:
    if settings.strategy != "auto":
        return str(settings.strategy)
    several = settings.devices not in ("auto", 1, "1") or (settings.devices == "auto" and torch.cuda.device_count() > 1)
    # the generator's and the discriminators' backward passes leave each other's parameters without gradient
    return "ddp_find_unused_parameters_true" if several else "auto"


def _announce(
    cfg: DictConfig,
    module: SpeechModule,
    datamodule: SpeechDataModule,
    left_out: Sequence[str],
    step: int,
    run_dir: Path,
) -> None:
    parameters = sum(p.numel() for p in module.generator.parameters()) / 1e6
    print(
        f"bcfusion: {cfg.task.name}, {type(module.generator).__name__} ({parameters:.2f} M parameters), "
        f"{datamodule.describe()}"
    )
    until = f", at most {cfg.trainer.max_steps} steps" if cfg.trainer.max_steps is not None else ""
    print(
        f"Budget: {budget_seconds(cfg) / 60:g} minutes{until}, closing evaluation included "
        f"(budget.minutes=... changes it). Run directory: {run_dir}"
    )
    if left_out:
        print(f"No discriminators: regression, without {', '.join(f'losses.{name}' for name in left_out)}")
    if step:
        print(f"Resumed at step {step}")
