from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bcfusion.discriminators.multi_period import MultiPeriodDiscriminator
from bcfusion.discriminators.multi_scale import MultiScaleDiscriminator
from bcfusion.nn.conv import Conv1d, Norm
from bcfusion.nn.initial import probe_signal, start_with_unit_variance


def test_the_probe_has_the_level_and_falls_by_6_db_per_octave() -> None:
    probe = probe_signal(0.07)
    assert probe.square().mean().sqrt() == pytest.approx(0.07, rel=1e-5)
    power = torch.fft.rfft(probe).abs().square().mean((0, 1))
    octaves = [10 * torch.log10(power[low : 2 * low].mean()) for low in (500, 1000, 2000)]
    for lower, upper in pairwise(octaves):
        assert lower - upper == pytest.approx(6.02, abs=0.7)


def test_the_probe_does_not_touch_the_global_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    probe_signal(0.07)
    assert torch.rand(1) == expected


def spreads(network: nn.Module, probe: Tensor) -> list[float]:
    found: list[float] = []
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, Conv1d))]
    hooks = [m.register_forward_hook(lambda *a: found.append(a[2].square().mean().sqrt().item())) for m in layers]
    with torch.no_grad():
        network(probe)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("norm", ["weight_norm", None])
def test_every_layer_has_unit_variance_afterwards_and_hardly_any_before(norm: Norm | None) -> None:
    torch.manual_seed(0)
    network = MultiScaleDiscriminator(scales=2, channels=4, max_channels=16, norm=norm)
    probe = probe_signal(0.07)
    assert min(spreads(network, probe)) < 0.1
    assert start_with_unit_variance(network, probe) == 14
    assert spreads(network, probe) == pytest.approx([1.0] * 14, rel=1e-3)
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_two_dimensional_layers_are_scaled_too() -> None:
    torch.manual_seed(0)
    network = MultiPeriodDiscriminator(periods=(2, 3), channels=(4, 8))
    start_with_unit_variance(network, probe_signal(0.07))
    assert spreads(network, probe_signal(0.07)) == pytest.approx([1.0] * 6, rel=1e-3)


def test_a_spectral_norm_keeps_its_scale() -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(1, 4, 5)
    parametrizations.spectral_norm(layer)
    weight = layer.weight.detach().clone()
    assert start_with_unit_variance(layer.eval(), probe_signal(0.07)) == 0
    torch.testing.assert_close(layer.eval().weight, weight, rtol=0.2, atol=0.05)
    assert layer.bias is not None
    assert not layer.bias.any()


def test_initialised_features_tell_two_signals_apart_and_torchs_own_do_not() -> None:
    """The reason for it: the features of a deep discriminator with torch's initial weights are nearly all bias."""
    torch.manual_seed(0)
    network = MultiScaleDiscriminator(scales=1, channels=4, max_channels=32)

    def difference() -> float:
        with torch.no_grad():
            one, other = (network(probe_signal(0.07, seed=seed))[0].features[-1] for seed in (0, 1))
        return ((one - other).abs().mean() / one.abs().mean()).item()

    before = difference()
    start_with_unit_variance(network, probe_signal(0.07))
    assert before < 0.1
    assert difference() > 0.3
