"""Count the floating-point operations of an action: matrix products, convolutions and recurrent layers, with backward.

PyTorch's own counter is the base. It counts the weight gradient of a grouped convolution as if it had no groups, which
is up to hundreds of times too much for the discriminators of speech, and no recurrent layer at all; both are replaced
here. A multiply-accumulate is two operations. Transforms (FFT), normalisation and activations are not counted, by
either: their share of the operations is small, though not their share of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten

Shape = Sequence[int]


def convolution_backward(
    gradient: Shape,
    inputs: Shape,
    weight: Shape,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    out_shape: Any = None,
) -> int:
    """Return the operations of a convolution's backward pass, from shapes: as many as forward, for each gradient."""
    places = (inputs if transposed else gradient)[2:]
    forward = 2 * inputs[0] * prod(weight) * prod(places)  # a weight has the channels of one group only
    return forward * (int(wanted[0]) + int(wanted[1]))


def _recurrent(inputs: Shape, weights: Sequence[Any]) -> int:
    """Return the operations of a layer on ``inputs (N, B, I)``: every weight matrix is applied at each place."""
    return 2 * prod(inputs[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def cudnn_rnn(inputs: Shape, weights: Sequence[Shape], *_: Any, out_shape: Any = None) -> int:
    """Return the operations of all layers and directions of a recurrent network on a GPU, from shapes."""
    return _recurrent(inputs, weights)


def cudnn_rnn_backward(inputs: Shape, weights: Sequence[Shape], *_: Any, out_shape: Any = None) -> int:
    """Return the operations of its backward pass: a product for the inputs' gradient, one for the weights'."""
    return 2 * _recurrent(inputs, weights)


def cpu_rnn(inputs: Shape, to_gates: Shape, from_hidden: Shape, *_: Any, out_shape: Any = None) -> int:
    """Return the operations of one layer and direction on a CPU, from shapes."""
    return _recurrent(inputs, [to_gates, from_hidden])


def cpu_rnn_backward(inputs: Shape, to_gates: Shape, from_hidden: Shape, *_: Any, out_shape: Any = None) -> int:
    """Return the operations of its backward pass."""
    return 2 * _recurrent(inputs, [to_gates, from_hidden])


def cpu_product(a: Shape, w: Shape, *_: Any, out_shape: Any = None) -> int:
    """Return the operations of oneDNN's ``a @ w.T``, from shapes."""
    return 2 * prod(a) * w[0]


FORMULAS: dict[Any, Callable[..., int]] = {
    aten.convolution_backward: convolution_backward,
    aten._cudnn_rnn: cudnn_rnn,
    aten._cudnn_rnn_backward: cudnn_rnn_backward,
    aten.mkldnn_rnn_layer: cpu_rnn,
    aten.mkldnn_rnn_layer_backward: cpu_rnn_backward,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    FORMULAS[torch.ops.mkldnn._linear_pointwise] = cpu_product


def count(action: Callable[[], object]) -> int:
    """Return the floating-point operations of ``action``, which is called once, in eager mode."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        action()
    return int(counter.get_total_flops())
