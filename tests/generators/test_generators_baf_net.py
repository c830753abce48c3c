from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.baf_net import BafNet, Calibration
from bcfusion.generators.gtcrn import GTCRN
from bcfusion.generators.laco_senet import LaCoSENet
from bcfusion.nn.delay import Delay
from bcfusion.nn.network import WaveformNetwork, additional_lookahead, estimate_of
from bcfusion.nn.statistics import parts_to_start, start_from_statistics
from bcfusion.objectives.bridge import Bridge
from bcfusion.objectives.paths import SchroedingerBridge
from bcfusion.probe import measured_delay

TRANSFORM: dict[str, Any] = {"n_fft": 80, "hop_length": 20, "win_length": 80}
BRANCH: dict[str, Any] = {
    "channels": 4,
    "blocks": 1,
    "depth": 1,
    "time_pairs": 1,
    "frequency_pairs": 1,
    "time_kernels": (3,),
    "frequency_kernels": (3,),
    "pool_frames": 3,
    **TRANSFORM,
}
SMALL: dict[str, Any] = {"channels": 4, "layers": 2, "kernel_size": 3, **TRANSFORM}


def branch(**arguments: Any) -> functools.partial[LaCoSENet]:
    return functools.partial(LaCoSENet, **{**BRANCH, **arguments})


def network(body: Any = None, air: Any = None, **arguments: Any) -> BafNet:
    torch.manual_seed(0)
    body, air = body or branch(), air or branch(head="mask")
    return BafNet(body, air, **{**SMALL, **arguments}).eval()


def sensors(samples: int = 2000, count: int = 2) -> Tensor:
    return 0.07 * torch.randn(1, count, samples, generator=torch.Generator().manual_seed(1))


def force(model: BafNet, air: float) -> None:
    """Give the air microphone nearly all of the weight, or none."""
    nn.init.zeros_(model.weights.scores.weight)
    with torch.no_grad():
        model.weights.scores.bias.copy_(torch.tensor([-air, air]))


class Late(WaveformNetwork):
    """Its first sensor times a gain, ``lookahead`` samples late."""

    def __init__(self, in_channels: int = 1, hop: int = 4, lookahead: int = 0, gain: float = 1.0) -> None:
        super().__init__(16000, in_channels, hop, causal=True, lookahead=lookahead)
        self.delay_line, self.gain = Delay(lookahead), gain

    def body(self, inputs: Tensor) -> Tensor:
        return self.gain * self.delay_line(inputs[:, :1])


class Ahead(WaveformNetwork):
    """Its sensor, 7 samples ahead; not causal."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(16000, in_channels, hop=1, causal=False, delay=7)

    def body(self, inputs: Tensor) -> Tensor:
        return nn.functional.pad(inputs, (0, 7))[..., 7:]


def test_it_has_two_backbones_and_a_small_network() -> None:
    backbone, fusion = 1_370_257, 38_706
    with torch.device("meta"):
        assert sum(p.numel() for p in BafNet(LaCoSENet, LaCoSENet).parameters()) == 2 * backbone + fusion
        plus = BafNet(LaCoSENet, LaCoSENet, magnitudes=True, calibration_channels=16)
    # two more maps for the first of the convolutions; two layers over 5 frames, and two gains
    calibration = (5 * 5 * 16 + 16 + 16) + (5 * 16 * 16 + 16 + 16) + (16 * 2 + 2)
    assert sum(p.numel() for p in plus.parameters()) == 2 * backbone + fusion + 2 * 49 * 16 + calibration


@pytest.mark.parametrize("arguments", [{}, {"magnitudes": True}, {"compression": 1.0}])
def test_the_output_is_the_weighted_sum_of_both_and_the_weights_sum_to_one(arguments: dict[str, Any]) -> None:
    model = network(**arguments)
    nn.init.normal_(model.weights.scores.weight, std=3.0)
    restored = torch.randn(2, 3, 2, 41, 9)
    with torch.no_grad():
        (real, imag), provided = model.fused(restored)
    weights = provided["weights"]
    assert weights.shape == (2, 41, 9, 2)
    assert 0 < float(weights.min()) < 0.3
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 41, 9))

    def compressed(parts: Tensor) -> Tensor:
        spectrum = torch.complex(parts[..., 0, :, :], parts[..., 1, :, :])
        return torch.polar(spectrum.abs() ** model.compression, spectrum.angle())

    body, air = (compressed(restored[:, which]) for which in (0, 1))
    expected = weights[..., 0] * body + weights[..., 1] * air
    torch.testing.assert_close(compressed(torch.stack([real, imag], dim=1)), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(provided["spectrum"], torch.stack([real, imag], dim=-1))


def test_the_weights_come_from_the_mask_alone_or_from_the_magnitudes_too() -> None:
    restored = torch.randn(1, 3, 2, 41, 9)
    louder, other = 2 * restored, restored.clone()
    other[:, 0] *= 3  # the body sensor: neither the air microphone nor its mask
    with torch.no_grad():
        for magnitudes in (False, True):
            model = network(magnitudes=magnitudes)
            before = model.fused(restored)[1]["weights"]
            for changed in (louder, other):
                after = model.fused(changed)[1]["weights"]
                assert torch.allclose(before, after, atol=1e-6) != magnitudes


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("certain", [-100.0, 100.0])
def test_all_of_the_weight_on_one_branch_returns_what_that_branch_restores(certain: float, shared: bool) -> None:
    sizes = {} if shared else {"n_fft": 160, "win_length": 160, "hop_length": 40}
    model = network(branch(encoder_future=0.5), branch(head="mask", block_future=0.5), **sizes)
    assert model.shares_transform == shared
    force(model, certain)
    kept, shares = ("air", {"block_future": 0.5}) if certain > 0 else ("body", {"encoder_future": 0.5})
    alone = branch(head="mask" if kept == "air" else "mapping", **shares)().eval()
    alone.load_state_dict(model.get_submodule(f"{kept}_branch.network").state_dict())
    x = sensors()
    with torch.inference_mode():
        fused = estimate_of(model(x))
        own = estimate_of(alone(x[:, 1:] if kept == "air" else x[:, :1]))
    inside = slice(200, -200)
    torch.testing.assert_close(fused[..., inside], own[..., inside], atol=2e-5, rtol=1e-3)


def test_untrained_it_takes_about_as_much_of_both() -> None:
    with torch.inference_mode():
        weights = network()(sensors())["weights"]
    assert 0.3 < float(weights.min()) < float(weights.max()) < 0.7


def test_branches_of_different_lateness_wait_for_each_other() -> None:
    """Two copies of one signal, one much later than the other, add up to that signal."""
    model = network(functools.partial(Late, hop=4, lookahead=3), functools.partial(Late, hop=6, lookahead=50))
    assert not model.shares_transform
    assert (model.hop, model.lookahead, model.causal) == (60, 60 + 60, True)
    x = sensors(1500)[:, :1].expand(1, 2, -1)
    with torch.inference_mode():
        output = model(x)
    torch.testing.assert_close(output["estimate"][..., 100:-100], x[:, :1, 100:-100], atol=1e-4, rtol=0)
    assert output["weights"].shape == (1, 41, 76, 2)
    mixed = network(branch(encoder_future=1.0), branch(block_future=0.5), magnitudes=True)
    assert mixed.shares_transform
    assert measured_delay(mixed) == mixed.delay == 79 + 20 * mixed.late_frames
    assert additional_lookahead(mixed) == 20 * mixed.late_frames, "its branches look ahead at the same time"


def test_the_mask_is_what_the_second_branch_does_to_its_input() -> None:
    seen: list[Tensor] = []
    for gain, mask in ((0.25, 0.25), (0.0, 0.0), (1e4, 10.0)):
        model = network(Late, functools.partial(Late, gain=gain, lookahead=9))
        hook = model.weights.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with torch.inference_mode():
            model(sensors())
        hook.remove()
        inside = seen.pop()[:, 0, :, 8:-8]
        torch.testing.assert_close(inside, torch.full_like(inside, mask), atol=0.05, rtol=0.02)  # of faint bins


def test_a_single_sensor_is_restored_by_both_and_body_sensors_by_one() -> None:
    one, three = network(in_channels=1), network(in_channels=3)
    with torch.inference_mode():
        assert one(sensors(count=1))["estimate"].shape == (1, 1, 2000)
        assert three(sensors(count=3))["estimate"].shape == (1, 1, 2000)
    assert one.body_branch.network.in_channels == 1
    assert (three.body_branch.network.in_channels, three.air_branch.network.in_channels) == (2, 1)


def test_a_branch_that_is_not_causal_gives_a_network_that_is_not() -> None:
    model = network(Ahead, Ahead)
    assert not model.causal
    assert measured_delay(model) == model.delay == 79 + 7


def test_gains_are_bounded_and_shared_by_all_bins() -> None:
    calibration = Calibration(4)
    nn.init.constant_(calibration.gains.weight, 0.0)
    magnitudes, mask = torch.rand(1, 2, 41, 6), torch.rand(1, 41, 6)
    for common, relative, body, air in ((0, 0, 0.0, 0.0), (99, 0, 0.5, 0.5), (0, 99, -0.5, 0.5), (-99, -99, 0.0, -1.0)):
        with torch.no_grad():
            calibration.gains.bias.copy_(torch.tensor([float(common), float(relative)]))
            gains = calibration(magnitudes, mask)
        assert gains.shape == (1, 2, 6)
        torch.testing.assert_close(gains[0, :, 0].log(), torch.tensor([body, air]), atol=1e-6, rtol=0)
    plus, plain = network(calibration_channels=4), network()
    nn.init.zeros_(plus.calibration.gains.weight)
    with torch.no_grad():
        plus.calibration.gains.bias.copy_(torch.tensor([99.0, 0.0]))
    plain.load_state_dict(plus.state_dict(), strict=False)
    x = sensors()
    with torch.inference_mode():
        # magnitudes are compressed when the gain is applied
        expected = torch.e ** (0.5 / 0.3) * estimate_of(plain(x))
        torch.testing.assert_close(estimate_of(plus(x)), expected, atol=1e-4, rtol=1e-3)


def test_branches_start_from_the_statistics_of_their_sensors() -> None:
    model = network(branch(frequency_norm="learnable"), branch(head="mask", frequency_norm="learnable"))
    x = sensors()
    x[:, 1] *= 3
    batch: Any = {"inputs": x, "target": x[:, :1], "lengths": torch.tensor([2000])}
    start_from_statistics(model, [batch])
    assert not parts_to_start(model)
    body, air = (
        model.get_submodule(f"{kind}_branch.network.frequency_in").get_buffer("mean") for kind in ("body", "air")
    )
    torch.testing.assert_close(air / body, torch.full_like(body, 3**0.3), atol=0.15, rtol=0)


def test_a_branch_that_only_resembles_a_spectral_network_is_called_on_waveforms() -> None:
    mixed = network(branch(), functools.partial(GTCRN, channels=8, blocks=1, dilations=(1,)), n_fft=80)
    assert not mixed.shares_transform
    assert mixed.hop == 1280, "the least common multiple of 20 and 256"


def test_a_branch_of_the_same_transform_may_look_ahead() -> None:
    ahead = functools.partial(GTCRN, channels=8, blocks=1, dilations=(1,), lookahead_ms=20.0)
    now = functools.partial(GTCRN, channels=8, blocks=1, dilations=(1,))
    model = network(now, ahead, n_fft=512, hop_length=256, win_length=512, window="sqrt_hann")
    assert not model.shares_transform
    assert additional_lookahead(model) == 512, "two hops; frames are no additional look-ahead"
    x = sensors(6000)
    changed = x.clone()
    changed[..., 4000:] += 0.1 * torch.randn_like(changed[..., 4000:])
    with torch.inference_mode():
        before, after = (estimate_of(model.eval()(each)) for each in (x, changed))
    assert model.delay is not None
    same = 4000 - model.delay
    assert torch.equal(before[..., :same], after[..., :same])
    assert not torch.equal(before[..., : same + 520], after[..., : same + 520])


def test_it_takes_no_signals_of_a_path() -> None:
    built = functools.partial(BafNet, branch(), branch(), **SMALL)
    with pytest.raises(ConfigError, match="BafNet does not hear all channels of its input alike"):
        Bridge(built, SchroedingerBridge(), in_channels=2, domain="waveform")


def test_sizes_that_do_not_fit_are_refused() -> None:
    for arguments, message in (
        ({"kernel_size": 4}, "kernel_size=4 must be odd"),
        ({"compression": 1.2}, "compression=1.2 must be at most 1"),
        ({"calibration_channels": -1}, "calibration_channels=-1 must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            network(**arguments)
