"""scripts/step_flops.py: the operations of layers are those that follow from their sizes."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from script_loading import load_script
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bcfusion.nn.cpu import PointwiseConv1d


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("step_flops")


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_a_convolution_takes_three_times_its_forward_pass_whatever_its_groups(
    script: ModuleType, kind: type[nn.Conv1d], groups: int
) -> None:
    layer = kind(16, 32, 4, stride=2, groups=groups)
    inputs = torch.randn(3, 16, 101, requires_grad=True)
    outputs = layer(inputs)
    places = 101 if kind is nn.ConvTranspose1d else outputs.shape[-1]
    forward = 2 * 3 * 16 * 32 // groups * 4 * places
    assert script.count(lambda: layer(inputs)) == forward
    assert script.count(lambda: layer(inputs).sum().backward()) == 3 * forward
    assert script.count(lambda: layer(inputs.detach()).sum().backward()) == 2 * forward, "no gradient of the inputs"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_applies_each_matrix_at_every_frame(
    script: ModuleType, kind: type[nn.LSTM], dtype: torch.dtype | None
) -> None:
    layer = kind(8, 4, num_layers=2, batch_first=True, bidirectional=True)
    inputs = torch.randn(3, 10, 8, requires_grad=True)
    forward = 2 * 3 * 10 * sum(p.numel() for p in layer.parameters() if p.ndim == 2)

    def both() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            layer(inputs)[0].float().sum().backward()

    assert script.count(lambda: layer(inputs)) == forward
    try:
        both()
    except RuntimeError as error:
        pytest.skip(f"this CPU has no such layer: {error}")
    # a GRU's products are counted one by one on a CPU: there is none for the gradient of the first state
    assert script.count(both) == pytest.approx(3 * forward, rel=0.02 if kind is nn.GRU else 0)


def test_a_recurrent_layer_on_a_gpu_counts_like_one_on_a_cpu(script: ModuleType) -> None:
    """Shapes alone are computed, so that no GPU is needed."""
    layer = nn.LSTM(8, 4, num_layers=2, batch_first=True, bidirectional=True)
    shapes = [parameter.shape for parameter in layer.parameters()]
    with FakeTensorMode():
        inputs = torch.empty(10, 3, 8, device="cuda")
        weights = [torch.empty(shape, device="cuda") for shape in shapes]
        state = torch.empty(4, 3, 4, device="cuda")
        given = (inputs, weights, 4, None, state, state, 2, 4, 0, 2, False, 0.0, True, True, [], None)
        forward = script.count(lambda: torch.ops.aten._cudnn_rnn(*given))
    assert forward == 2 * 3 * 10 * sum(shape.numel() for shape in shapes if len(shape) == 2)
    assert script.cudnn_rnn_backward((10, 3, 8), shapes) == 2 * forward


def test_a_matrix_product_takes_two_operations_per_multiply_accumulate(script: ModuleType) -> None:
    assert script.count(lambda: torch.randn(5, 7) @ torch.randn(7, 11)) == 2 * 5 * 7 * 11


def test_a_pointwise_layer_takes_three_times_its_forward_pass(script: ModuleType) -> None:
    layer = PointwiseConv1d(6, 4, causal=False)
    inputs = torch.randn(3, 6, 50, requires_grad=True)
    assert script.count(lambda: layer(inputs).sum().backward()) == 3 * 2 * 3 * 50 * 6 * 4
