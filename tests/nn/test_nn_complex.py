from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.complex import ComplexConv2d, ComplexConvTranspose2d, ComplexLSTM, LinearPerPart, complex_cat
from bcfusion.nn.streaming import StreamingModule


def as_complex(x: Tensor) -> Tensor:
    return torch.complex(*x.chunk(2, dim=1))


def as_real(x: Tensor) -> Tensor:
    return torch.cat([x.real, x.imag], dim=1)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def bias_of(layer: nn.Module) -> Tensor:
    """The biases b_r of W_r x and b_i of W_i x, combined like the parts of a complex product."""
    assert isinstance(layer.bias, Tensor)
    real, imag = layer.bias.detach().chunk(2)
    return torch.complex(real - imag, real + imag)


@pytest.mark.parametrize("causal", [True, False])
def test_the_convolution_is_a_convolution_of_complex_numbers(causal: bool) -> None:
    torch.manual_seed(0)
    layer = ComplexConv2d(3, 4, (5, 2), 16, stride=2, padding=(2, 1), causal=causal).double()
    x = noise(2, 6, 16, 9)
    weight = torch.complex(*layer.layer.weight.detach().chunk(2))
    past = F.pad(as_complex(x), (1, 0, 2, 1))  # a kernel of two frames reaches into the past, causal or not
    expected = F.conv2d(past, weight, stride=(2, 1)) + bias_of(layer.layer)[:, None, None]
    torch.testing.assert_close(layer(x), as_real(expected))
    assert (layer.out_bins, layer.future) == (8, 0)


@pytest.mark.parametrize(("causal", "future"), [(True, None), (False, 0), (False, 1)])
def test_the_transposed_convolution_is_one_of_complex_numbers(causal: bool, future: int | None) -> None:
    torch.manual_seed(0)
    layer = ComplexConvTranspose2d(3, 4, (5, 2), 8, stride=2, padding=(2, 1), causal=causal, future=future).double()
    x = noise(2, 6, 8, 9)
    weight = torch.complex(*layer.layer.weight.detach().chunk(2, dim=1))
    expected = F.conv_transpose2d(as_complex(x), weight, stride=(2, 1))[:, :, 2:-1]
    first = future or 0
    expected = expected[..., first : first + 9] + bias_of(layer.layer)[:, None, None]
    torch.testing.assert_close(layer(x), as_real(expected))
    assert (layer.out_bins, layer.future) == (16, first)


def test_each_part_has_a_dense_layer_of_its_own() -> None:
    layer, x = LinearPerPart(3, 5).double(), noise(2, 6, 7)
    real, imag = x.transpose(1, 2).chunk(2, dim=2)
    expected = torch.cat([layer.real(real), layer.imag(imag)], dim=2).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected)


def test_the_lstm_combines_four_real_outputs_like_a_complex_product() -> None:
    layer, x = ComplexLSTM(3, 5).double(), noise(2, 6, 7)
    cells = {name: nn.LSTM(3, 5, batch_first=True).double() for name in ("real", "imag")}
    cells["real"].load_state_dict(layer.real.layers.state_dict())
    cells["imag"].load_state_dict(layer.imag.layers.state_dict())
    x_real, x_imag = x.transpose(1, 2).chunk(2, dim=2)

    def run(weight: str, part: Tensor) -> Tensor:
        output: Tensor = cells[weight](part)[0]
        return output.transpose(1, 2)

    real = run("real", x_real) - run("imag", x_imag)
    imag = run("real", x_imag) + run("imag", x_real)
    torch.testing.assert_close(layer(x), torch.cat([real, imag], dim=1))


@pytest.mark.parametrize("scale", [1j, -1.0, 0.6 + 0.8j], ids=str)
def test_layers_without_bias_commute_with_a_turn_of_phase(scale: complex) -> None:
    conv = ComplexConv2d(2, 3, (3, 2), 8, bias=False, causal=True).double()
    back = ComplexConvTranspose2d(3, 2, (3, 2), conv.out_bins, bias=False, causal=True).double()
    x = noise(1, 4, 8, 5)
    turned = back(conv(as_real(scale * as_complex(x))))
    torch.testing.assert_close(as_complex(turned), scale * as_complex(back(conv(x))))
    assert not torch.allclose(turned, back(conv(x)))


def test_concatenation_keeps_real_parts_before_imaginary_parts() -> None:
    x, y = noise(2, 4, 3, 5), noise(2, 6, 3, 5)
    joined = as_complex(complex_cat(x, y))
    assert torch.equal(joined, torch.cat([as_complex(x), as_complex(y)], dim=1))


LAYERS = {
    # with few bins a short chunk is computed by a matrix product, with many bins by a convolution
    "conv, few bins": (lambda: ComplexConv2d(2, 16, (5, 2), 4, 2, (2, 1), causal=True), (4, 4)),
    "conv, many bins": (lambda: ComplexConv2d(1, 2, (5, 3), 512, 2, (2, 1), causal=True), (2, 512)),
    "conv, one frame": (lambda: ComplexConv2d(2, 16, (5, 1), 4, 2, (2, 1), bias=False, causal=True), (4, 4)),
    "transposed, few bins": (lambda: ComplexConvTranspose2d(2, 16, (5, 2), 4, 2, (2, 1), causal=True), (4, 4)),
    "transposed, many bins": (lambda: ComplexConvTranspose2d(1, 2, (5, 3), 512, 2, (2, 1), causal=True), (2, 512)),
    "transposed, one frame": (
        lambda: ComplexConvTranspose2d(2, 16, (5, 1), 4, 2, (2, 1), bias=False, causal=True),
        (4, 4),
    ),
    "LSTM": (lambda: ComplexLSTM(3, 4), (6,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_chunks_give_the_output_of_the_whole_file(name: str) -> None:
    build, shape = LAYERS[name]
    layer: StreamingModule = build().double()
    x = noise(2, *shape, 24)
    with torch.inference_mode():
        whole = layer(x)
        edges = [0, 1, 2, 5, 7, 24]
        with layer.streaming(2):
            chunks = torch.cat([layer(x[..., a:b]) for a, b in pairwise(edges)], dim=-1)
            assert all(tensor.shape[0] == 2 for tensor in layer.get_state().values()), "a state per item"
    torch.testing.assert_close(chunks, whole, atol=1e-12, rtol=0)


def test_invalid_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="LinearPerPart: in_features=0"):
        LinearPerPart(0, 2)
    with pytest.raises(ConfigError, match="future=1"):
        ComplexConvTranspose2d(1, 1, (3, 2), 4, causal=True, future=1)
