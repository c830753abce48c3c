from __future__ import annotations

from collections.abc import Callable

import pytest
from omegaconf import DictConfig, OmegaConf

from bcfusion.configuration.later import LATER, later


@pytest.mark.parametrize("path", LATER)
def test_a_key_that_came_later_is_at_its_shipped_value(composed: Callable[..., DictConfig], path: str) -> None:
    """A run of before would otherwise train differently from one that types nothing."""
    assert later(composed(), path) == LATER[path]
    assert later(OmegaConf.create({"trainer": {}}), path) == LATER[path]


def test_what_is_set_counts() -> None:
    assert later({"adversarial": {"head_start": 3}}, "adversarial.head_start") == 3
