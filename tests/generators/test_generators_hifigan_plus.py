"""HiFi-GAN+: size and reach of its WaveNet, its levels, its output with and without the skip connection."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.hifigan_plus import GATED_LEVEL, HifiGanPlus


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_it_has_the_published_parameters_except_for_unused_ones() -> None:
    with torch.device("meta"):
        model = HifiGanPlus()
    unused = 64 * 128 + 128  # the last layer's convolution to the next layer
    assert parameters(model) + unused == 1_055_105  # 1.055 M
    assert parameters(model) == 1_046_785


def test_two_stacks_of_base_three_reach_6560_samples_to_either_side() -> None:
    with torch.device("meta"):
        model = HifiGanPlus()
    assert model.delay == 2 * (3**8 - 1) // 2 == 6560
    assert model.hop == 1


def test_a_nan_reaches_equally_far_on_both_sides() -> None:
    model = HifiGanPlus(channels=4, layers=3).eval()
    x = torch.zeros(1, 1, 201)
    x[..., 100] = torch.nan
    with torch.inference_mode():
        bad = model(x)[0, 0].isnan().nonzero().flatten()
    assert model.delay == 26
    assert bad.tolist() == list(range(100 - 26, 100 + 26 + 1)), "base 3 leaves no gaps"


def test_it_matches_the_wavenet_of_the_paper() -> None:
    torch.manual_seed(0)
    model = HifiGanPlus(channels=6, layers=2, input_skip=False).double()
    p, waveform = dict(model.named_parameters()), 0.07 * noise(2, 1, 60).double()
    x = F.conv1d(waveform, p["first.weight"], p["first.bias"])
    total = torch.zeros_like(x)
    for n, dilation in enumerate((1, 3, 1, 3)):
        name = f"layers.{n}"
        h = F.conv1d(x, p[f"{name}.dilated.weight"], p[f"{name}.dilated.bias"], padding=dilation, dilation=dilation)
        h = h[:, :3].tanh() * h[:, 3:].sigmoid()
        total = total + F.conv1d(h, p[f"{name}.skip.weight"], p[f"{name}.skip.bias"])
        if n < 3:
            x = (x + F.conv1d(h, p[f"{name}.residual.weight"], p[f"{name}.residual.bias"])) * 0.5**0.5
    expected = F.conv1d(total * 0.25**0.5, p["last.weight"], p["last.bias"]).tanh()
    torch.testing.assert_close(model(waveform), expected, atol=1e-12, rtol=1e-9)


def test_the_level_after_the_gate_is_that_of_standard_normal_inputs() -> None:
    a, b = noise(2, 1_000_000)
    assert (a.tanh() * b.sigmoid()).square().mean().sqrt().item() == pytest.approx(GATED_LEVEL, abs=0.005)


def test_variance_is_kept_from_layer_to_layer() -> None:
    torch.manual_seed(0)
    model = HifiGanPlus(channels=64)
    levels: list[float] = []
    for layer in (model.first, *model.layers):
        layer.register_forward_hook(
            lambda _module, _inputs, output: levels.append(
                float((output[0] if isinstance(output, tuple) else output).detach().square().mean().sqrt())
            )
        )
    with torch.inference_mode():
        model(0.07 * noise(1, 1, 8192))
    assert len(levels) == 17
    assert all(0.6 < level < 1.7 for level in levels), levels


@pytest.mark.parametrize("input_skip", [True, False])
def test_the_untrained_network_adds_a_little_in_the_linear_range_of_tanh(input_skip: bool) -> None:
    torch.manual_seed(0)
    model, x = HifiGanPlus(channels=32, input_skip=input_skip), 0.07 * noise(1, 1, 8192)
    with torch.inference_mode():
        own = model(x) - x if input_skip else model(x)
    assert 0.1 * x.std() < own.std() < 0.6 * x.std()


def test_without_the_skip_the_output_stays_within_full_scale() -> None:
    model, x = HifiGanPlus(channels=4, layers=2, input_skip=False, init_output_scale=100.0), noise(1, 1, 500)
    with torch.inference_mode():
        assert 0.9 < model(x).abs().max() <= 1.0


def test_the_skip_adds_the_chosen_sensor() -> None:
    model, x = HifiGanPlus(in_channels=3, channels=4, layers=2, skip_channel=1), 0.1 * noise(1, 3, 100)
    nn.init.zeros_(model.last.weight)
    with torch.inference_mode():
        assert torch.equal(model(x), x[:, 1:2])


@pytest.mark.slow
def test_without_the_skip_it_learns_to_pass_its_input_on() -> None:
    torch.manual_seed(0)
    model, x = HifiGanPlus(channels=16, stacks=1, layers=3, input_skip=False), 0.07 * noise(2, 1, 2048)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    errors = []
    for _ in range(80):
        error = F.l1_loss(model(x), x)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.3 * F.l1_loss(x, torch.zeros_like(x))


def test_sizes_that_do_not_fit_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)channels=7.*layers=0.*kernel_size=4.*speech_level=0"):
        HifiGanPlus(channels=7, layers=0, kernel_size=4, speech_level=0.0)
