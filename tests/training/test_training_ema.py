from __future__ import annotations

import pytest
import torch
from torch import nn

from bcfusion.errors import ConfigError
from bcfusion.training.ema import EmaGenerator


def test_average_follows_the_warmed_up_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    ema = EmaGenerator(network, decay=0.9)
    expected = 0.0
    for step in range(1, 40):
        nn.init.constant_(network.weight, float(step))
        ema.update(network)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert ema.network.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_average_takes_no_gradients_and_stays_in_evaluation_mode() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = EmaGenerator(network, 0.9).train()
    assert not any(p.requires_grad for p in ema.parameters())
    assert not ema.network.training


def test_buffers_are_copied_not_averaged() -> None:
    network = nn.BatchNorm1d(2)
    ema = EmaGenerator(network, 0.999)
    network(torch.randn(8, 2) + 5)
    ema.update(network)
    torch.testing.assert_close(ema.network.running_mean, network.running_mean)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_decay_outside_of_zero_to_one_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="decay"):
        EmaGenerator(nn.Linear(1, 1), decay)


def test_complex_parameters_are_averaged_too() -> None:
    network = nn.Module()
    network.phase = nn.Parameter(torch.tensor([1 + 1j]))
    average = EmaGenerator(network, 0.5)
    with torch.no_grad():
        network.phase += 1j
    average.update(network)
    assert average.network.phase.item() == pytest.approx(1 + (1 + 9 / 11) * 1j)
