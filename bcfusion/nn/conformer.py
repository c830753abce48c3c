"""The conformer block: self-attention over a whole sequence and convolution within it, between two halves of a
feed-forward layer.

Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition", Interspeech 2020.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d
from bcfusion.nn.norm import BatchNorm1d
from bcfusion.requirements import at_least, require, within


class FeedForward(nn.Module):
    """``(B, N, channels)`` to the same shape: normalisation, a wider layer with SiLU, and back."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, hidden)
        self.narrow = nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(F.silu(self.widen(self.norm(x))))
        return cast("Tensor", self.dropout(self.narrow(h)))


class SelfAttention(nn.Module):
    """``(B, N, channels)`` to the same shape: normalisation, scaled dot-product attention of several heads.

    Vaswani et al., "Attention is all you need", 2017. The products of all pairs of frames are never held at once where
    torch has a kernel for it: on a GPU, and on a CPU without dropout.

    Args:
        channels: of input and output.
        heads: that share the channels.
        dropout: of the weights of the frames.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(channels)
        self.inward = nn.Linear(channels, 3 * channels)  # queries, keys and values
        self.outward = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.inward(self.norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2) for part in rows.unbind(2))  # (B, heads, N, channels / heads)
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        return cast("Tensor", self.outward(attended.transpose(1, 2).flatten(2)))


class Convolution(nn.Module):
    """``(B, N, channels)`` to the same shape: normalisation, a gated linear unit, a depthwise convolution with batch
    normalisation and SiLU, and back."""

    def __init__(self, channels: int, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 2 * hidden)
        self.depthwise = Conv1d(hidden, hidden, kernel_size, groups=hidden)
        self.batch_norm = BatchNorm1d(hidden)
        self.narrow = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.glu(self.widen(self.norm(x)), dim=2)
        h = self.batch_norm(self.depthwise(h.transpose(1, 2))).transpose(1, 2)
        return cast("Tensor", self.narrow(F.silu(h)))


class ConformerBlock(nn.Module):
    """``(B, N, channels)`` to the same shape: half of a feed-forward layer, self-attention, a convolution, the other
    half; each added to its input, and a layer normalisation at the end. Not causal.

    It has no encoding of positions, like those of the networks for speech restoration that use it: the order of the
    frames shows in the convolution only.

    Args:
        channels: of input and output.
        heads: of the attention, which share the channels.
        kernel_size: of the convolution in frames, odd.
        feed_forward: units of the feed-forward layers.
        convolution: channels of the depthwise convolution.
        dropout: within the feed-forward layers and of the weights of the attention.
        residual_dropout: of what attention and convolution add.

    Raises:
        ConfigError: sizes below one, heads that do not divide the channels, an even kernel, or a dropout that is not in
            0 to 0.9.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        kernel_size: int,
        feed_forward: int,
        convolution: int,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
    ) -> None:
        require(
            self,
            at_least(1, channels=channels, heads=heads, kernel_size=kernel_size),
            at_least(1, feed_forward=feed_forward, convolution=convolution),
            within(0, 0.9, dropout=dropout, residual_dropout=residual_dropout),
            (heads < 1 or channels % heads == 0, f"channels={channels} must be a multiple of heads={heads}"),
            (kernel_size % 2 == 1, f"kernel_size={kernel_size} must be odd: the kernels are centred"),
        )
        super().__init__()
        self.first = FeedForward(channels, feed_forward, dropout)
        self.attention = SelfAttention(channels, heads, dropout)
        self.convolution = Convolution(channels, convolution, kernel_size)
        self.second = FeedForward(channels, feed_forward, dropout)
        self.residual_dropout = nn.Dropout(residual_dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        x = x + self.residual_dropout(self.attention(x))
        x = x + self.residual_dropout(self.convolution(x))
        return cast("Tensor", self.norm(x + 0.5 * self.second(x)))
