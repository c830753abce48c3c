"""Convolutions over spectrograms ``(B, C, F, N)``, frequency by frames: causal or centred along the frames.

Along frequency they pad with as many zeros on either side as the caller asks for; along the frames they keep the number
of frames or divide it by the stride, like the 1-D ones of :mod:`bcfusion.nn.conv`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Norm, apply_norm, divisible, initialise
from bcfusion.nn.cpu import matmul_is_faster
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.requirements import at_least, require, within


class Conv2d(StreamingModule):
    """Convolution ``(B, in_channels, F, N) -> (B, out_channels, F', ceil(N / stride))``.

    Args:
        in_channels: as in :class:`torch.nn.Conv2d`, like the arguments not listed here.
        kernel_size: along (frequency, frames).
        freq_bins: F, which only streaming needs: the state of a kernel over frames has this many bins.
        stride: along (frequency, frames).
        dilation: along (frequency, frames).
        padding: zeros (below, above) along frequency: F' = (F + below + above - extent) // stride + 1.
        causal: see the past and the present frame only; the layer can stream. Otherwise the kernel is centred (the odd
            frame of an even one lies in the past).
        norm: see :func:`bcfusion.nn.conv.apply_norm`.

    Attributes:
        future: frames of look-ahead.
        out_bins: F'.

    Raises:
        ConfigError: sizes below one, groups that do not divide the channels, or a kernel that skips frames.
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
        extents = [(size - 1) * step + 1 for size, step in zip(kernel_size, dilation, strict=True)]
        self.context = extents[1] - stride[1]
        require(
            self,
            at_least(1, in_channels=in_channels, out_channels=out_channels, freq_bins=freq_bins),
            at_least(1, kernel_size=kernel_size, stride=stride, dilation=dilation),
            at_least(0, padding=padding),
            divisible(groups, in_channels, out_channels),
            (self.context >= 0, f"a kernel of {extents[1]} frames leaves gaps at stride={stride[1]}"),
            (freq_bins + sum(padding) >= extents[0], f"{freq_bins} bins are fewer than the kernel's {extents[0]}"),
        )
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
        """Return ``past (B, in_channels, F, context)``, the last frames."""
        shape = (batch_size, self.in_channels, self.freq_bins, self.context)
        return {"past": like.new_zeros(shape)} if self.context else {}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve whole spectrograms of any number of frames, or chunks of a multiple of the stride.

        Raises:
            StreamingError: a chunk is not a multiple of the stride.
        """
        frames = x.shape[-1]
        if torch.compiler.is_exporting() and self.is_streaming and frames == self.stride[1] == 1 >= self.context:
            return self._of_one_frame(x)
        if not self.is_streaming:
            right = self.future + -frames % self.stride[1]
            x = F.pad(x, (self.left, right, self.below, self.above))
        else:
            if frames % self.stride[1]:
                raise StreamingError(f"a chunk of {frames} frames is not a multiple of the stride {self.stride[1]}")
            x = F.pad(self.prepend_past(x, self.context), (0, 0, self.below, self.above))
        weight = self.weight
        if self.is_streaming and self.groups == 1 and self.dilation == (1, 1) and matmul_is_faster(x, weight):
            windows = x.unfold(2, self.kernel_size[0], self.stride[0]).unfold(3, self.kernel_size[1], self.stride[1])
            windows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (B, F', N, in_channels kernel)
            return F.linear(windows, weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _of_one_frame(self, x: Tensor) -> Tensor:
        """Convolve one frame ``(B, in_channels, F, 1)`` and the one before it, which become channels of each other:
        runtimes are slow with rows of two values."""
        weight: Tensor = self.weight
        if self.context:
            past = self.recall("past")
            self.replace(past=x)
            parts = [each.chunk(self.groups, dim=1) for each in (past, x)]
            x = torch.cat([part for pair in zip(*parts, strict=True) for part in pair], dim=1)
            weight = weight.transpose(2, 3).transpose(1, 2).flatten(1, 2).unsqueeze(-1)
        if self.below != self.above:
            x = F.pad(x, (0, 0, self.below, self.above))
        padding = self.below if self.below == self.above else 0
        return F.conv2d(x, weight, self.bias, self.stride, (padding, 0), (self.dilation[0], 1), self.groups)

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{sizes}, dilation={self.dilation}, groups={self.groups}, causal={self.causal}"


class ConvTranspose2d(StreamingModule):
    """Transposed convolution ``(B, in_channels, F, N) -> (B, out_channels, F', N)``, strided along frequency only.

    Along the frames the full result is longer by ``kernel_size[1] - 1``. The causal layer keeps its first N frames, of
    which frame n depends on frames n - kernel_size[1] + 1 to n; the centred one keeps the middle; with all of the
    kernel in the future (``future=kernel_size[1] - 1``) it keeps the last N. When streaming, the overlap is held back
    and added to the next chunk; the bias is added once, after that.

    Args:
        in_channels: as in :class:`torch.nn.ConvTranspose2d`, like the arguments not listed here.
        kernel_size: along (frequency, frames).
        freq_bins: F.
        stride: along frequency.
        padding: bins cut off (below, above): F' = (F - 1) stride + kernel_size[0] - below - above.
        causal: keep the first frames; the layer can stream.
        future: frames of look-ahead of a layer that is not causal, 0 to ``kernel_size[1] - 1``; None centres the
            kernel.
        norm: see :func:`bcfusion.nn.conv.apply_norm`.

    Attributes:
        future: frames of look-ahead.
        out_bins: F'.

    Raises:
        ConfigError: sizes below one, padding that leaves nothing, or a ``future`` that exceeds the kernel.
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
        self.out_bins = (freq_bins - 1) * stride + kernel_size[0] - sum(padding)
        self.overlap = kernel_size[1] - 1
        require(
            self,
            at_least(1, in_channels=in_channels, out_channels=out_channels, freq_bins=freq_bins),
            at_least(1, kernel_size=kernel_size, stride=stride),
            at_least(0, padding=padding),
            divisible(groups, in_channels, out_channels),
            (self.out_bins >= 1, f"padding={list(padding)} leaves no bin of {freq_bins}"),
            within(0, 0 if causal else self.overlap, future=future or 0),
        )
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
        """Return ``overlap (B, out_channels, F', kernel_size[1] - 1)``, held back from the last frames."""
        shape = (batch_size, self.out_channels, self.out_bins, self.overlap)
        return {"overlap": like.new_zeros(shape)} if self.overlap else {}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve whole spectrograms or chunks, of any number of frames."""
        frames = x.shape[-1]
        self.require_frames(frames)
        weight = self.weight
        if torch.compiler.is_exporting() and self.is_streaming and frames == self.overlap == self.groups == 1:
            y = self._of_one_frame(x)
            return y if self.bias is None else y + self.bias[:, None, None]
        if self.is_streaming and self.groups == 1 and matmul_is_faster(x, weight):
            taps = x.flatten(2).transpose(1, 2) @ weight.flatten(1)  # (B, F N, out_channels kernel)
            size = ((x.shape[2] - 1) * self.stride + self.kernel_size[0], frames + self.overlap)
            y = F.fold(taps.transpose(1, 2), size, self.kernel_size, stride=(self.stride, 1))
        else:
            y = F.conv_transpose2d(x, weight, None, (self.stride, 1), 0, 0, self.groups)
        y = self.add_overlap(y[:, :, self.below : y.shape[2] - self.above, self.future :], frames)
        return y if self.bias is None else y + self.bias[:, None, None]

    def _of_one_frame(self, x: Tensor) -> Tensor:
        """Return the output for one frame, without the bias; what it adds to the next one is computed as further
        channels: runtimes are slow with rows of two values."""
        weight = self.weight.permute(0, 3, 1, 2).flatten(1, 2)  # (in_channels, 2 out_channels, kernel)
        padding = min(self.below, self.above)
        y = F.conv_transpose1d(x.squeeze(-1), weight, None, self.stride, padding)
        y = y[:, :, self.below - padding :][:, :, : self.out_bins].unsqueeze(-1)
        before = self.recall("overlap")
        self.replace(overlap=y[:, self.out_channels :])
        return y[:, : self.out_channels] + before

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{sizes}, groups={self.groups}, causal={self.causal}"
