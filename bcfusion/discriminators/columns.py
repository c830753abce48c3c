"""A stack of convolutions over time that judges columns: signals side by side that never mix.

The columns are the phases of a period (multi-period discriminator), or whole waveforms (HiFi-GAN's multi-scale one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.discriminators.stack import judge
from bcfusion.nn.conv import Norm, apply_norm
from bcfusion.nn.cpu import ConvOverTime
from bcfusion.requirements import require


class Layer(NamedTuple):
    """Sizes of one convolution over time."""

    channels: int
    kernel_size: int
    stride: int
    groups: int = 1


class ColumnDiscriminator(nn.Module):
    """``(B, T, columns)`` to logits ``(B, 1, frames, columns)`` and features ``(B, C, ., columns)`` of each layer.

    Every layer pads with ``kernel_size // 2`` zeros at both ends, so that T samples become ``ceil(T / stride)`` frames;
    a leaky ReLU follows each; then k3 to the logits.

    Inside, the columns of the whole batch lie side by side, as the width of ONE image ``(1, C, T, B * columns)``. The
    values are those of ``(B, C, T, columns)``; a layer becomes one large product instead of B small ones, which on CPUs
    takes 0.7 of the time if waveforms are the columns. Logits and features are views of it, batch first.

    Args:
        layers: the hidden layers, first to last.
        negative_slope: of the leaky ReLU.
        norm: see :func:`bcfusion.nn.conv.apply_norm`.

    Raises:
        ConfigError: no layer, sizes below one, an even kernel, or groups that do not divide the channels.
    """

    def __init__(self, layers: Sequence[Layer], negative_slope: float, norm: Norm | None) -> None:
        require(self, (bool(layers), "there is no layer: give at least one"))
        super().__init__()
        self.negative_slope = negative_slope
        widths = [1, *(layer.channels for layer in layers)]
        self.layers = nn.ModuleList(
            _conv_over_time(inputs, layer, norm) for inputs, layer in zip(widths, layers, strict=False)
        )
        self.logits = _conv_over_time(widths[-1], Layer(channels=1, kernel_size=3, stride=1), norm)

    def forward(self, columns: Tensor) -> Judgement:
        """Judge ``(B, T, columns)``, T of at least one sample."""
        batch, samples, _ = columns.shape
        h = columns.transpose(0, 1).reshape(1, 1, samples, -1)
        judgement = judge(h, self.layers, self.logits, self.negative_slope)
        features = [_batch_first(feature, batch) for feature in judgement.features]
        return Judgement(_batch_first(judgement.logits, batch), features)


def _conv_over_time(in_channels: int, layer: Layer, norm: Norm | None) -> ConvOverTime:
    conv = ConvOverTime(in_channels, *layer)
    apply_norm(conv, norm)
    return conv


def _batch_first(h: Tensor, batch: int) -> Tensor:
    """Return a view ``(B, C, T, columns)`` of ``(1, C, T, B * columns)``."""
    return h[0].unflatten(-1, (batch, -1)).permute(2, 0, 1, 3)
