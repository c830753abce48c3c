"""Networks that join sensors: late fusion, attention, two branches, conditions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from bcfusion.configuration.compose import build
from bcfusion.errors import ConfigError
from bcfusion.generators.attention_fusion import AttentionFusion
from bcfusion.generators.bilstm_mapping import BiLSTMMapping
from bcfusion.generators.branches import Branches
from bcfusion.generators.conditioned import Conditioned
from bcfusion.generators.late_fusion import LateFusion
from bcfusion.generators.seanet import SEANet
from bcfusion.generators.two_branch import TwoBranch
from bcfusion.nn.delay import Delay
from bcfusion.nn.network import WaveformNetwork, estimate_of
from bcfusion.probe import measured_delay


class Late(WaveformNetwork):
    """Returns its sensor, ``lookahead`` samples late."""

    def __init__(self, in_channels: int = 1, hop: int = 4, lookahead: int = 0, sample_rate: int = 16000) -> None:
        super().__init__(sample_rate, in_channels, hop, causal=True, lookahead=lookahead)
        self.delay_line = Delay(lookahead)

    def body(self, inputs: Tensor) -> Tensor:
        y: Tensor = self.delay_line(inputs)
        return y


class Ahead(WaveformNetwork):
    """The sum of its channels, 7 samples ahead."""

    def __init__(self, in_channels: int, skip_channel: int) -> None:
        super().__init__(16000, in_channels, hop=1, causal=False, delay=7, skip_channel=skip_channel)

    def body(self, inputs: Tensor) -> Tensor:
        return nn.functional.pad(inputs.sum(1, keepdim=True), (0, 7))[..., 7:]


class Foreign(nn.Module):
    """A third-party generator: no base class, not causal."""

    sample_rate, in_channels, hop, causal, delay = 16000, 1, 6, False, 0

    def __init__(self, in_channels: int) -> None:
        super().__init__()

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"estimate": 2 * inputs}


def set_output(layer: nn.Module, value: float) -> None:
    """Make the layer output one value, whatever its input."""
    weight, bias = layer.parameters()
    nn.init.zeros_(weight)
    nn.init.constant_(bias, value)


SMALL = functools.partial(SEANet, channels=2, strides=(2, 4), bottleneck_channels=4, causal=True)


def test_branches_with_different_delays_and_frames_are_aligned() -> None:
    made = iter([functools.partial(Late, hop=4, lookahead=3), functools.partial(Late, hop=6, lookahead=10)])
    branches = Branches(next(made), next(made), 2, 16000)
    assert (branches.hop, branches.lookahead, branches.causal) == (12, 10, True)
    x = torch.randn(2, 2, 36)
    assert torch.equal(branches(x)[..., 10:], x[..., :-10])


def test_a_third_party_generator_can_be_a_branch_and_one_of_another_rate_cannot() -> None:
    network = LateFusion(Foreign)
    set_output(network.joints[-1], 0.0)
    x = torch.randn(1, 2, 50)
    torch.testing.assert_close(network(x), 2 * x.mean(1, keepdim=True))
    assert not network.causal
    declared = Foreign(1)
    declared.causal, declared.delay = True, 50
    fusion = LateFusion(lambda in_channels: declared)
    assert not fusion.causal, "it has no state to pass from chunk to chunk"
    assert fusion.delay is not None
    assert fusion.delay >= 50
    with pytest.raises(ConfigError, match="Late: works at 8000 Hz, but the network around it at 16000 Hz"):
        LateFusion(functools.partial(Late, sample_rate=8000))


def test_late_fusion_starts_near_the_mean_of_its_branches() -> None:
    torch.manual_seed(0)
    x = 0.07 * torch.randn(2, 2, 4000)
    network = LateFusion(Late)
    with torch.no_grad():
        correction = network(x) - x.mean(1, keepdim=True)
    assert 0 < correction.std() < 0.3 * x.std()


def test_attention_gives_each_sensor_a_share_and_silence_the_rest() -> None:
    torch.manual_seed(0)
    network = AttentionFusion(Late, None, in_channels=3)
    weights = network.attention(torch.randn(2, 3, 257, 9))
    assert weights.shape == (2, 3, 257, 9)
    assert (weights > 0).all()
    assert (weights.sum(1) < 1).all()
    alike = torch.randn(1, 1, 16000).expand(1, 3, -1)
    with torch.no_grad():
        estimate = network(0.07 * alike)
    ratio = estimate[..., 500:-500].std() / (0.07 * alike)[..., 500:-500].std()
    assert 0.8 < ratio < 1.0, "it starts near the mean of the sensors"


def test_attention_works_after_branches_before_a_network_and_between_both() -> None:
    x = 0.07 * torch.randn(1, 2, 3000)
    after, before = AttentionFusion(SMALL, None), AttentionFusion(None, SMALL)
    both = AttentionFusion(functools.partial(Late, lookahead=9), SMALL)
    for network, lookahead in ((after, 384), (before, 384), (both, 393)):
        assert network(x).shape == (1, 1, 3000)
        assert network.lookahead == lookahead
        assert network.hop == 128
    with pytest.raises(ConfigError, match="give a branch before the fusion, a network after it, or both"):
        AttentionFusion(None, None)


@pytest.mark.parametrize("certain", [-100.0, 100.0])
def test_full_confidence_returns_the_air_microphone_and_none_the_mapping(certain: float) -> None:
    torch.manual_seed(0)
    network = TwoBranch(channels=(4, 4), hidden_size=8, num_layers=1).eval()
    set_output(network.confidence.layers[-1], certain)
    x = 0.07 * torch.randn(1, 2, 2000)
    with torch.no_grad():
        output = network(x)
    assert isinstance(output, dict)
    assert output["mask"].shape == (1, 257, 2000 // 128 + 1)
    error = (output["estimate"] - x[:, 1:]).abs().max()
    assert (error < 1e-5) if certain > 0 else (error > 0.01)


def test_without_confidence_the_untrained_mapping_is_near_the_body_sensor() -> None:
    torch.manual_seed(0)
    network = TwoBranch(channels=(4, 4), hidden_size=8, num_layers=1, init_output_scale=0.01).eval()
    set_output(network.confidence.layers[-1], -100.0)
    x = 0.07 * torch.randn(1, 2, 2000)
    with torch.no_grad():
        output = network(x)
    assert isinstance(output, dict)
    torch.testing.assert_close(output["estimate"], x[:, :1], atol=0.005, rtol=0)


def test_an_empty_band_of_the_air_microphone_is_filled_by_the_mapping() -> None:
    torch.manual_seed(0)
    network = TwoBranch(channels=(4, 4), hidden_size=8, num_layers=1, head="mapping").eval()
    x = 0.07 * torch.randn(1, 2, 4000)
    x[:, 1] = 0  # the air microphone is off
    with torch.no_grad():
        output = network(x)
    assert isinstance(output, dict)
    assert output["estimate"].std() > 1e-3


def test_conditions_are_bands_pitch_and_voicing_of_the_given_sensor() -> None:
    t = torch.arange(16128) / 16000
    voice = torch.stack([torch.cos(2 * math.pi * 200 * k * t) for k in (1, 2, 3)]).sum(0) * 0.03
    x = torch.stack([voice, 0.07 * torch.randn(16128)])[None]
    network = Conditioned(SMALL, in_channels=2, bands=20)
    features = network.features(x[:, :1])
    assert features.shape == (1, 22, 63)
    settled = features[..., 6:]
    torch.testing.assert_close(settled[:, 20], torch.full_like(settled[:, 20], math.log2(200 / 150)), atol=0.03, rtol=0)
    assert (settled[:, 21] > 0.95).all()
    assert settled[:, :20].abs().max() < 4
    with torch.no_grad():
        plain = network(x)
        x[:, 0] = 0
        assert not torch.allclose(network(x), plain)
    assert network.hop == 256
    assert not Conditioned(SMALL, bands=0).join.in_channels - 2
    assert not network.join.bias.any(), "louder than the conditions"
    with pytest.raises(ConfigError, match="TwoBranch does not hear all channels of its input alike: it takes no cond"):
        Conditioned(TwoBranch, in_channels=2)
    with pytest.raises(ConfigError, match="air_branch is the air microphone's in place of branch: give both"):
        AttentionFusion(None, SMALL, air_branch=SMALL)
    with pytest.raises(ConfigError, match="leave no condition"):
        Conditioned(SMALL, bands=0, pitch=False)
    ahead = Conditioned(Ahead, hop_length=12, win_length=1024, bands=8, n_fft=1024)
    assert measured_delay(ahead) == ahead.delay == 7 + 11, "a condition is known at the end of its frame"
    with pytest.raises(ConfigError, match="condition_channel=2 must be from -1 to 0"):
        Conditioned(SMALL, condition_channel=2)


def test_a_network_that_measures_the_training_set_cannot_be_inside_another() -> None:
    with pytest.raises(ConfigError, match="BiLSTMMapping: measures the training set"):
        LateFusion(BiLSTMMapping)


@pytest.mark.parametrize(
    "overrides",
    [
        ["generator=late_fusion", "generator@generator.branch=eben_causal"],
        [
            "generator=late_fusion",
            "+generator@generator.air_branch=dccrn_causal",
            "+generator.air_branch._partial_=true",
        ],
        ["generator=attention_fusion", "generator@generator.network=dpcrn"],
        ["generator=attention_fusion", "+generator@generator.branch=eben_causal", "+generator.branch._partial_=true"],
        ["generator=conditioned", "generator@generator.network=eben_causal"],
        [
            "generator=baf_net",
            "generator@generator.body_branch=eben_causal",
            "generator@generator.air_branch=dccrn_causal",
        ],
    ],
)
def test_inner_networks_are_selected_by_name(composed: Callable[..., DictConfig], overrides: list[str]) -> None:
    """With the overrides given in conf/generator and the README."""
    network = build(composed("recipe=fusion", *overrides).generator).eval()
    assert network.causal
    with torch.inference_mode():
        assert estimate_of(network(0.07 * torch.randn(1, 2, 3000))).shape == (1, 1, 3000)


@pytest.mark.slow
def test_the_recipe_sets_the_bands_that_eben_uses_of_a_sensor(composed: Callable[..., DictConfig]) -> None:
    bands = {"bone_to_air": 1, "fusion": 4, "bandwidth_extension": 2}
    for recipe, count in bands.items():
        for name in ("eben", "eben_causal"):
            assert composed(f"recipe={recipe}", f"generator={name}").generator.input_bands == count
    narrow = composed("recipe=bandwidth_extension", "narrow_rate=4000", "generator=eben")
    assert narrow.generator.input_bands == 1
