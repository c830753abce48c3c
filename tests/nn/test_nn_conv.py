from __future__ import annotations

import copy
from itertools import pairwise, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Conv1d, ConvTranspose1d, PaddingMode, channels_last, remove_weight_norm
from bcfusion.nn.streaming import StreamingError

CONVS = [
    {"kernel_size": k, "stride": s, "dilation": d, "groups": g}
    for k, s, d, g in product((1, 2, 3, 7, 16), (1, 2, 8), (1, 3), (1, 2))
    if (k - 1) * d + 1 >= s
]
TRANSPOSED = [{"kernel_size": k, "stride": s} for k, s in product((1, 2, 4, 7, 16), (1, 2, 8)) if k >= s]


def stream(layer: Conv1d | ConvTranspose1d, x: Tensor, sizes: list[int]) -> Tensor:
    edges = [0]
    while edges[-1] < x.shape[-1]:
        edges.append(min(edges[-1] + sizes[(len(edges) - 1) % len(sizes)], x.shape[-1]))
    with layer.streaming(x.shape[0]):
        return torch.cat([layer(x[..., a:b]) for a, b in pairwise(edges)], dim=-1)


@pytest.mark.parametrize("sizes", CONVS, ids=str)
def test_a_convolution_in_chunks_equals_that_of_the_whole_file(sizes: dict[str, Any]) -> None:
    layer = Conv1d(4, 6, **sizes, causal=True).double()
    stride = sizes["stride"]
    x = torch.randn(2, 4, 24 * stride, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(stream(layer, x, [stride, 2 * stride, 5 * stride]), layer(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("sizes", TRANSPOSED, ids=str)
def test_a_transposed_convolution_in_chunks_equals_that_of_the_whole_file(sizes: dict[str, Any]) -> None:
    layer = ConvTranspose1d(4, 3, **sizes, causal=True).double()
    x = torch.randn(2, 4, 17, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(stream(layer, x, [1, 2, 5]), layer(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("sizes", CONVS, ids=str)
def test_a_causal_frame_depends_on_its_own_last_sample_and_on_none_after_it(sizes: dict[str, Any]) -> None:
    layer, stride = Conv1d(4, 6, **sizes, causal=True), sizes["stride"]
    x = torch.randn(1, 4, 12 * stride)
    for frame in (3, 4):
        poisoned = x.clone()
        poisoned[..., (frame + 1) * stride - 1] = torch.nan
        first_bad = int(layer(poisoned).isnan().any(1)[0].int().argmax())
        assert first_bad == frame


def test_a_centred_convolution_is_torchs_same_padding() -> None:
    layer = Conv1d(3, 5, 7, dilation=3)
    x = torch.randn(2, 3, 40)
    torch.testing.assert_close(layer(x), F.conv1d(x, layer.weight, layer.bias, padding="same", dilation=3))


def test_a_causal_convolution_pads_zeros_to_the_left() -> None:
    layer = Conv1d(3, 5, 16, stride=8, causal=True)
    x = torch.randn(2, 3, 64)
    torch.testing.assert_close(layer(x), F.conv1d(F.pad(x, (8, 0)), layer.weight, layer.bias, stride=8))


def test_a_causal_transposed_convolution_is_the_head_of_torchs() -> None:
    layer = ConvTranspose1d(3, 5, 16, stride=8, causal=True)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(layer(x), F.conv_transpose1d(x, layer.weight, layer.bias, stride=8)[..., :48])


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_any_length_of_at_least_one_sample_gives_ceil_frames(mode: PaddingMode, stride: int) -> None:
    layer = Conv1d(2, 2, 9, stride=stride, dilation=2, padding_mode=mode)
    for length in range(1, 40):
        y = layer(torch.randn(1, 2, length))
        assert y.shape[-1] == -(-length // stride)
        assert y.isfinite().all()


def test_reflection_mirrors_as_far_as_it_can() -> None:
    layer = Conv1d(1, 1, 7, bias=False, padding_mode="reflect")
    long, short = torch.randn(1, 1, 20), torch.tensor([[[1.0, 2.0]]])
    torch.testing.assert_close(layer(long), F.conv1d(F.pad(long, (3, 3), mode="reflect"), layer.weight))
    mirrored = torch.tensor([[[0.0, 0.0, 2.0, 1.0, 2.0, 1.0, 0.0, 0.0]]])
    torch.testing.assert_close(layer(short), F.conv1d(mirrored, layer.weight))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sizes", CONVS[::4], ids=str)
def test_a_convolution_declares_its_last_input(sizes: dict[str, Any], causal: bool) -> None:
    layer = Conv1d(4, 6, **sizes, causal=causal)
    assert_last_input(layer, in_channels=4, length=layer.stride * (4 * layer.extent // layer.stride + 8))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sizes", TRANSPOSED, ids=str)
def test_a_transposed_convolution_declares_its_last_input(sizes: dict[str, Any], causal: bool) -> None:
    assert_last_input(ConvTranspose1d(4, 3, **sizes, causal=causal), in_channels=4, length=48)


def assert_last_input(layer: Conv1d | ConvTranspose1d, in_channels: int, length: int) -> None:
    reached = []
    for t in range(length):
        x = torch.zeros(1, in_channels, length)
        x[..., t] = torch.nan
        reached.append(layer(x).isnan().any(1)[0])
    depends = torch.stack(reached)  # [input, output]
    middle = depends.shape[1] // 2
    for n in range(middle, middle + (2 * layer.stride if isinstance(layer, ConvTranspose1d) else 2)):
        inputs = depends[:, n].nonzero().flatten()
        assert layer.last_input(n) == int(inputs[-1])


@pytest.mark.parametrize("layer", [Conv1d(6, 4, 4, 2), Conv1d(6, 40, 9), ConvTranspose1d(6, 4, 4, 2)], ids=repr)
def test_the_memory_layout_changes_the_speed_and_not_the_values(layer: Conv1d | ConvTranspose1d) -> None:
    for length in (1, 9, 400):  # so that the weight is the larger tensor, then the smaller one
        x = torch.randn(2, 6, length)
        y = layer(channels_last(x))
        torch.testing.assert_close(y, layer(x))
        assert y.stride(1) == 1, "channels-last in, channels-last out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 3, "stride": 4}, "gaps at stride=4"),
        ({"kernel_size": 3, "groups": 3}, "groups=3 must divide"),
        ({"kernel_size": 0}, "at least 1"),
        ({"kernel_size": 3, "causal": True, "padding_mode": "reflect"}, "need future samples"),
        ({"kernel_size": 3, "padding_mode": "circular"}, "one of zeros, reflect"),
        ({"kernel_size": 3, "norm": "batch_norm"}, "one of weight_norm, spectral_norm, null"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_the_constructor(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Conv1d(4, 4, **arguments)


def test_a_transposed_kernel_shorter_than_its_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="gaps at stride=4"):
        ConvTranspose1d(4, 4, 3, stride=4)


def test_centred_layers_refuse_to_stream() -> None:
    for layer in (Conv1d(1, 1, 3), ConvTranspose1d(1, 1, 4, 2)):
        with pytest.raises(StreamingError, match="is not causal"), layer.streaming(1):
            pass


def normed() -> nn.Sequential:
    return nn.Sequential(
        Conv1d(2, 4, 3, norm="weight_norm"),
        nn.ELU(),
        ConvTranspose1d(4, 4, 4, 2, norm="weight_norm"),
        Conv1d(4, 4, 3, norm="spectral_norm"),
        nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 1, 3)),
    )


def test_removing_weight_norm_keeps_the_function_and_leaves_plain_weights() -> None:
    torch.manual_seed(0)
    model, x = normed(), torch.randn(2, 2, 50)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model(x).square().mean().backward()  # used and trained before, as in a run
    optimiser.step()
    model.eval()
    before = model(x)
    plain = remove_weight_norm(copy.deepcopy(model))
    torch.testing.assert_close(plain(x), before, atol=1e-6, rtol=0)
    assert [name for name in plain.state_dict() if "parametrizations" in name] == [
        name for name in model.state_dict() if name.startswith("3.") and "parametrizations" in name
    ], "spectral norm stays"
    assert isinstance(dict(plain.named_parameters())["0.weight"], nn.Parameter)
    assert any("parametrizations.weight" in name for name in model[0].state_dict()), "the original is untouched"
    assert remove_weight_norm(model) is model
    torch.testing.assert_close(model(x), before, atol=1e-6, rtol=0)
    remove_weight_norm(model)  # nothing left to remove
