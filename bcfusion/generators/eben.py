"""EBEN, an encoder and decoder that works on the bands of a pseudo-QMF filter bank.

Hauret et al., "EBEN: Extreme Bandwidth Extension Network applied to speech signals captured with noise-resilient
body-conduction microphones", ICASSP 2023; "Configurable EBEN: Extreme Bandwidth Extension Network to enhance
body-conducted speech capture", IEEE/ACM TASLP 31, 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Conv1d, ConvTranspose1d, Norm, channels_last
from bcfusion.nn.network import WaveformNetwork, field_of_spans
from bcfusion.nn.pqmf import PQMF

Span = tuple[int, int]


class ResidualUnit(nn.Module):
    """``x + act(pointwise(dilated(x)))``, ``(B, channels, frames)`` to the same; nothing between the two."""

    def __init__(self, channels: int, dilation: int, act: nn.Module, causal: bool, norm: Norm | None) -> None:
        super().__init__()
        self.dilated = Conv1d(channels, channels, 3, dilation=dilation, bias=False, causal=causal, norm=norm)
        self.pointwise = Conv1d(channels, channels, 1, bias=False, causal=causal, norm=norm)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Shape in, shape out."""
        h: Tensor = self.act(self.pointwise(self.dilated(x)))
        return x + h

    def input_span(self, first: int, last: int) -> Span:
        """The first and last frame that the outputs ``first`` to ``last`` depend on."""
        return self.dilated.input_span(first, last)


class EncoderBlock(nn.Module):
    """Residual units, then a strided convolution: ``(B, channels, F) -> (B, 2 channels, F / stride)``."""

    def __init__(
        self, channels: int, stride: int, dilations: Sequence[int], act: nn.Module, causal: bool, norm: Norm | None
    ) -> None:
        super().__init__()
        self.units = nn.Sequential(*(ResidualUnit(channels, dilation, act, causal, norm) for dilation in dilations))
        self.down = Conv1d(channels, 2 * channels, 2 * stride, stride, bias=False, causal=causal, norm=norm)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Downsamples by the stride."""
        h: Tensor = self.act(self.down(self.units(x)))
        return h

    def input_span(self, first: int, last: int) -> Span:
        """The first and last frame that the outputs ``first`` to ``last`` depend on."""
        return _span_through([self.down, *reversed(self.units)], (first, last))


class DecoderBlock(nn.Module):
    """A transposed convolution, then residual units: ``(B, 2 channels, F / stride) -> (B, channels, F)``."""

    def __init__(
        self, channels: int, stride: int, dilations: Sequence[int], act: nn.Module, causal: bool, norm: Norm | None
    ) -> None:
        super().__init__()
        self.up = ConvTranspose1d(2 * channels, channels, 2 * stride, stride, bias=False, causal=causal, norm=norm)
        self.units = nn.Sequential(*(ResidualUnit(channels, dilation, act, causal, norm) for dilation in dilations))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Upsamples by the stride."""
        h: Tensor = self.units(self.act(self.up(x)))
        return h

    def input_span(self, first: int, last: int) -> Span:
        """The first and last frame that the outputs ``first`` to ``last`` depend on."""
        return _span_through([*reversed(self.units), self.up], (first, last))


class EBEN(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    A filter bank splits each sensor into ``bands`` (m); the lowest ``input_bands`` (p) are kept. A convolution to
    ``channels`` (n); an encoder block for each stride, doubling them; a bottleneck; the mirrored decoder, each of whose
    blocks takes the sum of what comes from below and of the encoder's output at that level; a convolution to m bands.
    The kept bands of one sensor are added to the lowest of these, tanh bounds the sum, and the filter bank joins it. A
    leaky ReLU follows every convolution but the first, the last and the dilated ones. No convolution has a bias.

    The published network is for files: it looks 204 ms ahead with the defaults. The causal one has the same layers and
    parameters; each convolution and the filter bank see the past alone, and the bank's delay, ``taps - bands`` samples,
    is all of its look-ahead (1.75 ms, 17.7 ms with the rest of the frame of 16 ms).

    With m=4 and n=32 there are 1,945,888 parameters for p=1 and 96 more for each further band: the published counts
    without their 256 filter taps, which are not learnt.

    Weights start as torch starts them. On the way to the bottleneck levels fall to some 2 % of the speech's; without
    biases the leaky ReLU does the same at any level, and the untrained correction is some tenth of the speech.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        bands: of the filter bank (m). input_bands: of each sensor that the network sees, the lowest ones (p).
        channels: after the first convolution (n); doubled by every encoder block (32 to 256).
        taps, beta: of the filter bank, see :class:`bcfusion.nn.pqmf.PQMF`.
        strides: of the encoder blocks, first to last, in frames of one sample a band.
        dilations: of the residual units of one block.
        latent_channels: between encoder and decoder.
        negative_slope: of the leaky ReLU.
        causal: every convolution and the filter bank see the past alone; the network streams in chunks of ``hop``.
        weight_norm: weight normalisation of all convolutions but the first and last (Salimans & Kingma 2016).
        skip_channel: the sensor that the output starts from; -1 is the last (the air microphone, in fusion).

    Attributes:
        hop: samples, ``bands`` times the product of the strides; a streaming chunk is a multiple of it.
        receptive_field: (past, future), in samples: output n depends on input n - past to n + future, at the frame
            phases where they reach farthest. Exact.
        delay: algorithmic latency in samples, the future part of the receptive field; ``taps - bands + hop - 1`` when
            causal.
        last: convolution to the bands; its ``weight`` is a plain parameter, where gradients of losses can be compared.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        bands: int = 4,
        input_bands: int = 1,
        channels: int = 32,
        taps: int = 32,
        beta: float = 9.0,
        strides: Sequence[int] = (2, 4, 8),
        dilations: Sequence[int] = (1, 3, 9),
        latent_channels: int = 64,
        negative_slope: float = 0.01,
        causal: bool = False,
        weight_norm: bool = True,
        skip_channel: int = -1,
    ) -> None:
        problems = []
        if not 1 <= input_bands <= bands:
            problems.append(f"EBEN: input_bands={input_bands} must be 1 to {bands}, the number of bands")
        if not strides or min(strides) < 1:
            problems.append(f"EBEN: strides={list(strides)} must be one or more numbers of at least 1")
        if problems:
            raise ConfigError(problems)
        pqmf = PQMF(bands, taps, beta, causal=causal, channels=in_channels)
        # without causality the bank wants frames outside of the file at both ends: the body delays by an edge before
        # the bank, which puts zeros at the head, and by another one behind it, for which zeros are added at the end
        lookahead = pqmf.lookahead + 2 * pqmf.edge
        super().__init__(sample_rate, in_channels, bands * prod(strides), causal, lookahead, skip_channel=skip_channel)
        self.input_bands = input_bands
        norm: Norm | None = "weight_norm" if weight_norm else None
        act = nn.LeakyReLU(negative_slope)

        self.pqmf = pqmf
        widths = [channels * 2**level for level in range(len(strides) + 1)]
        blocks = list(zip(widths, strides, strict=False))
        shared = (tuple(dilations), act, causal, norm)
        self.first = Conv1d(in_channels * input_bands, channels, 3, bias=False, causal=causal)
        self.encoder = nn.ModuleList(EncoderBlock(width, stride, *shared) for width, stride in blocks)
        self.reduce = Conv1d(widths[-1], latent_channels, 7, bias=False, causal=causal, norm=norm)
        self.expand = Conv1d(latent_channels, widths[-1], 7, bias=False, causal=causal, norm=norm)
        self.decoder = nn.ModuleList(DecoderBlock(width, stride, *shared) for width, stride in reversed(blocks))
        self.last = Conv1d(channels, bands, 3, bias=False, causal=causal)
        self.act = act
        self.receptive_field = field_of_spans([self.input_span(n, n) for n in range(self.hop)])  # it repeats every hop
        self.delay = self.receptive_field[1]

    def body(self, inputs: Tensor) -> Tensor:
        """``(B, in_channels, T)``, T a multiple of ``hop``, to ``(B, 1, T)``, late by ``lookahead``."""
        edge = self.pqmf.edge
        kept = self.pqmf.analysis(F.pad(inputs, (edge, -edge)), slice(self.input_bands))
        h = channels_last(self.first(kept))  # (B, channels, frames)
        skips = []
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
        h = self.act(self.reduce(h))  # (B, latent_channels, frames * bands / hop)
        h = self.act(self.expand(h))
        for decode in self.decoder:
            h = decode(h + skips.pop())
        h = self.last(h)  # (B, bands, frames)
        heard = h[:, : self.input_bands] + kept.unflatten(1, (self.in_channels, -1))[:, self.skip_channel]
        estimate = self.pqmf.synthesis(torch.tanh(torch.cat([heard, h[:, self.input_bands :]], dim=1)))
        return F.pad(estimate, (edge, -edge))

    def input_span(self, first: int, last: int) -> Span:
        """The first and last input sample that the outputs ``first`` to ``last`` depend on."""
        edge = self.pqmf.edge
        late = self.lookahead - edge  # of the bank's output; its input is late by an edge
        frames = self.pqmf.synthesis_span(first + late, last + late)
        joints = [self.last.input_span(*frames)]  # span of the decoder's input at each level, where a skip enters
        for decode in reversed(self.decoder):
            joints.append(_span_through([decode], joints[-1]))
        span = self.reduce.input_span(*self.expand.input_span(*joints[-1]))
        for encode in reversed(self.encoder):
            span = _span_through([encode], _union(span, joints.pop()))
        span = _union(self.first.input_span(*span), frames)
        start, end = self.pqmf.analysis_span(*span)
        return start - edge, end - edge


def _union(a: Span, b: Span) -> Span:
    return min(a[0], b[0]), max(a[1], b[1])


def _span_through(backwards: Iterable[nn.Module], span: Span) -> Span:
    """What the output span of a chain of layers or blocks, last one first, depends on at its input."""
    for block in backwards:
        assert isinstance(block, ResidualUnit | EncoderBlock | DecoderBlock | Conv1d | ConvTranspose1d)
        span = block.input_span(*span)
    return span
