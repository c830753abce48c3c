"""Build what a configuration describes: data, module, trainer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import get_class
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, open_dict
from torch import nn

from bcfusion.configuration.additions import trainer_arguments
from bcfusion.configuration.compose import build, generator_node
from bcfusion.configuration.later import later
from bcfusion.configuration.learning import learning_warnings, needs_discriminators, provides_noise
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.nn.initial import probe_signal, start_with_unit_variance
from bcfusion.training import device
from bcfusion.training.adversary import Adversary, Schedule
from bcfusion.training.data_parallel import DataParallel
from bcfusion.training.module import SpeechModule
from bcfusion.training.optimization import NETWORKS, Optimization
from bcfusion.training.watch import Watch

logger = logging.getLogger(__name__)


def build_datamodule(cfg: DictConfig) -> SpeechDataModule:
    """Return the data module of a configuration: the one that its corpus declares, or else the usual one."""
    data = cfg.data
    corpus = build(data.corpus)
    kind: type[SpeechDataModule] = getattr(corpus, "datamodule", SpeechDataModule)
    return kind(
        corpus=corpus,
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
        speakers=data.speakers,
        sensor_dropout=data.sensor_dropout,
        augmentation=build(data.augmentation),
        min_bandwidth=data.min_bandwidth,
        simulate_on_device=data.simulate_on_device,
        evaluation_body_gain=later(cfg, "data.evaluation_body_gain"),
    )


def build_losses(cfg: DictConfig) -> tuple[dict[str, nn.Module], dict[str, float], list[str]]:
    """Build losses and weights by name; the third value names those left out because there are no discriminators."""
    losses: dict[str, nn.Module] = {}
    weights: dict[str, float] = {}
    left_out = []
    for name, node in cfg.losses.items():
        arguments = node.copy()  # keeps its place in the tree, where interpolations start
        with open_dict(arguments):
            weight = float(arguments.pop("weight"))
        loss = build(arguments)
        if not cfg.discriminators and needs_discriminators(type(loss)):
            left_out.append(name)
        else:
            losses[name], weights[name] = loss, weight
    return losses, weights, left_out


def build_module(cfg: DictConfig) -> tuple[SpeechModule, list[str]]:
    """Build the Lightning module of a configuration; the second value names the losses that were left out."""
    losses, weights, left_out = build_losses(cfg)
    adversary = None
    if cfg.discriminators:
        discriminators = {name: build(node) for name, node in cfg.discriminators.items()}
        if cfg.adversarial.speech_level is not None:
            for network in discriminators.values():
                start_with_unit_variance(network, probe_signal(cfg.adversarial.speech_level))
        adversary = Adversary(
            discriminators,
            loss=build(cfg.adversarial.loss),
            weight=cfg.adversarial.weight,
            schedule=Schedule(
                start_step=cfg.adversarial.start_step,
                head_start=later(cfg, "adversarial.head_start"),
                ramp_steps=cfg.adversarial.ramp_steps,
                interval=cfg.adversarial.interval,
                generator_interval=cfg.adversarial.generator_interval,
            ),
            warm_up_losses=cfg.adversarial.warm_up_losses,
            order=cfg.adversarial.order,
            shared_passes=None if cfg.adversarial.shared_passes == "auto" else cfg.adversarial.shared_passes,
        )
    optimization = Optimization(
        optimizers={name: build(cfg.optimizer[name]) for name in NETWORKS},
        schedulers={name: build(cfg.scheduler[name]) for name in NETWORKS},
        clip={name: cfg.trainer.clip[name] for name in NETWORKS},
        accumulate=cfg.trainer.accumulate,
        max_bad_steps=cfg.trainer.max_bad_steps,
    )
    generator = build(generator_node(cfg))
    for warning in learning_warnings(cfg, generator):
        logger.warning(warning)
    module = SpeechModule(
        generator=generator,
        losses=losses,
        weights=weights,
        balancer=build(cfg.balancer),
        optimization=optimization,
        adversary=adversary,
        ema_decay=cfg.trainer.ema_decay,
        batch_names=["noise"] if provides_noise(cfg) else [],
        critics={name: build(node) for name, node in later(cfg, "critics").items()},
    )
    return module, left_out


def build_trainer(
    cfg: DictConfig, run_dir: Path, first_step: int, callbacks: Sequence[Callback], watch: Watch
) -> Trainer:
    """Build the Lightning trainer of a run.

    Args:
        cfg: composed configuration.
        run_dir: where the loggers write.
        first_step: steps that earlier sessions have trained.
        callbacks: in the order in which they are called.
        watch: over the processes of the run, if there are several.
    """
    settings = cfg.trainer
    return Trainer(
        accelerator=settings.accelerator,
        devices=1 if settings.devices == "auto" and not device.on_gpu(settings.accelerator) else settings.devices,
        num_nodes=settings.num_nodes,
        strategy=_strategy(settings, watch),
        plugins=None if settings.environment is None else [build(settings.environment)],
        precision=settings.precision,
        max_epochs=-1,
        logger=[_logger(node, run_dir, first_step) for node in cfg.logger.values()],
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run_dir,
        **trainer_arguments(settings),
    )


def _logger(node: DictConfig, run_dir: Path, first_step: int) -> Logger:
    """Build a logger; one with the arguments ``run_dir`` and ``first_step`` gets them in addition to its node's."""
    known = inspect.signature(get_class(node["_target_"])).parameters
    given = {"run_dir": run_dir, "first_step": first_step}
    return build(node, **{name: value for name, value in given.items() if name in known})


def _strategy(settings: DictConfig, watch: Watch) -> str | Strategy:
    if settings.strategy not in ("auto", "ddp"):
        return str(settings.strategy)
    several = settings.strategy == "ddp" or settings.num_nodes > 1 or settings.devices not in ("auto", 1, "1")
    on_gpus = settings.devices == "auto" and device.on_gpu(settings.accelerator)
    several = several or (on_gpus and torch.cuda.device_count() > 1)
    return DataParallel(watch) if several else "auto"
