from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import build
from bcfusion.contracts import Draw, Simulator
from bcfusion.data.simulation.clean import Clean


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("length", [1, 1000])
def test_the_sensor_equals_the_target_sample_by_sample_and_draws_nothing(length: int, training: bool) -> None:
    air = torch.randn(1, length)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    signal = Clean()(air, Draw(16000, generator, generator, training))["signal"]
    assert torch.equal(signal, air)
    assert torch.equal(generator.get_state(), before)
    signal.zero_()
    assert air.all(), "the target itself was handed out"
    assert isinstance(Clean(), Simulator)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["bone_to_air", "bandwidth_extension", "fusion"])
def test_every_sensor_of_every_recipe_is_clean(composed: Callable[..., DictConfig], recipe: str) -> None:
    cfg = composed(f"recipe={recipe}", "degradation=clean")
    assert verify(cfg) == []
    assert all(isinstance(build(cfg.degradation[sensor]), Clean) for sensor in cfg.task.sensors)
