"""Which validation result is the best: one metric, or a named composite of several; never a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """One metric value, scaled so that ``worst`` is 0 and ``best`` is 1, and its weight in the composite."""

    weight: float
    worst: float
    best: float

    def scaled(self, value: float) -> float:
        """The value on the scale from 0 (worst) to 1 (best), and beyond: a clipped scale could not tell bad from worse.

        A value that could not be computed is as far below the worst as the best is above it.
        """
        return (value - self.worst) / (self.best - self.worst) if math.isfinite(value) else -1.0


class Selection:
    """Weighted mean of scaled metric values.

    Args:
        criteria: metric value name to ``{weight, worst, best}``.
    """

    def __init__(self, criteria: Mapping[str, Mapping[str, float]]) -> None:
        if not criteria:
            raise ValueError("a selection needs at least one metric")
        self.criteria = {
            name: Criterion(float(c["weight"]), float(c["worst"]), float(c["best"])) for name, c in criteria.items()
        }

    @property
    def name(self) -> str:
        """For tables and logs: ``stoi``, or ``pesq_wb+stoi``."""
        return "+".join(self.criteria)

    def scaled(self, means: Mapping[str, float]) -> list[float]:
        """Each metric's mean value on the scale from 0 (worst) to 1 (best); always finite."""
        return [criterion.scaled(means.get(name, math.nan)) for name, criterion in self.criteria.items()]

    def score(self, means: Mapping[str, float]) -> float:
        """Quality of mean metric values, usually in 0..1; higher is better, and it is always finite."""
        total = sum(c.weight for c in self.criteria.values())
        values = zip(self.criteria.values(), self.scaled(means), strict=True)
        return sum(criterion.weight * value for criterion, value in values) / total
