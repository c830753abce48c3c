"""Sounds to listen to: the same test utterances, enhanced by the model of each run and scored."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bcfusion.commands.shared import hydra_app
from bcfusion.commands.shared.recorded import recorded_for_evaluation
from bcfusion.configuration.check import verify_or_raise
from bcfusion.configuration.compose import build
from bcfusion.configuration.overrides import merge_overrides
from bcfusion.contracts import Metric
from bcfusion.data.loading.datamodule import SpeechDataModule, spread
from bcfusion.data.loading.loaders import EvalLoader, UnreadableTally
from bcfusion.data.loading.segments import EvalItems
from bcfusion.errors import BcfusionError, CheckpointError, ConfigError, DataError
from bcfusion.evaluation.evaluate import evaluate_generator
from bcfusion.evaluation.pool import Scorer
from bcfusion.report.listening.sounds import Source, Take
from bcfusion.run.bundle import bundle_of, load_generator
from bcfusion.training import device
from bcfusion.training.assemble import build_datamodule

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["enhanced_sources"]


@dataclass(frozen=True)
class _Task:
    """What the configuration of a run builds: its data, the metrics, the network's inputs and where it runs."""

    datamodule: SpeechDataModule
    metrics: Mapping[str, Metric]
    sensors: Sequence[str]
    sample_rate: int
    device: str
    seed: int


def enhanced_sources(models: Mapping[str, Path], overrides: Sequence[str], split: str, utterances: int) -> list[Source]:
    """Enhances utterances that the test sets of all runs have in common, evenly spread, and scores them.

    Args:
        models: run directory or bundle by the name of its source. overrides: of the configuration that each was trained
            with, as ``data.root=/data``. split: ``test`` or ``valid``. utterances: how many, at most.

    Raises:
        CheckpointError: a model takes other sensors or another rate than its configuration gives. ConfigError: a
            configuration cannot be composed. DataError: the sets have no utterance in common.
    """
    tasks = {}
    for name, model in models.items():
        try:
            tasks[name] = _task(model, overrides, split)
        except BcfusionError as error:  # which of them it is stands in none of these messages
            raise ConfigError([f"{name} ({model}):", *(f"  {line}" for line in str(error).splitlines())]) from error
    shown = {name: _split(task, split) for name, task in tasks.items()}
    rows = {name: {row.id: row for row in task.datamodule.rows(shown[name])} for name, task in tasks.items()}
    first, *others = rows.values()
    common = spread([row for item, row in first.items() if all(item in other for other in others)], utterances)
    if not common:
        raise DataError(
            f"the {split} sets of {', '.join(models)} have no utterance in common; "
            "give the same data to all, as with data.root=..."
        )
    sources = []
    for name, model in models.items():
        chosen = [rows[name][row.id] for row in common]
        print(f"{name}: {len(chosen)} utterances of {model}", flush=True)
        loader = EvalLoader(
            EvalItems(chosen, tasks[name].datamodule.reader), UnreadableTally(len(chosen), 1.0, shown[name])
        )
        sources.append(_enhanced(name, model, tasks[name], loader))
    return sources


def _task(model: Path, given: Sequence[str], split: str) -> _Task:
    """Composes the configuration that a model was trained with, changed by what is given now, and builds it."""
    with tempfile.TemporaryDirectory() as folder:  # Hydra wants a place for its own files
        quiet = [f"hydra.run.dir={folder}", "hydra.output_subdir=null", "hydra/job_logging=none"]
        task = hydra_app.run(
            lambda cfg: _built(cfg, split),
            [*merge_overrides(recorded_for_evaluation(model), given), *quiet],
            config_name="train",
            module_file=__file__,
            verb="listen",
        )
    assert task is not None  # no option that shows instead of running is passed on
    return task


def _built(cfg: DictConfig, split: str) -> _Task:
    verify_or_raise(cfg, training=False)
    datamodule = build_datamodule(cfg)
    datamodule.setup("test" if split == "test" else "validate")
    return _Task(
        datamodule=datamodule,
        metrics={name: build(node) for name, node in cfg.metrics.items()},
        sensors=list(cfg.task.sensors),
        sample_rate=cfg.sample_rate,
        device="cuda" if device.on_gpu(cfg.trainer.accelerator) else "cpu",
        seed=cfg.seed,
    )


def _split(task: _Task, split: str) -> str:
    return task.datamodule.test_split if split == "test" else split


def _enhanced(name: str, model: Path, task: _Task, loader: EvalLoader) -> Source:
    generator = load_generator(model, device=task.device)
    bundle = bundle_of(generator)
    assert bundle is not None  # load_generator attaches it
    if bundle.sensors != task.sensors or bundle.sample_rate != task.sample_rate:
        raise CheckpointError(
            f"{model} takes {', '.join(bundle.sensors)} at {bundle.sample_rate} Hz, but the task gives "
            f"{', '.join(task.sensors)} at {task.sample_rate} Hz: choose its recipe and sample_rate"
        )
    signals: dict[str, dict[str, np.ndarray]] = {}

    def keep(index: int, item: str, heard: Mapping[str, np.ndarray]) -> None:
        signals[item] = dict(heard)

    torch.manual_seed(task.seed)
    with Scorer(task.metrics, task.sample_rate) as scorer:
        scores = evaluate_generator(generator, loader, scorer, task.sensors, on_item=keep)
    values: dict[str, dict[str, dict[str, float]]] = {}
    for row in scores.rows:
        values.setdefault(row.id, {})[row.system] = row.values
    takes = {item: Take(heard, task.sample_rate, values.get(item, {})) for item, heard in signals.items()}
    return Source(name, takes, scores.higher_is_better)
