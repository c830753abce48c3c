"""Workarounds for CPUs, where torch's kernels or those of its library oneDNN are slow or wrong.

All of them compute the values of the plain operation, but for numbers below 1.2e-38 in :func:`denormals_as_zero`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, divisible
from bcfusion.requirements import at_least, require

#: oneDNN's product ``a @ w.T`` of float32 matrices: with AVX-512 on AMD twice as fast as that of MKL, which torch takes
_ONEDNN_PRODUCT = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None

_TWO = 2.0  # by a name: Python divides constants when it compiles

#: weights from which a layer is computed by :class:`_Columns`
_WIDE = 2**22


@contextmanager
def without_onednn() -> Iterator[None]:
    """Use torch's own kernels on CPUs, instead of oneDNN's.

    They are several times faster for a few steps of an LSTM, whose weights oneDNN prepares at every call, and twenty
    times faster for long filters of one channel. ``torch.backends.mkldnn.flags`` does the same, but warns about GPUs of
    another make.
    """
    backend: Any = torch.backends.mkldnn
    before = backend.enabled
    backend.enabled = False
    try:
        yield
    finally:
        backend.enabled = before


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Let this thread take numbers too small for the usual format (below 1.2e-38 in float32) for zeros.

    The state of a recursion after speech, or a sound that has faded out, decays to such numbers, with which some CPUs
    compute up to twenty times more slowly. Threads that torch starts in the meantime do the same; others do not.
    """
    before = sys.float_info.min / _TWO == 0.0  # torch sets the mode, and does not tell it
    if not before:
        torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if not before:
            torch.set_flush_denormal(False)


def matmul_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Return whether a matrix product is faster than torch's convolution, which reorders its weight at every call.

    False during export: the runtime that loads the graph chooses its kernels.
    """
    return x.device.type == "cpu" and not torch.compiler.is_exporting() and x.numel() < weight.numel()


class _FastELU(torch.autograd.Function):
    """ELU whose backward pass needs its output alone, which the next convolution keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(max=0).exp_().sub_(1)
        y.clamp_(min=x)  # e^x - 1 >= x, with equality at 0: the maximum of the two is the right branch
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(gradients[0], 1.0, 1.0, 1.0, True, y)


def elu(x: Tensor) -> Tensor:
    """Apply ELU (Clevert et al. 2016) to a tensor of any shape.

    On CPUs torch computes ``expm1`` six times slower than ``exp``, which made ELU a quarter of a training step of
    SEANet; in float32 ``exp(x) - 1`` differs by at most 1.2e-7. Elsewhere, and in exported graphs, this is torch's own
    ELU: one operator, of which runtimes have their own fast version.
    """
    fast = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_exporting()
    return _FastELU.apply(x) if fast else F.elu(x)


def eager(x: Tensor) -> bool:
    """Return whether a float32 tensor is at work on a CPU, without a trace, an export or autocast."""
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32
    traced = torch.compiler.is_exporting() or torch.compiler.is_compiling()
    return plain and not traced and not torch.is_autocast_enabled("cpu")


def _trains(x: Tensor) -> bool:
    """Return whether a float32 tensor is at work as in :func:`eager`, with a graph for a backward pass."""
    return torch.is_grad_enabled() and eager(x)


def product(a: Tensor, w: Tensor) -> Tensor:
    """Return ``a @ w.T`` of float32 matrices; fast if each is contiguous or the transpose of a contiguous one."""
    if _ONEDNN_PRODUCT is None or not torch.backends.mkldnn.enabled:
        return a @ w.T
    product: Tensor = _ONEDNN_PRODUCT(a, w, None, "none", [], "")
    return product


def _differentiable(
    plain: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the plain operation at the inputs that need one, with a graph for a second derivative."""
    wanted = [given for given, needs in zip(inputs, needed, strict=True) if needs and given is not None]
    found = iter(torch.autograd.grad(plain(*inputs), wanted, gradient, create_graph=True))
    return tuple(next(found) if needs else None for needs in needed)


class _FastPReLU(torch.autograd.Function):
    """PReLU with one slope, whose gradient is a dot product instead of the sum of a tensor of the input's size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, float(slope.detach()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, slope), (gradient,) = ctx.saved_tensors, gradients
        if torch.is_grad_enabled():
            return _differentiable(F.prelu, (x, slope), ctx.needs_input_grad, gradient)
        of_x = of_slope = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.leaky_relu_backward(gradient, x, float(slope), False)
        if ctx.needs_input_grad[1]:
            of_slope = torch.linalg.vecdot(gradient, x.clamp(max=0)).sum().view_as(slope)
        return of_x, of_slope


class PReLU(nn.PReLU):
    """:class:`torch.nn.PReLU` with one slope (He et al. 2015), whose training takes a seventh of the time on CPUs."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return _FastPReLU.apply(input, self.weight) if _trains(input) else super().forward(input)


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution of ``(B, C, T)`` by oneDNN's matrix product, item by item."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        matrix = weight.squeeze(-1)
        y = x.new_empty(x.shape[0], weight.shape[0], x.shape[-1])
        for item, signal in zip(y, x, strict=True):
            item.copy_(product(matrix, signal.T))
            if bias is not None:
                item.add_(bias.unsqueeze(-1))  # while it is in the cache
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, bias), gradient = ctx.saved_tensors, gradients[0].contiguous()
        if torch.is_grad_enabled():
            return _differentiable(F.conv1d, (x, weight, bias), ctx.needs_input_grad, gradient)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            transposed = weight.squeeze(-1).T.contiguous()
            of_x = torch.empty_like(x)
            for item, of_item in zip(of_x, gradient, strict=True):
                item.copy_(product(transposed, of_item.T))
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight)
            for of_item, signal in zip(gradient, x, strict=True):
                of_weight.squeeze(-1).add_(product(of_item, signal))
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2))
        return of_x, of_weight, of_bias


class PointwiseConv1d(Conv1d):
    """1x1 convolution, ``(B, in_channels, T) -> (B, out_channels, T)``; in training on CPUs twice as fast as torch's.

    Args:
        in_channels: as in :class:`bcfusion.nn.conv.Conv1d`.
        out_channels: likewise.
        causal: likewise.
    """

    def __init__(self, in_channels: int, out_channels: int, causal: bool) -> None:
        super().__init__(in_channels, out_channels, 1, causal=causal)

    def _convolve(self, x: Tensor, padding: int = 0) -> Tensor:
        if _ONEDNN_PRODUCT is None or not _trains(x) or x.shape[-1] < self.out_channels or padding:
            return super()._convolve(x, padding)
        y: Tensor = _Pointwise.apply(x.contiguous(), self.weight, self.bias)
        return y


class DepthwiseConv1d(Conv1d):
    """Dilated convolution of each channel separately, ``(B, channels, T)`` to the same shape.

    Streaming, it sums over the taps: for a short chunk that takes less than half the time of the convolution.

    Args:
        channels: in and out.
        kernel_size: as in :class:`bcfusion.nn.conv.Conv1d`.
        dilation: likewise.
        causal: likewise.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int, causal: bool) -> None:
        super().__init__(channels, channels, kernel_size, dilation=dilation, groups=channels, causal=causal)

    def _convolve(self, x: Tensor, padding: int = 0) -> Tensor:
        if not self.is_streaming or self.bias is None:
            return super()._convolve(x, padding)
        length = x.shape[-1] - self.context
        y = self.bias.unsqueeze(-1)
        for tap in range(self.kernel_size):
            start = tap * self.dilation
            y = torch.addcmul(y, x[..., start : start + length], self.weight[..., tap])
        return y


class _Columns(torch.autograd.Function):
    """A convolution of ``(B, C, T)`` by oneDNN's matrix product on the samples under each frame, group by group.

    For wide weights: torch's kernels copy them to another layout at each pass, into new memory. Here they are used
    where they lie, and the columns of one group fit into the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.sizes = stride, padding, groups
        if stride > 1:  # as fast as the product, with its columns
            return F.conv1d(x, weight, bias, stride, padding, groups=groups)
        frames = (x.shape[-1] + 2 * padding - weight.shape[-1]) // stride + 1
        y = x.new_empty(x.shape[0], weight.shape[0], frames)
        signals = F.pad(x, (padding, padding)).chunk(groups, dim=1)
        for of_y, signal, rows in zip(y.chunk(groups, dim=1), signals, weight.chunk(groups), strict=True):
            columns = _columns(signal, weight.shape[-1], stride)
            of_y.copy_(product(columns, rows.flatten(1)).unflatten(0, (x.shape[0], frames)).transpose(1, 2))
        return y if bias is None else y.add_(bias.unsqueeze(-1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, bias), (gradient,) = ctx.saved_tensors, gradients
        stride, padding, groups = ctx.sizes
        if torch.is_grad_enabled():
            plain = partial(F.conv1d, stride=stride, padding=padding, groups=groups)
            needed = ctx.needs_input_grad[:3]
            return *_differentiable(plain, (x, weight, bias), needed, gradient), None, None, None
        of_x = of_weight = of_bias = None
        parts = gradient.chunk(groups, dim=1)
        taps = weight.shape[-1]
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            for of_signal, part, rows in zip(of_x.chunk(groups, dim=1), parts, weight.chunk(groups), strict=True):
                columns = product(part.transpose(1, 2).flatten(0, 1), rows.flatten(1).T)
                columns = columns.unflatten(0, (x.shape[0], -1)).transpose(1, 2)
                size, window = (1, x.shape[-1]), (1, taps)
                of_signal.copy_(F.fold(columns, size, window, 1, (0, padding), (1, stride)).squeeze(2))
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            signals = F.pad(x, (padding, padding)).chunk(groups, dim=1)
            for of_rows, part, signal in zip(of_weight.chunk(groups), parts, signals, strict=True):
                columns = _columns(signal, taps, stride)
                of_rows.copy_(product(part.transpose(0, 1).flatten(1), columns.T).view_as(of_rows))
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2))
        return of_x, of_weight, of_bias, None, None, None


def _columns(signal: Tensor, taps: int, stride: int) -> Tensor:
    """Return what each frame of ``(B, C, T)`` is computed from, ``(B frames, C taps)``."""
    return signal.unfold(2, taps, stride).transpose(1, 2).flatten(0, 1).flatten(1)


def strided_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
    """Convolve ``(B, in_channels, T)`` with zeros at both ends, as :func:`torch.nn.functional.conv1d`.

    On CPUs torch is slow in three cases. The backward pass of a layer with millions of weights takes up to three times
    as long as matrix products of oneDNN do. Narrow grouped layers with a large stride take half of the time as a
    convolution without stride over the samples of each phase. The input gradient of a wide layer takes three times as
    long if the input has exactly 1024 samples: it is then padded beforehand, to another length.

    Args:
        x: input.
        weight: ``(out_channels, in_channels / groups, kernel_size)``.
        bias: ``(out_channels,)``, or None.
        stride: samples.
        padding: zeros at each end.
        groups: of channels.
    """
    if x.device.type == "cpu" and not torch.compiler.is_exporting():
        # without a graph too: features of all passes are then the same to the last bit
        if weight.numel() >= _WIDE and _ONEDNN_PRODUCT is not None and eager(x):
            y: Tensor = _Columns.apply(x, weight, bias, stride, padding, groups)
            return y
        if groups > 1 and stride > 2 and x.shape[-1] >= max(4 * x.shape[1], weight.shape[-1]):
            return _by_phases(x, weight, bias, stride, padding, groups)
        if x.shape[-1] == 1024 and x.shape[1] >= 256:
            x, padding = F.pad(x, (padding, padding)), 0
    return F.conv1d(x, weight, bias, stride, padding, groups=groups)


def _by_phases(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
    """Make each of the ``stride`` phases of time a channel, so that a convolution without stride remains."""
    batch, channels, length = x.shape
    outputs, inputs, taps = weight.shape
    frames = (length + 2 * padding - taps) // stride + 1
    taps_per_phase = -(-taps // stride)
    steps = frames + taps_per_phase - 1
    # a negative end drops what no output sees
    padded = F.pad(x, (padding, steps * stride - length - padding))
    phases = padded.view(batch, channels, steps, stride).transpose(2, 3).reshape(batch, channels * stride, steps)
    split = F.pad(weight, (0, taps_per_phase * stride - taps)).view(outputs, inputs, taps_per_phase, stride)
    return F.conv1d(phases, split.transpose(2, 3).reshape(outputs, inputs * stride, -1), bias, groups=groups)


class StridedConv1d(nn.Conv1d):
    """:class:`torch.nn.Conv1d` with zeros at both ends and no dilation; see :func:`strided_conv1d`."""

    def forward(self, input: Tensor) -> Tensor:
        return strided_conv1d(input, self.weight, self.bias, self.stride[0], int(self.padding[0]), self.groups)


class ConvOverTime(nn.Conv2d):
    """Convolution over T of ``(1, in_channels, T, columns)`` to ``(1, out_channels, ceil(T / stride), columns)``.

    Args:
        in_channels: as in :class:`torch.nn.Conv2d`.
        out_channels: likewise.
        kernel_size: samples, odd; half of them are padded with zeros at both ends.
        stride: samples.
        groups: as in :class:`torch.nn.Conv2d`.

    Raises:
        ConfigError: sizes below one, an even kernel, or groups that do not divide the channels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        require(
            self,
            at_least(1, out_channels=out_channels, kernel_size=kernel_size, stride=stride),
            (kernel_size % 2 == 1, f"kernel_size={kernel_size} must be odd, to have a middle"),
            divisible(groups, in_channels, out_channels),
        )
        super().__init__(
            in_channels, out_channels, (kernel_size, 1), (stride, 1), padding=(kernel_size // 2, 0), groups=groups
        )

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[3] == 1:  # a single column: the 1-D kernels take 0.7 of the time of the 2-D ones
            weight = self.weight.squeeze(3)
            stride, padding = self.stride[0], self.kernel_size[0] // 2
            return strided_conv1d(input.squeeze(3), weight, self.bias, stride, padding, self.groups).unsqueeze(3)
        if input.shape[2] > self.kernel_size[0]:
            return super().forward(input)
        # oneDNN (torch 2.11, AVX-512) writes outside the weight's gradient when a grouped tall kernel pads an input
        # that is about as long as the padding: wrong gradients or a crash. Inputs that short are padded beforehand.
        half = self.kernel_size[0] // 2
        padded = F.pad(input, (0, 0, half, half))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)
