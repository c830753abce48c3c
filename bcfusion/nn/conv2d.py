"""Convolutions over spectrograms ``(B, C, F, N)``, frequency by frames: causal or centred along the frames.

Along frequency they pad with zeros on either side, as the caller says; along the frames they keep their number, or
divide it by the stride, as the 1-D ones of :mod:`bcfusion.nn.conv` do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Norm, apply_norm, initialise
from bcfusion.nn.streaming import StreamingError, StreamingModule


class Conv2d(StreamingModule):
    """Convolution ``(B, in_channels, F, N) -> (B, out_channels, F', ceil(N / stride))``.

    Args:
        in_channels, out_channels, groups, bias: as in :class:`torch.nn.Conv2d`.
        kernel_size, stride, dilation: along (frequency, frames).
        padding: zeros (below, above) along frequency: F' = (F + below + above - extent) // stride + 1.
        freq_bins: F, known only where streaming needs it: the state of a kernel over frames has this many bins.
        causal: see the past and the present frame only; the layer can stream. Otherwise the kernel is centred (of an
            even one the odd frame lies in the past).
        norm: see :func:`bcfusion.nn.conv.apply_norm`.

    Attributes:
        future: frames of look-ahead.

    Raises:
        ConfigError: sizes below one, groups that do not divide the channels, or a kernel that leaves frames out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        freq_bins: int,
        stride: Sequence[int] = (1, 1),
        dilation: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        groups: int = 1,
        bias: bool = True,
        causal: bool = False,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        problems = []
        if min(in_channels, out_channels, groups, freq_bins, *kernel_size, *stride, *dilation) < 1 or min(padding) < 0:
            problems.append(f"{name}: channels, bins, kernel_size, stride, dilation and groups must be at least 1")
        elif in_channels % groups or out_channels % groups:
            problems.append(f"{name}: {in_channels} and {out_channels} channels do not divide into {groups} groups")
        extents = [(size - 1) * step + 1 for size, step in zip(kernel_size, dilation, strict=True)]
        self.context = extents[1] - stride[1]
        if self.context < 0:
            problems.append(f"{name}: a kernel of {extents[1]} frames leaves gaps at stride {stride[1]}")
        if freq_bins + sum(padding) < extents[0]:
            problems.append(f"{name}: {freq_bins} bins are fewer than the kernel's {extents[0]}")
        if problems:
            raise ConfigError(problems)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.freq_bins, self.out_bins = freq_bins, (freq_bins + sum(padding) - extents[0]) // stride[0] + 1
        self.kernel_size, self.stride = (kernel_size[0], kernel_size[1]), (stride[0], stride[1])
        self.dilation, self.groups = (dilation[0], dilation[1]), groups
        self.below, self.above = padding
        self.causal = causal
        self.left = self.context if causal else self.context - self.context // 2
        self.future = self.context - self.left
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        initialise(self.weight, self.bias, in_channels // groups * math.prod(self.kernel_size))
        apply_norm(self, norm)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """``past (B, in_channels, F, context)``: the last frames."""
        shape = (batch_size, self.in_channels, self.freq_bins, self.context)
        return {"past": like.new_zeros(shape)} if self.context else {}

    def forward(self, x: Tensor) -> Tensor:
        """Whole spectrograms of any number of frames, or chunks of a multiple of the stride.

        Raises:
            StreamingError: a chunk is not a multiple of the stride.
        """
        frames = x.shape[-1]
        if not self.is_streaming:
            right = self.future + -frames % self.stride[1]
            x = F.pad(x, (self.left, right, self.below, self.above))
        else:
            if frames % self.stride[1]:
                raise StreamingError(f"a chunk of {frames} frames is not a multiple of the stride {self.stride[1]}")
            if self.context:
                x = torch.cat([self.recall("past"), x], dim=-1)
                self.replace(past=x[..., x.shape[-1] - self.context :])
            x = F.pad(x, (0, 0, self.below, self.above))
        weight = self.weight
        if _is_short(self, x, weight) and self.dilation == (1, 1):
            windows = x.unfold(2, self.kernel_size[0], self.stride[0]).unfold(3, self.kernel_size[1], self.stride[1])
            windows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (B, F', N, in_channels kernel)
            return F.linear(windows, weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{sizes}, dilation={self.dilation}, groups={self.groups}, causal={self.causal}"


class ConvTranspose2d(StreamingModule):
    """Transposed convolution ``(B, in_channels, F, N) -> (B, out_channels, F', N)``, its stride along frequency only.

    Along the frames the full result is longer by ``kernel_size[1] - 1``. The causal layer keeps its first N frames, of
    which frame n depends on frames n - kernel_size[1] + 1 to n; the centred one the middle; with all of the kernel in
    the future (``future=kernel_size[1] - 1``) the last N. When streaming, the overlap is held back and added to the
    next chunk; the bias is added once, after that.

    Args:
        in_channels, out_channels, groups, bias: as in :class:`torch.nn.ConvTranspose2d`.
        kernel_size: along (frequency, frames). freq_bins: F. stride: along frequency.
        padding: bins cut off (below, above): F' = (F - 1) stride + kernel_size[0] - below - above.
        causal: keep the first frames; the layer can stream.
        future: of a layer that is not causal: frames of look-ahead, 0 to ``kernel_size[1] - 1``; None centres it.
        norm: see :func:`bcfusion.nn.conv.apply_norm`.

    Attributes:
        future: frames of look-ahead.

    Raises:
        ConfigError: sizes below one, padding that leaves nothing, or a ``future`` that the kernel does not have.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        freq_bins: int,
        stride: int = 1,
        padding: Sequence[int] = (0, 0),
        groups: int = 1,
        bias: bool = True,
        causal: bool = False,
        future: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        problems = []
        if min(in_channels, out_channels, groups, freq_bins, stride, *kernel_size) < 1 or min(padding) < 0:
            problems.append(f"{name}: channels, bins, kernel_size, stride and groups must be at least 1")
        elif in_channels % groups or out_channels % groups:
            problems.append(f"{name}: {in_channels} and {out_channels} channels do not divide into {groups} groups")
        self.out_bins = (freq_bins - 1) * stride + kernel_size[0] - sum(padding)
        if self.out_bins < 1:
            problems.append(f"{name}: padding={list(padding)} leaves no bin of {freq_bins}")
        self.overlap = kernel_size[1] - 1
        if future is not None and not 0 <= future <= self.overlap:
            problems.append(f"{name}: future={future} must be 0 to {self.overlap}")
        if causal and future:
            problems.append(f"{name}: causal=True looks no frame ahead, future={future}")
        if problems:
            raise ConfigError(problems)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = (kernel_size[0], kernel_size[1]), stride
        self.below, self.above = padding
        self.causal = causal
        self.future = 0 if causal else self.overlap // 2 if future is None else future
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        # each output bin is a sum over the input channels and the kernel taps that overlap there
        fan_in = in_channels // groups * math.ceil(kernel_size[0] / stride) * kernel_size[1]
        initialise(self.weight, self.bias, fan_in)
        apply_norm(self, norm)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """``overlap (B, out_channels, F', kernel_size[1] - 1)``: held back of the last frames."""
        shape = (batch_size, self.out_channels, self.out_bins, self.overlap)
        return {"overlap": like.new_zeros(shape)} if self.overlap else {}

    def forward(self, x: Tensor) -> Tensor:
        """Whole spectrograms or chunks, of any number of frames."""
        frames = x.shape[-1]
        weight = self.weight
        if _is_short(self, x, weight):
            taps = x.flatten(2).transpose(1, 2) @ weight.flatten(1)  # (B, F N, out_channels kernel)
            size = ((x.shape[2] - 1) * self.stride + self.kernel_size[0], frames + self.overlap)
            y = F.fold(taps.transpose(1, 2), size, self.kernel_size, stride=(self.stride, 1))
        else:
            y = F.conv_transpose2d(x, weight, None, (self.stride, 1), 0, 0, self.groups)
        y = y[:, :, self.below : y.shape[2] - self.above]
        if self.is_streaming and self.overlap:
            y = y + F.pad(self.recall("overlap"), (0, frames))
            self.replace(overlap=y[..., frames:])
        y = y[..., self.future : self.future + frames]
        return y if self.bias is None else y + self.bias[:, None, None]

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{sizes}, groups={self.groups}, causal={self.causal}"


def _is_short(layer: Conv2d | ConvTranspose2d, x: Tensor, weight: Tensor) -> bool:
    """Whether a matrix product is quicker than torch's convolution, which on CPUs reorders its weight at every call.

    An exported graph is laid out by the runtime that loads it.
    """
    chunk = layer.is_streaming and layer.groups == 1 and x.device.type == "cpu" and not torch.compiler.is_exporting()
    return chunk and x.numel() < weight.numel()
