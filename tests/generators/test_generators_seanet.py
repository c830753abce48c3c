from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import AudioError, ConfigError
from bcfusion.generators.seanet import DecoderBlock, SEANet
from bcfusion.nn.conv import remove_weight_norm
from bcfusion.nn.cpu import elu
from bcfusion.nn.streaming import StreamingError

STREAMING: dict[str, Any] = {"channels": 8, "causal": True, "weight_norm": False}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def stream(model: SEANet, x: Tensor, hops: list[int]) -> Tensor:
    edges = [0]
    while edges[-1] < x.shape[-1]:
        edges.append(edges[-1] + hops[(len(edges) - 1) % len(hops)] * model.hop)
    with torch.inference_mode(), model.streaming(x.shape[0]):
        return torch.cat([model(x[..., a:b]) for a, b in pairwise(edges)], dim=-1)


def test_seanet_has_the_published_number_of_parameters() -> None:
    model = SEANet()
    assert round(parameters(model) / 1e6, 3) == 8.340
    assert parameters(remove_weight_norm(model)) == 8_331_712


def test_streaming_seanet_has_692848_parameters() -> None:
    assert parameters(SEANet(**STREAMING)) == 692_848


def test_a_second_sensor_adds_one_kernel_to_each_first_channel_and_nothing_else() -> None:
    assert parameters(SEANet(in_channels=2, **STREAMING)) - parameters(SEANet(**STREAMING)) == 8 * 7


def test_a_frame_of_seanet_at_16_khz_lasts_16_ms() -> None:
    model = SEANet(**STREAMING)
    assert model.hop / model.sample_rate == 0.016
    assert model.delay == 255, "the first output of a frame depends on its last sample, and on none after it"
    assert SEANet(channels=1).delay == 3105


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("strides", [(2, 2, 8, 8), (4, 3), (5,)], ids=str)
def test_the_delay_is_exactly_how_far_a_nan_reaches(causal: bool, strides: tuple[int, ...]) -> None:
    model = SEANet(channels=1, bottleneck_channels=2, strides=strides, causal=causal).eval()
    assert model.delay is not None
    start = model.hop * (2 + model.delay // model.hop)
    x = torch.zeros(model.hop, 1, start + model.hop)
    for phase in range(model.hop):  # all frame phases at once, one per item
        x[phase, 0, start + phase] = torch.nan
    with torch.inference_mode():
        bad = model(x).isnan()[:, 0]
    t = start + torch.arange(model.hop)
    assert int((t - bad.int().argmax(dim=1)).max()) == model.delay


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("weight_norm", [True, False])
def test_chunks_give_the_output_of_the_whole_file(dtype: torch.dtype, tolerance: float, weight_norm: bool) -> None:
    torch.manual_seed(0)
    model = SEANet(channels=8, causal=True, weight_norm=weight_norm, in_channels=2, init_output_scale=1.0).to(dtype)
    x = 0.1 * torch.randn(2, 2, 14 * model.hop, dtype=dtype)
    with torch.inference_mode():
        whole = model(x)
    for hops in ([1], [2], [7], [1, 3, 2, 7, 1]):
        assert (stream(model, x, hops) - whole).abs().max() <= tolerance * whole.abs().max()


def test_a_saved_stream_continues_after_another() -> None:
    model, x = SEANet(**STREAMING), 0.1 * torch.randn(1, 1, 6 * 256)
    with torch.inference_mode():
        with model.streaming(1):
            model(x[..., :768])
            saved, straight = model.get_state(), model(x[..., 768:])
        with model.streaming(1):
            model(torch.randn(1, 1, 512))
            model.set_state(saved)
            assert torch.equal(model(x[..., 768:]), straight)


def test_streaming_needs_whole_frames_and_a_causal_network() -> None:
    model = SEANet(**STREAMING)
    with model.streaming(1), pytest.raises(StreamingError, match="not a multiple of the hop, 256"):
        model(torch.zeros(1, 1, 300))
    with pytest.raises(StreamingError, match="SEANet is not causal"), SEANet(channels=1).streaming(1):
        pass


def test_the_untrained_correction_is_somewhat_below_the_speech_level() -> None:
    torch.manual_seed(0)
    x = 0.07 * torch.randn(2, 1, 16000)  # -23 dBFS
    for model in (SEANet(), SEANet(**STREAMING)):
        with torch.inference_mode():
            error = model(x) - x
        assert 0.2 * x.std() < error.std() < x.std()


def test_initial_activations_of_speech_have_unit_level_throughout() -> None:
    torch.manual_seed(0)
    model = SEANet()
    levels: list[float] = []
    for layer in (model.first, *model.encoder, model.reduce, model.expand, *model.decoder):
        layer.register_forward_hook(lambda _module, _inputs, output: levels.append(float(output.detach().std())))
    with torch.inference_mode():
        model(0.07 * torch.randn(2, 1, 8192))
    assert len(levels) == 11
    assert all(0.5 < level < 8.0 for level in levels), levels


def test_the_output_starts_from_the_chosen_sensor() -> None:
    x = torch.randn(1, 2, 700)
    for skip in (0, -1):
        model = SEANet(in_channels=2, channels=2, skip_channel=skip, init_output_scale=1e-6)
        torch.testing.assert_close(model(x), x[:, skip].unsqueeze(1), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="skip_channel=2"):
        SEANet(in_channels=2, skip_channel=2)


@pytest.mark.parametrize(
    "arguments", [{"strides": ()}, {"strides": (2, 0)}, {"init_output_scale": 0.0}, {"channels": 0}], ids=str
)
def test_invalid_sizes_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SEANet(**arguments)


def test_every_level_of_the_encoder_feeds_the_same_level_of_the_decoder() -> None:
    torch.manual_seed(0)
    model, x = SEANet(channels=2, weight_norm=False, init_output_scale=1.0), torch.randn(1, 1, 1024)
    with torch.no_grad():
        model.expand.weight.zero_()
        y = model(x)
        for decode in model.decoder:  # without biases, a block whose first layer is zero outputs zeros
            assert isinstance(decode, DecoderBlock)
            decode.up.weight.zero_()
            without = model(x)
            assert not torch.allclose(without, y), "this block had only its skip connection as input"
            y = without
        torch.testing.assert_close(y, x + model.last(elu(model.first(x))))


def test_removing_weight_norm_changes_nothing() -> None:
    torch.manual_seed(0)
    model, x = SEANet(channels=4).eval(), 0.1 * torch.randn(1, 1, 2000)
    model(x).sum().backward()
    plain = remove_weight_norm(copy.deepcopy(model))
    assert not any("parametrizations" in name for name in plain.state_dict())
    torch.testing.assert_close(plain(x), model(x), atol=1e-6, rtol=0)


def test_another_number_of_sensors_is_refused() -> None:
    with pytest.raises(AudioError, match="2 sensors"):
        SEANet(in_channels=2, channels=2)(torch.zeros(1, 1, 256))


def test_our_elu_equals_torchs_in_value_and_gradient() -> None:
    x = torch.cat([torch.linspace(-30, 5, 4001), torch.tensor([-0.0, 0.0, -1e-9, -torch.inf, torch.inf])])
    ours, torchs = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(elu(ours), F.elu(torchs), atol=1.2e-7, rtol=0)
    elu(ours).sum().backward()
    F.elu(torchs).sum().backward()
    torch.testing.assert_close(ours.grad, torchs.grad, atol=1.2e-7, rtol=0)
    assert elu(torch.tensor([torch.nan])).isnan().all()
    wide = torch.linspace(-3, 3, 50, requires_grad=True)
    (slope,) = torch.autograd.grad(elu(wide).sum(), wide, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), wide)
    torch.testing.assert_close(curvature, torch.where(wide < 0, wide.exp(), 0.0))


@pytest.mark.slow
def test_the_whole_file_network_exports_with_a_dynamic_length() -> None:
    model = SEANet(channels=2, strides=(2, 3), causal=True, weight_norm=False).eval()
    frames = torch.export.Dim("frames", min=2, max=10_000)  # torch.export specialises on sizes of one
    example = (torch.randn(1, 1, 4 * 6),)
    exported = torch.export.export(model, example, dynamic_shapes=({2: 6 * frames},)).module()
    for count in (2, 11):
        x = torch.randn(1, 1, count * 6)
        torch.testing.assert_close(exported(x), model(x), atol=1e-6, rtol=1e-4)
