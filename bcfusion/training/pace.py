"""How long steps and validations take, and how many of them a budget allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from omegaconf import DictConfig

from bcfusion.training.callbacks.progress import rounded
from bcfusion.training.run import budget_seconds

__all__ = ["Steps", "in_words", "now", "timed", "within_budget"]

T = TypeVar("T")


@dataclass(frozen=True)
class Steps:
    """Seconds of a step, reading included: ``early`` before step ``joins``, ``late`` from there on."""

    early: float
    late: float
    joins: int

    def taking(self, count: int) -> float:
        """Return the seconds that ``count`` steps take."""
        early = min(count, self.joins)
        return early * self.early + (count - early) * self.late

    def within(self, seconds: float, further: float) -> int:
        """Return how many steps fit into ``seconds``, each of which takes ``further`` seconds more."""
        count = int(max(seconds, 0.0) / (self.early + further)) if self.joins else 0
        if count < self.joins:
            return count
        return self.joins + int(max(seconds - self.joins * (self.early + further), 0.0) / (self.late + further))


def within_budget(cfg: DictConfig, steps: Steps, validation: float, closing: float) -> str:
    """Return how many steps and validations fit into the budget or, without one, how long all steps take."""
    budget = budget_seconds(cfg)
    if budget is None:
        return _until_done(cfg.trainer, steps, validation, closing)
    left = budget - closing - validation  # a run ends with a validation and the closing evaluation
    count = steps.within(left, validation / cfg.trainer.validate_every)
    limit = cfg.trainer.max_steps
    limited = limit is not None and limit <= count
    count = limit if limited else count
    text = f"{budget / 60:g} minutes: "
    if count < 1:
        text += "not enough for a step, a validation and the closing evaluation; raise budget.minutes"
    else:
        ended = f"all {count} steps of trainer.max_steps" if limited else f"about {rounded(count)} steps"
        text += f"{ended} with {_counted(max(1, count // cfg.trainer.validate_every), 'validation')}"
    return f"{text}; closing evaluation about {in_words(closing)}"


def _until_done(trainer: DictConfig, steps: Steps, validation: float, closing: float) -> str:
    """Return how long a run takes that ends after its number of steps."""
    validations = max(1, trainer.max_steps // trainer.validate_every)
    seconds = steps.taking(trainer.max_steps) + validations * validation + closing
    counted = f"all {trainer.max_steps} steps of trainer.max_steps with {_counted(validations, 'validation')}"
    return f"none: {counted} take about {in_words(seconds)}; closing evaluation about {in_words(closing)}"


def now() -> float:
    """Return the time in seconds, after the work of the GPU has ended."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """Return the result of ``action`` and the seconds that it took."""
    began = now()
    return action(), now() - began


def in_words(seconds: float) -> str:
    """Return a duration with two digits and its unit."""
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:.1f} days"
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
