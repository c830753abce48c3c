"""Keys that came later than some recorded configurations, each at the value that these had without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcfusion.configuration.values import at

LATER: Mapping[str, Any] = {
    "optimizer.weight_decay": 0.0,
    "critics": {},
    "adversarial.head_start": 0,
    "trainer.statistics_batches": 50,
    "objective": {},
    "trainer.hang_minutes": 10,
    "replay": False,
    "data.evaluation_body_gain": 0.0,
}


def later(cfg: Mapping[str, Any], path: str) -> Any:
    """Return the value of such a key in a configuration, recorded before it or not."""
    return at(cfg, path, LATER[path])
