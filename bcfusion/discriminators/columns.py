"""A stack of convolutions over time that judges columns: signals that lie side by side and never mix.

The columns are the phases of a period (multi-period discriminator), or whole waveforms (HiFi-GAN's multi-scale one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Norm, apply_norm


class Layer(NamedTuple):
    """Sizes of one convolution over time."""

    channels: int
    kernel_size: int
    stride: int
    groups: int = 1


class ColumnDiscriminator(nn.Module):
    """``(B, T, columns)`` to logits ``(B, 1, frames, columns)`` and features ``(B, C, ., columns)`` of each layer.

    Every layer pads with ``kernel_size // 2`` zeros at both ends, so that T samples become ``ceil(T / stride)`` frames;
    leaky ReLU after each; then k3 to the logits.

    Inside, the columns of the whole batch lie side by side, as the width of ONE image ``(1, C, T, B * columns)``. The
    values are those of ``(B, C, T, columns)``; a layer becomes one large product instead of B small ones, which on CPUs
    takes 0.7 of the time where waveforms are the columns. Logits and features are views of it, batch first.

    Args:
        layers: the hidden layers, first to last.
        negative_slope: of the leaky ReLU.
        norm: see :func:`bcfusion.nn.conv.apply_norm`.

    Raises:
        ConfigError: no layer, sizes below one, an even kernel, or groups that do not divide the channels.
    """

    def __init__(self, layers: Sequence[Layer], negative_slope: float, norm: Norm | None) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        problems = [] if layers else ["there is no layer: give at least one"]
        width = 1
        for number, layer in enumerate(layers, start=1):
            if min(layer) < 1:
                problems.append(f"layer {number}: channels, kernel size, stride and groups must be at least 1: {layer}")
                break
            if layer.kernel_size % 2 == 0:
                problems.append(f"layer {number}: a kernel of {layer.kernel_size} has no middle: choose an odd size")
            if width % layer.groups or layer.channels % layer.groups:
                problems.append(f"layer {number}: groups={layer.groups} does not divide {width} to {layer.channels}")
            width = layer.channels
        if problems:
            raise ConfigError([f"{type(self).__name__}: {problem}" for problem in problems])
        widths = [1, *(layer.channels for layer in layers)]
        self.layers = nn.ModuleList(
            _ConvOverTime(inputs, layer, norm) for inputs, layer in zip(widths[:-1], layers, strict=True)
        )
        self.logits = _ConvOverTime(width, Layer(channels=1, kernel_size=3, stride=1), norm)

    def forward(self, columns: Tensor) -> Judgement:
        """Judges ``(B, T, columns)``, T of at least one sample."""
        batch, samples, _ = columns.shape
        h = columns.transpose(0, 1).reshape(1, 1, samples, -1)
        features = []
        for layer in self.layers:
            # in place: no convolution needs its own output in the backward pass
            h = F.leaky_relu(layer(h), self.negative_slope, inplace=True)
            features.append(_batch_first(h, batch))
        return Judgement(_batch_first(self.logits(h), batch), features)


class _ConvOverTime(nn.Conv2d):
    """``(1, in_channels, T, width)`` to ``(1, channels, ceil(T / stride), width)``, columns by themselves."""

    def __init__(self, in_channels: int, layer: Layer, norm: Norm | None) -> None:
        super().__init__(
            in_channels,
            layer.channels,
            kernel_size=(layer.kernel_size, 1),
            stride=(layer.stride, 1),
            padding=(layer.kernel_size // 2, 0),
            groups=layer.groups,
        )
        apply_norm(self, norm)

    def forward(self, input: Tensor) -> Tensor:
        """Convolves; the argument has the name that :class:`torch.nn.Conv2d` gives it."""
        if input.shape[3] == 1:  # one column alone: the 1-D kernels take 0.7 of the time of the 2-D ones
            weight = self.weight.squeeze(3)
            stride, padding = self.stride[0], self.kernel_size[0] // 2
            return F.conv1d(input.squeeze(3), weight, self.bias, stride, padding, groups=self.groups).unsqueeze(3)
        if input.shape[2] > self.kernel_size[0]:
            return super().forward(input)
        # oneDNN (torch 2.11, AVX-512) writes outside of the weight's gradient when a grouped tall kernel pads an input
        # that is about as long as the padding: wrong gradients or a crash. Inputs that short are padded beforehand.
        half = self.kernel_size[0] // 2
        padded = F.pad(input, (0, 0, half, half))
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def _batch_first(h: Tensor, batch: int) -> Tensor:
    """``(1, C, T, B * columns)`` seen as ``(B, C, T, columns)``."""
    return h[0].unflatten(-1, (batch, -1)).permute(2, 0, 1, 3)
