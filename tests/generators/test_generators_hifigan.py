"""HiFi-GAN's vocoder, and the network around it: size, alignment, initial output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from published import assert_published, fill, signal
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.hifigan import HifiGan, Vocoder
from bcfusion.losses.mel import LogMelLoss
from bcfusion.nn.conv import remove_weight_norm

SMALL: dict[str, Any] = {"channels": 16, "residual_kernel_sizes": [3, 5], "dilations": [[1, 3], [1, 2]]}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_v1_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = HifiGan()
    assert parameters(model) == parameters(model.vocoder) == 13_936_130  # 13.94 M, with the gains of weight norm


def test_a_second_sensor_adds_its_mel_bands_to_the_first_convolution_and_nothing_else() -> None:
    assert parameters(HifiGan(in_channels=2, **SMALL)) - parameters(HifiGan(**SMALL)) == 16 * 80 * 7


def test_v1_looks_3897_samples_ahead() -> None:
    with torch.device("meta"):
        model = HifiGan()
    assert model.delay == 3897
    assert model.hop == 256


@pytest.mark.parametrize("win_length", [64, 32, 16])
def test_the_delay_is_exactly_how_far_a_nan_reaches(win_length: int) -> None:
    rates: dict[str, Any] = {"rates": [4, 2, 2], "kernel_sizes": [8, 4, 6]}
    model = HifiGan(n_fft=64, win_length=win_length, n_mels=4, **{**SMALL, **rates}).eval()
    assert model.delay is not None
    start = model.hop * (2 + model.delay // model.hop)
    x = torch.zeros(model.hop, 1, start + model.hop)
    for phase in range(model.hop):
        x[phase, 0, start + phase] = torch.nan
    with torch.inference_mode():
        bad = model(x).isnan()[:, 0]
    t = start + torch.arange(model.hop)
    assert int((t - bad.int().argmax(dim=1)).max()) == model.delay


def test_a_burst_changes_the_output_around_its_own_position() -> None:
    torch.manual_seed(0)
    model = HifiGan(**SMALL).eval()
    calm = 0.001 * noise(1, 1, 16000)
    for place in (7000, 7100, 8000):
        burst = calm.clone()
        burst[..., place - 20 : place + 21] += 0.3
        with torch.inference_mode():
            moved = (model(burst) - model(calm)).square()[0, 0]
        centre = float((moved * torch.arange(16000)).sum() / moved.sum())
        assert abs(centre - place) < 128, "half a frame, within which the position depends on learned phases"


def test_fusion_and_upsampling_match_the_paper() -> None:
    torch.manual_seed(0)
    model = remove_weight_norm(Vocoder(6, rates=[4, 2], kernel_sizes=[8, 4], **SMALL)).double()
    mel = noise(2, 6, 9).double()
    p = dict(model.named_parameters())

    def conv(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        weight = p[f"{name}.weight"]
        return F.conv1d(x, weight, p[f"{name}.bias"], padding=dilation * (weight.shape[-1] // 2), dilation=dilation)

    x = conv(mel, "first")
    for level, (rate, size) in enumerate(((4, 8), (2, 4))):
        up = f"blocks.{level}.up"
        padding = (size - rate) // 2
        x = F.conv_transpose1d(F.leaky_relu(x, 0.1), p[f"{up}.weight"], p[f"{up}.bias"], rate, padding)
        fused = []
        for index, dilations in enumerate(SMALL["dilations"]):
            y = x
            for step, dilation in enumerate(dilations):
                name = f"blocks.{level}.fused.{index}"
                h = conv(F.leaky_relu(y, 0.1), f"{name}.dilated.{step}", dilation)
                y = y + conv(F.leaky_relu(h, 0.1), f"{name}.plain.{step}")
            fused.append(y)
        x = torch.stack(fused).mean(0)
    expected = torch.tanh(conv(F.leaky_relu(x, 0.01), "last"))  # torch's default, as in the published code
    torch.testing.assert_close(model(mel), expected, atol=1e-10, rtol=1e-8)


# Before tanh: the public code in float64, with the weights of `fill` and the mel bands `signal(1, 80, 6, level=1.0)`.
PUBLISHED = [
    35.0545076, 0.0668012448, 0.0591104056, 0.0905433009, 0.952734881, 1.37411511, 0.967781642, 0.00756929483,
    0.0789562171, 0.0204769344, 1.36051248, 1.01949447, 1.21112382, 0.0852117212, 0.0409855001, -0.0424968007,
    0.575374093,
]  # fmt: skip


def test_the_vocoder_computes_what_the_public_code_computes() -> None:
    model, before_tanh = remove_weight_norm(Vocoder(channels=32)).double(), []
    fill(model.parameters())
    assert isinstance(model.last, nn.Module)
    model.last.register_forward_hook(lambda _module, _inputs, output: before_tanh.append(output))
    with torch.inference_mode():
        output = model(signal(1, 80, 6, level=1.0))
    assert_published(before_tanh[0], PUBLISHED)
    torch.testing.assert_close(output, torch.tanh(before_tanh[0]))


def test_silence_stays_silent_up_to_both_ends_of_the_file() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        assert HifiGan(**SMALL)(torch.zeros(1, 1, 6000)).abs().max() < 1e-3


def test_the_untrained_vocoder_has_the_level_of_speech() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.inference_mode():
            output = Vocoder(channels=64)(6.0 * noise(1, 80, 20, seed=seed))
        assert 0.02 < output.square().mean().sqrt() < 0.2


def test_it_learns_from_the_first_steps() -> None:
    torch.manual_seed(0)
    model, loss = HifiGan(**SMALL), LogMelLoss(16000)
    target = 0.07 * noise(1, 1, 2048)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    distances = []
    for _ in range(25):
        distance = loss(model(target), target, torch.tensor([2048]))
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(float(distance.detach()))
    assert distances[-1] < 0.8 * distances[0]


def test_sizes_that_do_not_fit_are_refused_all_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)channels=24.*kernel_sizes=\[15.*residual_kernel_sizes=\[4\].*dilations"
    ):
        Vocoder(channels=24, kernel_sizes=[15, 16, 4, 4], residual_kernel_sizes=[4], dilations=[])
    with pytest.raises(ConfigError, match=r"(?s)win_length=1023.*floor=2"):
        HifiGan(win_length=1023, floor=2.0)
