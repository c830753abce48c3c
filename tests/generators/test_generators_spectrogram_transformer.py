from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators.spectrogram_transformer import (
    AdaptiveRmsNorm,
    FeedForward,
    RmsNorm,
    SpectrogramTransformer,
    TransformerLayer,
    WaveEmbedding,
)
from bcfusion.inference.chunks import how_joined
from bcfusion.inference.enhance import enhance_signal
from bcfusion.nn.network import estimate_of
from bcfusion.objectives.bridge import Bridge
from bcfusion.objectives.paths import Flow, SchroedingerBridge

SMALL: dict[str, Any] = {"dim": 16, "depth": 4, "heads": 2, "kernel_size": 5, "embedding": 8}
CAUSAL: dict[str, Any] = {**SMALL, "causal": True, "attention_frames": 5, "n_fft": 320, "hop_length": 160}
CAUSAL["win_length"] = 320


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def taught_times(model: SpectrogramTransformer) -> SpectrogramTransformer:
    """As after training: the norms hardly depend on the time before."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulation" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def count(**settings: Any) -> int:
    with torch.device("meta"):
        model = SpectrogramTransformer(**settings)
    return sum(p.numel() for p in model.parameters())


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    """Counted part by part; the public network has 256 bins, which makes 6,146 fewer."""
    dim, depth, heads, bins = 1024, 24, 16, 257
    width = int(dim * 4 * 2 / 3)
    of_layer = 4 * dim * dim + 4 * dim  # attention
    of_layer += dim * 2 * width + 2 * width + width * dim + dim  # feed-forward
    of_layer += 2 * (dim * 2 * dim + 2 * dim)  # gains and shifts by the time
    skips = depth // 2 * (2 * dim * dim + dim)
    ends = 4 * bins * dim + dim + dim * 2 * bins + 2 * bins + dim  # first, last, and the last norm
    places, times = 31 * dim + dim, dim // 2 + dim * dim + dim
    total = count(in_channels=2, dim=dim, depth=depth, heads=heads, embedding=1024)
    assert total == depth * of_layer + skips + ends + places + times + heads == 430_798_834
    assert count() == 9_277_482


def test_a_norm_leaves_the_direction_and_a_root_mean_square_of_one() -> None:
    x = torch.randn(2, 3, 16)
    y = RmsNorm(16)(7 * x)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 3))
    torch.testing.assert_close(y / y.norm(dim=-1, keepdim=True), x / x.norm(dim=-1, keepdim=True))
    assert RmsNorm(16)(torch.zeros(1, 1, 16)).isfinite().all()


def test_gains_and_shifts_follow_the_time_item_by_item() -> None:
    norm = AdaptiveRmsNorm(2, 1)
    with torch.no_grad():
        norm.modulation.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    x = torch.tensor([3.0, 4.0]).expand(2, 1, 2)
    direction = torch.tensor([3.0, 4.0]) / math.sqrt(12.5)
    y = norm(x, torch.tensor([[0.0], [0.5]]))
    torch.testing.assert_close(y[0, 0], direction)
    torch.testing.assert_close(y[1, 0], torch.tensor([1.5, 2.0]) * direction + torch.tensor([1.5, 2.0]))


def test_the_time_is_told_by_sines_and_cosines_of_trained_frequencies() -> None:
    embedding = WaveEmbedding(1, 2)
    with torch.no_grad():
        embedding.frequencies.fill_(1.0)
        embedding.linear.weight.copy_(torch.eye(2))
        embedding.linear.bias.zero_()
    found = embedding(torch.tensor([0.0, 0.25]))
    torch.testing.assert_close(found, torch.nn.functional.silu(torch.tensor([[0.0, 1.0], [1.0, 0.0]])))


def test_one_half_of_the_hidden_values_gates_the_other() -> None:
    network = FeedForward(3, 1.0, 0.0)
    assert network.outward.in_features == 2
    with torch.no_grad():
        network.inward.weight.zero_()
        network.inward.bias.copy_(torch.tensor([2.0, 3.0, 0.5, -9.0]))
        network.outward.weight[:2] = torch.eye(2)
        network.outward.bias.zero_()
    y = network(torch.randn(1, 1, 3))[0, 0]
    open_half = 0.5 * 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
    torch.testing.assert_close(y[:2], torch.tensor([2.0 * open_half, 0.0]), atol=1e-6, rtol=1e-5)


def test_layers_of_the_second_half_take_what_those_of_the_first_were_given_innermost_first() -> None:
    model = SpectrogramTransformer(**SMALL).eval()
    given: list[Tensor] = []
    earlier: list[Tensor | None] = []

    def watch(layer: TransformerLayer, arguments: tuple[Any, ...]) -> None:
        given.append(arguments[0])
        earlier.append(arguments[3] if len(arguments) > 3 else None)

    hooks = [layer.register_forward_pre_hook(watch) for layer in model.layers]
    with torch.inference_mode():
        model(0.1 * torch.randn(1, 1, 2000))
    for hook in hooks:
        hook.remove()
    assert earlier[0] is earlier[1] is None
    assert earlier[2] is given[1]
    assert earlier[3] is given[0]


def test_a_skip_is_joined_by_a_linear_layer_at_a_root_of_two_below() -> None:
    layer = TransformerLayer(4, 2, None, False, 2, 4.0, 0.0, skip=True)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "outward" in name:  # nothing but the skip is left
                parameter.zero_()
        assert layer.join is not None
        layer.join.weight.copy_(torch.cat([2 * torch.eye(4), 3 * torch.eye(4)], dim=1))
        layer.join.bias.zero_()
    x, earlier = torch.randn(1, 5, 4), torch.randn(1, 5, 4)
    model = SpectrogramTransformer(**SMALL)
    y = layer(x, torch.zeros(1, 2), model.alibi(x), earlier)
    torch.testing.assert_close(y, 2 * x + 3 * earlier / math.sqrt(2))


def test_without_the_inner_layers_the_skips_alone_carry_the_signal() -> None:
    """The layers are silenced; each joins only its skip, so the last one gives what the first was given."""
    model = SpectrogramTransformer(**SMALL).eval()
    with torch.no_grad():
        for name, parameter in model.layers.named_parameters():
            if "outward" in name or name.endswith("join.bias"):
                parameter.zero_()
        for layer in list(model.layers)[2:]:
            layer.join.weight.copy_(torch.cat([torch.zeros(16, 16), math.sqrt(2) * torch.eye(16)], dim=1))  # type: ignore[union-attr,operator]
    seen: list[Tensor] = []
    model.layers[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.last_norm.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.inference_mode():
        model(0.1 * torch.randn(1, 1, 2000))
    torch.testing.assert_close(seen[1], seen[0])


def test_frames_without_places_come_back_in_any_order_if_distance_does_not_count() -> None:
    """Only the convolution and the biases know where a frame is."""
    model = taught_times(SpectrogramTransformer(**SMALL)).double()
    with torch.no_grad():
        model.places.weight.zero_()
        model.alibi.slopes.zero_()
        x = torch.randn(1, 1, 257, 9, dtype=torch.float64)
        order = torch.randperm(9)
        (straight, _), _ = model.spectrum(x, x)
        (mixed, _), _ = model.spectrum(x[..., order], x[..., order])
        torch.testing.assert_close(mixed, straight[..., order])
        model.alibi.slopes.fill_(0.5)
        (near, _), _ = model.spectrum(x[..., order], x[..., order])
    assert (near - mixed).abs().max() > 1e-6


@pytest.mark.parametrize("settings", [SMALL, CAUSAL], ids=["file", "causal"])
def test_it_depends_on_the_time_item_by_item_and_takes_that_of_the_source_by_itself(settings: dict[str, Any]) -> None:
    model = taught_times(SpectrogramTransformer(**settings))
    speech = 0.1 * torch.randn(1, 1, 1600).expand(2, -1, -1)
    with torch.inference_mode():
        alone = estimate_of(model(speech))
        with model.at_time(torch.tensor([1.0, 0.3])):
            timed = estimate_of(model(speech))
    torch.testing.assert_close(timed[0], alone[0])
    assert (timed[1] - alone[1]).abs().max() > 1e-4


def test_the_loudness_of_a_frame_is_restored_or_left_to_the_network() -> None:
    speech = 0.1 * torch.randn(1, 1, 3200)
    for normalised in (True, False):
        model = SpectrogramTransformer(**SMALL, head="mapping", normalize_frames=normalised).eval()
        with torch.inference_mode():
            loud, quiet = estimate_of(model(speech)), estimate_of(model(0.01 * speech))
        error = float((100 * quiet - loud).norm() / loud.norm())
        assert error < 0.05 if normalised else error > 1


@pytest.mark.parametrize(
    ("settings", "delay"),
    [(SMALL, None), ({**SMALL, "attention_frames": 6}, 511 + (4 * 6 + 2) * 128), (CAUSAL, 319)],
    ids=["file", "reach", "causal"],
)
def test_how_far_it_looks_ahead(settings: dict[str, Any], delay: int | None) -> None:
    model = SpectrogramTransformer(**settings)
    assert model.delay == delay
    assert how_joined(model, 10_000, 0.3) == ("cross-faded" if delay is None else "exact")


def test_chunks_equal_the_file_if_attention_has_a_reach() -> None:
    model = taught_times(SpectrogramTransformer(**{**SMALL, "attention_frames": 3}))
    speech = 0.1 * torch.randn(1, 30_000)
    with torch.inference_mode():
        whole = estimate_of(model(speech[None]))[0]
    torch.testing.assert_close(enhance_signal(model, speech, chunk_seconds=0.5), whole, atol=1e-5, rtol=1e-4)


def test_a_stream_keeps_the_last_keys_and_values_of_each_layer() -> None:
    model = SpectrogramTransformer(**CAUSAL).eval()
    with model.streaming(1):
        sizes = {name: tuple(tensor.shape) for name, tensor in model.get_state().items()}
        with torch.inference_mode():
            model(0.1 * torch.randn(1, 1, 160 * 40))
        assert {name: tuple(tensor.shape) for name, tensor in model.get_state().items()} == sizes
    assert sizes["layers.3.attention.past"] == (1, 5, 2 * 16)
    assert sizes["alibi.seen"] == (1, 5)


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        (Flow(source="noise", sigma=1.0), {"predict": "velocity", "p_condition": 0.9, "guidance": 1.5}),
        (SchroedingerBridge(), {"predict": "data", "solver": "sde"}),
    ],
    ids=["flow", "bridge"],
)
def test_a_path_of_the_causal_network_streams_with_a_past_for_each_pass(
    path: Flow | SchroedingerBridge, settings: dict[str, Any]
) -> None:
    bridge = Bridge(partial(SpectrogramTransformer, **CAUSAL, head="mapping"), path, steps=3, **settings).eval()
    network = bridge.domain.network
    assert isinstance(network, SpectrogramTransformer)
    assert network.in_channels == 2  # sensor and state, no channel for the time
    taught_times(network)
    speech = 0.1 * torch.randn(1, 1, 160 * 30)
    with torch.inference_mode():
        whole = estimate_of(bridge(speech))
        with bridge.streaming(1):
            parts = torch.cat([estimate_of(bridge(part)) for part in speech.split(160 * 7, dim=-1)], dim=-1)
    expected = whole[..., : -bridge.lookahead]
    torch.testing.assert_close(parts[..., bridge.lookahead :], expected, atol=1e-4 * float(whole.abs().max()), rtol=0)


def test_a_path_over_the_whole_file_is_no_stream() -> None:
    bridge = Bridge(partial(SpectrogramTransformer, **SMALL), Flow("noise", 1.0), predict="velocity", steps=2).eval()
    assert (bridge.causal, bridge.delay) == (False, None)
    with torch.inference_mode():
        assert bridge(0.1 * torch.randn(2, 1, 1500)).shape == (2, 1, 1500)


def test_every_bin_has_a_real_and_an_imaginary_output_of_its_own() -> None:
    """The last bin too: on a flow from noise, one without a velocity would stay noise."""
    model = SpectrogramTransformer(**SMALL, head="mapping", normalize_frames=False)
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias.copy_(torch.arange(2.0 * 257))
        (real, imag), _ = model.spectrum(torch.randn(1, 1, 257, 3), torch.randn(1, 1, 257, 3))
    torch.testing.assert_close(real, torch.arange(257.0)[None, :, None].expand(1, -1, 3))
    torch.testing.assert_close(imag - real, torch.full((1, 257, 3), 257.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 3}, "depth=3 must be even"),
        ({"dim": 30, "heads": 4}, "dim=30 must be a multiple of heads=4"),
        ({"dim": 15, "heads": 3}, "dim=15 must be even"),
        ({"kernel_size": 4}, "kernel_size=4 must be odd unless causal=True"),
        ({"causal": True}, "causal=True needs attention_frames"),
        ({"attention_frames": 0}, "attention_frames=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be from 0 to 0.9"),
        ({"feed_forward": 0.0}, "feed_forward=0.0 must be above 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpectrogramTransformer(**settings)
