"""Sounds to listen to: the same test utterances, enhanced by the model of each run and scored."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bcfusion.commands.shared import hydra_app
from bcfusion.commands.shared.model_evaluation import evaluate_model, load_task_model
from bcfusion.commands.shared.recorded import recorded_for_evaluation, require_of_evaluation
from bcfusion.configuration.check import verify_or_raise
from bcfusion.configuration.overrides import merge_overrides
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.rows import spread
from bcfusion.errors import BcfusionError, ConfigError, DataError
from bcfusion.evaluation.utterances import Utterances
from bcfusion.report.listening.sounds import Source, Take
from bcfusion.training.assemble import build_datamodule

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["enhanced_sources"]


class _Task(NamedTuple):
    """Configuration of a run, its data, and the split to enhance."""

    cfg: DictConfig
    datamodule: SpeechDataModule
    utterances: Utterances


def enhanced_sources(
    models: Mapping[str, Path], overrides: Sequence[str], split: str, utterances: int, trust_code: bool = False
) -> list[Source]:
    """Enhance and score utterances that the test sets of all runs have in common, evenly spread over the set.

    Args:
        models: name of the source to run directory or bundle.
        overrides: changes to the configuration that each model was trained with, as ``data.root=/data``.
        split: ``test`` or ``valid``.
        utterances: largest number of utterances.
        trust_code: see :func:`bcfusion.load_generator`.

    Raises:
        CheckpointError: a model needs other sensors or another sample rate than its configuration gives.
        ConfigError: a configuration cannot be composed.
        DataError: the sets have no utterance in common.
    """
    tasks = {}
    for name, model in models.items():
        try:
            tasks[name] = _compose(model, overrides, split)
        except BcfusionError as error:  # its message does not say which model it is about
            raise ConfigError([f"{name} ({model}):", *(f"  {line}" for line in str(error).splitlines())]) from error
    first, *others = (task.utterances.rows for task in tasks.values())
    common = spread([row for item, row in first.items() if all(item in other for other in others)], utterances)
    if not common:
        raise DataError(
            f"the {split} sets of {', '.join(models)} have no utterance in common; "
            "give the same data to all, as with data.root=..."
        )
    sources = []
    for name, model in models.items():
        print(f"{name}: {len(common)} utterances of {model}", flush=True)
        sources.append(_enhanced(name, model, tasks[name], [row.id for row in common], trust_code))
    return sources


def _compose(model: Path, overrides: Sequence[str], split: str) -> _Task:
    """Compose the configuration that a model was trained with, changed by the overrides, and build its data."""

    def built(cfg: DictConfig) -> _Task:
        verify_or_raise(cfg, training=False)
        datamodule = build_datamodule(cfg)
        return _Task(cfg, datamodule, Utterances.of_split(datamodule, split))

    require_of_evaluation(overrides)
    with tempfile.TemporaryDirectory() as folder:  # Hydra needs a place for its own files
        quiet = [f"hydra.run.dir={folder}", "hydra.output_subdir=null", "hydra/job_logging=none"]
        recorded = recorded_for_evaluation(model)
        task = hydra_app.run(
            built,
            [*merge_overrides(recorded, overrides), *quiet],
            module_file=__file__,
            verb="listen",
            recorded=recorded,
        )
    assert task is not None  # no option that shows instead of running is passed on
    return task


def _enhanced(name: str, model: Path, task: _Task, ids: Sequence[str], trust_code: bool) -> Source:
    generator = load_task_model(task.cfg, model, trust_code=trust_code)
    rows = [task.utterances.rows[item] for item in ids]
    signals: dict[str, Mapping[str, np.ndarray]] = {}

    def keep(_: int, item: str, of_item: Mapping[str, np.ndarray]) -> None:
        if all(np.isfinite(signal).all() for signal in of_item.values()):
            signals[item] = of_item
        else:
            print(f"warning: {name}: {item} is left out: its output is no sound (NaN or infinity)", flush=True)

    utterances = Utterances.of_rows(task.datamodule, rows, task.utterances.split)
    scores = evaluate_model(task.cfg, generator, utterances, keep)
    values: dict[str, dict[str, dict[str, float]]] = {}
    for row in scores.rows:
        values.setdefault(row.id, {})[row.system] = row.values
    takes = {item: Take(of_item, task.cfg.sample_rate, values[item]) for item, of_item in signals.items()}
    return Source(name, takes, scores.higher_is_better)
