"""SEANet, a fully convolutional encoder and decoder that maps waveforms to waveforms.

Tagliasacchi et al., "SEANet: A Multi-modal Speech Enhancement Network", Interspeech 2020; the causal, narrow variant:
Li et al., "Real-Time Speech Frequency Bandwidth Extension", ICASSP 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, ConvTranspose1d, Norm, channels_last, set_weight
from bcfusion.nn.cpu import elu
from bcfusion.nn.network import WaveformNetwork, future_reach
from bcfusion.requirements import above, at_least, require


class ResidualUnit(nn.Module):
    """``x + pointwise(elu(dilated(elu(x))))``, ``(B, channels, T)`` to the same shape."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, causal: bool, norm: Norm | None) -> None:
        super().__init__()
        self.dilated = Conv1d(channels, channels, kernel_size, dilation=dilation, bias=False, causal=causal, norm=norm)
        self.pointwise = Conv1d(channels, channels, 1, bias=False, causal=causal, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dilated(elu(x))
        return x + self.pointwise(elu(h))


class EncoderBlock(nn.Module):
    """Residual units, then a strided convolution: ``(B, channels, T) -> (B, 2 channels, T / stride)``."""

    def __init__(
        self, channels: int, stride: int, kernel_size: int, dilations: Sequence[int], causal: bool, norm: Norm | None
    ) -> None:
        super().__init__()
        self.units = nn.Sequential(*(ResidualUnit(channels, kernel_size, d, causal, norm) for d in dilations))
        self.down = Conv1d(channels, 2 * channels, 2 * stride, stride, bias=False, causal=causal, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(elu(self.units(x)))


class DecoderBlock(nn.Module):
    """A transposed convolution, then residual units: ``(B, 2 channels, T / stride) -> (B, channels, T)``."""

    def __init__(
        self, channels: int, stride: int, kernel_size: int, dilations: Sequence[int], causal: bool, norm: Norm | None
    ) -> None:
        super().__init__()
        self.up = ConvTranspose1d(2 * channels, channels, 2 * stride, stride, bias=False, causal=causal, norm=norm)
        self.units = nn.Sequential(*(ResidualUnit(channels, kernel_size, d, causal, norm) for d in dilations))

    def forward(self, x: Tensor) -> Tensor:
        return self.units(self.up(elu(x)))


class SEANet(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    A convolution to ``channels``; one encoder block per stride, doubling them; a bottleneck; the mirrored decoder. Skip
    connections are sums: from each level of the encoder to the same level of the decoder, and from one sensor to the
    output, so that the network computes a correction of it. ELU precedes every convolution but the first, and no
    convolution has a bias.

    SEANet: the defaults, 8.340 M parameters. Streaming SEANet: ``channels=8, causal=True, weight_norm=False``, 692,848.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: after the first convolution; doubled by every encoder block (32 to 512).
        strides: of the encoder blocks, first to last. Their product is ``hop``.
        dilations: of the residual units of one block.
        bottleneck_channels: between encoder and decoder.
        kernel_size: of the first and last convolution and of the two of the bottleneck.
        residual_kernel_size: of the dilated convolutions.
        causal: no look-ahead beyond the frame of ``hop`` samples; the network streams in chunks of whole frames.
        weight_norm: weight normalisation of all convolutions (Salimans & Kingma 2016).
        skip_channel: the sensor that the output starts from; -1 is the last (the air microphone, in fusion).
        speech_level: root mean square of the speech that the initial weights are scaled for (0.07: -23 dBFS). Variance
            is kept from layer to layer, and the first and last convolution scale from this level to one and back. With
            torch's own initial weights the bottleneck is at 0.003, where ELU is practically linear.
        init_output_scale: further factor on the initial weight of the last convolution; at 0.3 the untrained network's
            correction is somewhat below the speech.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops, of the causal network only; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        hop: samples; a streaming chunk is a multiple of it.
        delay: algorithmic latency in samples, exact at the frame phases where it is longest; ``hop - 1`` if causal.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 32,
        strides: Sequence[int] = (2, 2, 8, 8),
        dilations: Sequence[int] = (1, 3, 9),
        bottleneck_channels: int = 128,
        kernel_size: int = 7,
        residual_kernel_size: int = 3,
        causal: bool = False,
        weight_norm: bool = True,
        skip_channel: int = -1,
        speech_level: float = 0.07,
        init_output_scale: float = 0.3,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self, at_least(1, strides=strides), above(0, init_output_scale=init_output_scale, speech_level=speech_level)
        )
        super().__init__(
            sample_rate, in_channels, prod(strides), causal, skip_channel=skip_channel, lookahead_ms=lookahead_ms
        )
        norm: Norm | None = "weight_norm" if weight_norm else None

        def conv(inputs: int, outputs: int) -> Conv1d:
            return Conv1d(inputs, outputs, kernel_size, bias=False, causal=causal, norm=norm)

        widths = [channels * 2**level for level in range(len(strides) + 1)]
        blocks = list(zip(widths, strides, strict=False))
        shared = (residual_kernel_size, tuple(dilations), causal, norm)
        self.first = conv(self.signals, widths[0])
        self.encoder = nn.ModuleList(EncoderBlock(width, stride, *shared) for width, stride in blocks)
        self.reduce = conv(widths[-1], bottleneck_channels)
        self.expand = conv(bottleneck_channels, widths[-1])
        self.decoder = nn.ModuleList(DecoderBlock(width, stride, *shared) for width, stride in reversed(blocks))
        self.last = conv(widths[0], 1)
        self._initialise(speech_level, init_output_scale)
        if not causal:
            self.delay = future_reach(self.hop, self)

    def body(self, inputs: Tensor) -> Tensor:
        h = channels_last(self.first(inputs))  # (B, channels, T)
        skips = [h]
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
        h = self.reduce(elu(h))  # (B, bottleneck_channels, T / hop)
        h = self.expand(elu(h))
        for decode in self.decoder:
            h = decode(h + skips.pop())
        h = self.last(elu(h + skips.pop()))
        return h + inputs[:, self.skip_channel].unsqueeze(1)

    def _initialise(self, speech_level: float, output_scale: float) -> None:
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, Conv1d | ConvTranspose1d):
                    scale = 3.0**0.5  # of uniform weights within 1 / sqrt(fan in), for outputs of the inputs' variance
                    scale *= 1.0 / speech_level if layer is self.first else 1.0
                    scale *= speech_level * output_scale if layer is self.last else 1.0
                    set_weight(layer, scale * layer.weight)
