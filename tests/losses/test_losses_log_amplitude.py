from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.losses.log_amplitude import LogAmplitudeMseLoss

T = 8000
FULL = torch.full((2,), T)


def white(level: float, seed: int) -> Tensor:
    return level * torch.randn(2, 1, T, generator=torch.Generator().manual_seed(seed))


def test_it_is_its_published_definition_on_torch_spectrograms() -> None:
    def log_amplitude(signal: Tensor) -> Tensor:
        window = torch.hann_window(320)
        spectrum = torch.stft(signal[:, 0], 1024, 80, 320, window, pad_mode="constant", return_complex=True)
        return (spectrum.abs() + 1e-4).log()

    estimate, target = white(0.1, 1), white(0.03, 2)
    expected = torch.nn.functional.mse_loss(log_amplitude(estimate), log_amplitude(target))
    torch.testing.assert_close(LogAmplitudeMseLoss()(estimate, target, FULL), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gain", [0.5, 2.0, -1.0])
def test_a_gain_costs_the_square_of_its_logarithm_and_polarity_nothing(gain: float) -> None:
    target = white(0.1, 1)
    loss = LogAmplitudeMseLoss(floor=1e-9)(gain * target, target, FULL)
    assert loss.item() == pytest.approx(math.log(abs(gain)) ** 2, abs=1e-4)


def test_the_floor_must_be_above_0() -> None:
    with pytest.raises(ConfigError, match="floor"):
        LogAmplitudeMseLoss(floor=0.0)
