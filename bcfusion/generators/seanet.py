"""SEANet, a fully convolutional encoder and decoder that maps waveforms to waveforms.

Tagliasacchi et al., "SEANet: A Multi-modal Speech Enhancement Network", Interspeech 2020; the causal, narrow variant:
Li et al., "Real-Time Speech Frequency Bandwidth Extension", ICASSP 2021.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Conv1d, ConvTranspose1d, Norm, channels_last, set_weight
from bcfusion.nn.network import WaveformNetwork, field_of_spans


class _FastELU(torch.autograd.Function):
    """ELU whose backward needs the output alone, which the next convolution keeps anyway."""

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
    """ELU (Clevert et al. 2016) of any shape.

    torch computes ``expm1`` on CPUs six times slower than ``exp``, which made ELU a quarter of a training step; in
    float32 ``exp(x) - 1`` differs by 1.2e-7 at most. Elsewhere this is torch's own ELU.
    """
    return _FastELU.apply(x) if x.dtype == torch.float32 and x.device.type == "cpu" else F.elu(x)


class ResidualUnit(nn.Module):
    """``x + pointwise(elu(dilated(elu(x))))``, ``(B, channels, T)`` to the same."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, causal: bool, norm: Norm | None) -> None:
        super().__init__()
        self.dilated = Conv1d(channels, channels, kernel_size, dilation=dilation, bias=False, causal=causal, norm=norm)
        self.pointwise = Conv1d(channels, channels, 1, bias=False, causal=causal, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Shape in, shape out."""
        h = self.dilated(elu(x))
        return x + self.pointwise(elu(h))

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample that the outputs ``first`` to ``last`` depend on."""
        return _union(self.dilated.input_span(first, last), (first, last))


class EncoderBlock(nn.Module):
    """Residual units, then a strided convolution: ``(B, channels, T) -> (B, 2 channels, T / stride)``."""

    def __init__(
        self, channels: int, stride: int, kernel_size: int, dilations: Sequence[int], causal: bool, norm: Norm | None
    ) -> None:
        super().__init__()
        self.units = nn.Sequential(*(ResidualUnit(channels, kernel_size, d, causal, norm) for d in dilations))
        self.down = Conv1d(channels, 2 * channels, 2 * stride, stride, bias=False, causal=causal, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Downsamples by the stride."""
        return self.down(elu(self.units(x)))

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample that the outputs ``first`` to ``last`` depend on."""
        return _span_through(reversed(self.units), self.down.input_span(first, last))


class DecoderBlock(nn.Module):
    """A transposed convolution, then residual units: ``(B, 2 channels, T / stride) -> (B, channels, T)``."""

    def __init__(
        self, channels: int, stride: int, kernel_size: int, dilations: Sequence[int], causal: bool, norm: Norm | None
    ) -> None:
        super().__init__()
        self.up = ConvTranspose1d(2 * channels, channels, 2 * stride, stride, bias=False, causal=causal, norm=norm)
        self.units = nn.Sequential(*(ResidualUnit(channels, kernel_size, d, causal, norm) for d in dilations))

    def forward(self, x: Tensor) -> Tensor:
        """Upsamples by the stride."""
        return self.units(self.up(elu(x)))

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample that the outputs ``first`` to ``last`` depend on."""
        return self.up.input_span(*_span_through(reversed(self.units), (first, last)))


class SEANet(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    A convolution to ``channels``; an encoder block for each stride, doubling them; a bottleneck; the mirrored decoder.
    Skip connections are sums: from each level of the encoder to the same one of the decoder, and from one sensor to the
    output, so that the network computes a correction of it. ELU stands before every convolution but the first, and no
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
            is kept from layer to layer, and the first and last convolution bring this level to one and back. With
            torch's own start the bottleneck is at 0.003, where ELU is all but linear.
        init_output_scale: further factor on the initial weight of the last convolution; at 0.3 the untrained network's
            correction is somewhat below the speech.

    Attributes:
        hop: samples; a streaming chunk is a multiple of it.
        receptive_field: (past, future), in samples: output n depends on input n - past to n + future, at the frame
            phases where they reach farthest. Exact.
        delay: algorithmic latency in samples, the future part of the receptive field; ``hop - 1`` when causal.

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
    ) -> None:
        problems = []
        if not strides or min(strides) < 1:
            problems.append(f"SEANet: strides={list(strides)} must be one or more numbers of at least 1")
        if init_output_scale <= 0 or speech_level <= 0:
            problems.append(
                f"SEANet: init_output_scale={init_output_scale} and speech_level={speech_level} must be above 0"
            )
        if problems:
            raise ConfigError(problems)
        super().__init__(sample_rate, in_channels, prod(strides), causal, skip_channel=skip_channel)
        norm: Norm | None = "weight_norm" if weight_norm else None

        def conv(inputs: int, outputs: int) -> Conv1d:
            return Conv1d(inputs, outputs, kernel_size, bias=False, causal=causal, norm=norm)

        widths = [channels * 2**level for level in range(len(strides) + 1)]
        blocks = list(zip(widths, strides, strict=False))
        shared = (residual_kernel_size, tuple(dilations), causal, norm)
        self.first = conv(in_channels, widths[0])
        self.encoder = nn.ModuleList(EncoderBlock(width, stride, *shared) for width, stride in blocks)
        self.reduce = conv(widths[-1], bottleneck_channels)
        self.expand = conv(bottleneck_channels, widths[-1])
        self.decoder = nn.ModuleList(DecoderBlock(width, stride, *shared) for width, stride in reversed(blocks))
        self.last = conv(widths[0], 1)
        self._initialise(speech_level, init_output_scale)
        self.receptive_field = field_of_spans([self.input_span(n, n) for n in range(self.hop)])  # it repeats every hop
        self.delay = self.receptive_field[1]

    def body(self, inputs: Tensor) -> Tensor:
        """``(B, in_channels, T)``, T a multiple of ``hop``, to ``(B, 1, T)``."""
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

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample that the outputs ``first`` to ``last`` depend on."""
        joints = [self.last.input_span(first, last)]  # span of the decoder's input at each level, where a skip enters
        for decode in reversed(self.decoder):
            joints.append(_span_through([decode], joints[-1]))
        span = self.reduce.input_span(*self.expand.input_span(*joints[-1]))
        for encode in reversed(self.encoder):
            span = _span_through([encode], _union(span, joints.pop()))
        span = self.first.input_span(*_union(span, joints.pop()))
        return _union(span, (first, last))

    def _initialise(self, speech_level: float, output_scale: float) -> None:
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, Conv1d | ConvTranspose1d):
                    scale = 3.0**0.5  # of uniform weights within 1 / sqrt(fan in), for outputs of the inputs' variance
                    scale *= 1.0 / speech_level if layer is self.first else 1.0
                    scale *= speech_level * output_scale if layer is self.last else 1.0
                    set_weight(layer, scale * layer.weight)


def _union(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return min(a[0], b[0]), max(a[1], b[1])


def _span_through(backwards: Iterable[nn.Module], span: tuple[int, int]) -> tuple[int, int]:
    """What the output span of a chain of blocks, last block first, depends on at its input."""
    for block in backwards:
        assert isinstance(block, ResidualUnit | EncoderBlock | DecoderBlock)
        span = block.input_span(*span)
    return span
