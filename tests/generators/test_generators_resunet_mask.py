from __future__ import annotations

from typing import Any

import pytest
import torch

from bcfusion.errors import ConfigError
from bcfusion.generators.resunet_mask import Activation, ResUNetMask


def small(activation: Activation = "relu", in_channels: int = 1) -> ResUNetMask:
    torch.manual_seed(0)
    return ResUNetMask(16000, in_channels, 128, 32, 128, "hann", (4, 8), 1, 1.0, activation).eval()


def low_band(samples: int = 4096) -> torch.Tensor:
    """Noise in the lower half of the band, ``(1, 1, samples)``."""
    spectrum = torch.fft.rfft(0.07 * torch.randn(1, 1, samples))
    spectrum[..., samples // 4 :] = 0
    return torch.fft.irfft(spectrum, samples)


@pytest.mark.parametrize(
    ("channels", "count"), [((16, 32, 64, 128, 192, 192), 16.30e6), ((32, 64, 128, 256, 384, 384), 65.15e6)]
)
def test_numbers_of_parameters_at_the_shipped_and_at_the_papers_width(channels: tuple[int, ...], count: float) -> None:
    with torch.device("meta"):
        network = ResUNetMask(channels=channels)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(count, rel=1e-3)


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_a_mask_cannot_fill_an_empty_band(activation: Activation) -> None:
    inputs = low_band()
    with torch.inference_mode():
        estimate = small(activation)(inputs)["estimate"]
    power = torch.fft.rfft(estimate * torch.hann_window(4096)).abs().square()[0, 0]
    assert power[1200:].sum() < 1e-3 * power[:1000].sum()


def test_a_mask_of_one_returns_the_masked_sensor() -> None:
    network = small(in_channels=2)
    torch.nn.init.zeros_(network.unet.last.weight)  # the bias of the relu mask starts at 1
    inputs = 0.07 * torch.randn(1, 2, 1000)
    with torch.inference_mode():
        output = network(inputs)
    assert torch.equal(output["mask"], torch.ones(1, 65, 1000 // 32 + 1))
    torch.testing.assert_close(output["estimate"], inputs[:, -1:], atol=1e-6, rtol=0)


def test_a_sigmoid_mask_only_attenuates_and_a_relu_one_is_not_bounded_above() -> None:
    inputs = 0.07 * torch.randn(1, 1, 2000)
    with torch.inference_mode():
        masks = {activation: small(activation)(inputs)["mask"] for activation in ("sigmoid", "relu")}
    assert 0 <= masks["sigmoid"].min() < masks["sigmoid"].max() <= 1
    assert masks["relu"].min() >= 0
    assert masks["relu"].max() > 1


def test_another_activation_is_refused() -> None:
    activation: Any = "tanh"
    with pytest.raises(ConfigError, match="'tanh' must be one of sigmoid, relu"):
        ResUNetMask(activation=activation)
