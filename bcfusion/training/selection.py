"""Selects the best validation: by one metric or a weighted composite of several, never by a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bcfusion.requirements import require


@dataclass(frozen=True)
class Criterion:
    """A metric value in the composite.

    Attributes:
        weight: its weight in the mean.
        worst: value that is scaled to 0.
        best: value that is scaled to 1.
    """

    weight: float
    worst: float
    best: float

    def scaled(self, value: float) -> float:
        """Scale a value so that ``worst`` is 0 and ``best`` is 1, without clipping: bad and worse remain different.

        A value that could not be computed becomes -1, as far below the worst as the best is above it.
        """
        return (value - self.worst) / (self.best - self.worst) if math.isfinite(value) else -1.0


class Selection:
    """Weighted mean of scaled metric values.

    Args:
        criteria: ``{weight, worst, best}`` by the name of a metric value.

    Raises:
        ConfigError: no criteria.
    """

    def __init__(self, criteria: Mapping[str, Mapping[str, float]]) -> None:
        require(self, (criteria, "criteria must name at least one metric value"))
        self.criteria = {
            name: Criterion(float(c["weight"]), float(c["worst"]), float(c["best"])) for name, c in criteria.items()
        }

    @property
    def name(self) -> str:
        """A name for tables and logs: ``stoi``, or ``pesq_wb+stoi``."""
        return "+".join(self.criteria)

    def unusable(self, means: Mapping[str, float]) -> list[str]:
        """Return the names of the metric values that are not finite: with any, a validation cannot be the best."""
        return [name for name in self.criteria if not math.isfinite(means.get(name, math.nan))]

    def scaled(self, means: Mapping[str, float]) -> list[float]:
        """Return the scaled mean of each metric value; always finite."""
        return [criterion.scaled(means.get(name, math.nan)) for name, criterion in self.criteria.items()]

    def score(self, means: Mapping[str, float]) -> float:
        """Return the quality of mean metric values, usually in 0..1; higher is better; always finite."""
        total = sum(c.weight for c in self.criteria.values())
        values = zip(self.criteria.values(), self.scaled(means), strict=True)
        return sum(criterion.weight * value for criterion, value in values) / total
