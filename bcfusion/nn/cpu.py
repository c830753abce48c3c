"""Workarounds for CPUs, where torch's kernels or those of its library oneDNN are slow or wrong.

All of them compute the values of the plain operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, divisible
from bcfusion.requirements import at_least, require


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


def strided_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
    """Convolve ``(B, in_channels, T)`` with zeros at both ends, as :func:`torch.nn.functional.conv1d`.

    On CPUs torch is slow in two cases. Narrow grouped layers with a large stride take half of the time as a convolution
    without stride over the samples of each phase. The input gradient of a wide layer takes three times as long if the
    input has exactly 1024 samples: it is then padded beforehand, to another length.

    Args:
        x: input.
        weight: ``(out_channels, in_channels / groups, kernel_size)``.
        bias: ``(out_channels,)``, or None.
        stride: samples.
        padding: zeros at each end.
        groups: of channels.
    """
    if x.device.type == "cpu" and not torch.compiler.is_exporting():
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
