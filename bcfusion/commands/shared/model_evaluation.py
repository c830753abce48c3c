"""What the verbs that evaluate a model take from a composed configuration: data, metrics, device and seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from bcfusion.evaluation.evaluate import OnItem
    from bcfusion.evaluation.scores import Scores
    from bcfusion.evaluation.utterances import Utterances

__all__ = ["evaluate_model", "load_task_model"]


def load_task_model(cfg: DictConfig, model: Path, *, steps: int | None = None, trust_code: bool = False) -> nn.Module:
    """Load a model on the device of the configuration; ``trust_code`` as in :func:`bcfusion.load_generator`.

    Raises:
        CheckpointError: it cannot be loaded, or does not fit the task of the configuration.
        ConfigError: ``steps`` are given, and it restores speech in one pass.
    """
    from bcfusion.evaluation.evaluate import load_model
    from bcfusion.run.bundle import in_steps
    from bcfusion.training import device

    device.configure(cfg.trainer)  # as the training that it was selected by
    where = "cuda" if device.on_gpu(cfg.trainer.accelerator) else "cpu"
    generator = load_model(model, list(cfg.task.sensors), cfg.sample_rate, where, trust_code=trust_code)
    return in_steps(generator, steps, "steps")


def evaluate_model(cfg: DictConfig, generator: nn.Module, utterances: Utterances, on_item: OnItem) -> Scores:
    """Score a generator with the metrics and the seed of the configuration."""
    import torch

    from bcfusion.configuration.compose import build
    from bcfusion.evaluation.evaluate import evaluate
    from bcfusion.evaluation.pool import Scorer
    from bcfusion.training.device import any_length

    torch.manual_seed(cfg.seed)
    with any_length(), Scorer({name: build(node) for name, node in cfg.metrics.items()}, cfg.sample_rate) as scorer:
        return evaluate(generator, utterances, scorer, on_item)
