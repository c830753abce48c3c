from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bcfusion.discriminators.columns import ColumnDiscriminator, Layer
from bcfusion.errors import ConfigError

LAYERS = [Layer(8, 5, 1), Layer(16, 5, 3, groups=4), Layer(16, 3, 2)]


def textbook(model: ColumnDiscriminator, columns: Tensor) -> list[Tensor]:
    """Features and logits by convolutions of ``(B, C, T, columns)``, in float64, which oneDNN does not handle."""
    assert columns.dtype == torch.float64
    h, found = columns.unsqueeze(1), []
    for layer in model.layers:
        assert isinstance(layer, torch.nn.Conv2d)
        half = layer.kernel_size[0] // 2
        h = F.conv2d(h, layer.weight, layer.bias, layer.stride, (half, 0), groups=layer.groups)
        h = F.leaky_relu(h, model.negative_slope)
        found.append(h)
    return [*found, F.conv2d(h, model.logits.weight, model.logits.bias, padding=(1, 0))]


@pytest.mark.parametrize(("batch", "samples", "columns"), [(3, 50, 4), (1, 50, 1), (4, 7, 1), (1, 1, 1), (2, 1, 3)])
def test_columns_side_by_side_equal_the_textbook_layout(batch: int, samples: int, columns: int) -> None:
    torch.manual_seed(0)
    model = ColumnDiscriminator(LAYERS, 0.1, "weight_norm").double()
    x = torch.randn(batch, samples, columns, dtype=torch.float64)
    logits, features = model(x)
    for found, expected in zip([*features, logits], textbook(model, x), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("samples", [1, 9, 10, 16, 19, 20, 21, 22, 40, 41, 42, 70])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_signals_about_as_long_as_the_padding_are_exact(samples: int, stride: int) -> None:
    """There oneDNN's weight gradient of tall grouped kernels is wrong or crashes if the kernel does the padding."""
    torch.manual_seed(0)
    model = ColumnDiscriminator([Layer(64, 1, 1), Layer(64, 41, stride, groups=4)], 0.1, None)
    exact = copy.deepcopy(model).double()
    x = torch.randn(3, samples, 1)
    model(x).logits.square().sum().backward()
    textbook(exact, x.double())[-1].square().sum().backward()
    for parameter, expected in zip(model.parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None
        assert expected.grad is not None
        scale = expected.grad.abs().max().float()
        torch.testing.assert_close(parameter.grad / scale, expected.grad.float() / scale, atol=1e-4, rtol=0)


def test_columns_never_mix() -> None:
    torch.manual_seed(0)
    model = ColumnDiscriminator(LAYERS, 0.1, None)
    x = torch.randn(2, 60, 3)
    other = x.clone()
    other[1, :, 2] = torch.randn(60)
    before, after = model(x), model(other)
    for a, b in zip([*before.features, before.logits], [*after.features, after.logits], strict=True):
        changed = (a != b).flatten(1, 2).any(1)  # (B, columns)
        assert changed.tolist() == [[False, False, False], [False, False, True]]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="kernel_size=4 must be odd"):
        ColumnDiscriminator([Layer(8, 4, 1)], 0.1, None)
    with pytest.raises(ConfigError, match="groups=3 must divide both 8 and 8 channels"):
        ColumnDiscriminator([Layer(8, 5, 1), Layer(8, 5, 1, groups=3)], 0.1, None)
    with pytest.raises(ConfigError, match="out_channels=0"):
        ColumnDiscriminator([Layer(0, 5, 1)], 0.1, None)
    with pytest.raises(ConfigError, match="there is no layer"):
        ColumnDiscriminator([], 0.1, None)
