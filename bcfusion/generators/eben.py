"""EBEN, an encoder and decoder that works on the bands of a pseudo-QMF filter bank.

Hauret et al., "EBEN: Extreme Bandwidth Extension Network applied to speech signals captured with noise-resilient
body-conduction microphones", ICASSP 2023; "Configurable EBEN: Extreme Bandwidth Extension Network to enhance
body-conducted speech capture", IEEE/ACM TASLP 31, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, ConvTranspose1d, Norm, channels_last
from bcfusion.nn.network import WaveformNetwork, future_reach, signals_of
from bcfusion.nn.padding import PaddingMode
from bcfusion.nn.pqmf import PQMF
from bcfusion.nn.revision import Revised
from bcfusion.requirements import at_least, require, within


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int, causal: bool, norm: Norm | None, **sizes: int
) -> Conv1d:
    """Return a convolution without a bias that mirrors the ends of the file, or sees zeros before it if causal."""
    mode: PaddingMode = "zeros" if causal else "reflect"
    return Conv1d(
        in_channels, out_channels, kernel_size, bias=False, causal=causal, padding_mode=mode, norm=norm, **sizes
    )


class ResidualUnit(nn.Module):
    """``x + act(pointwise(dilated(x)))``, ``(B, channels, frames)`` to the same; no activation between the two."""

    def __init__(self, channels: int, dilation: int, act: nn.Module, causal: bool, norm: Norm | None) -> None:
        super().__init__()
        self.dilated = _convolution(channels, channels, 3, causal, norm, dilation=dilation)
        self.pointwise: nn.Module = _convolution(channels, channels, 1, causal, norm)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.act(self.pointwise(self.dilated(x)))
        return x + h

    def merge_layers(self) -> None:
        """Make one convolution of the two, in place; without an activation in between their product is one, too."""
        if isinstance(self.pointwise, Conv1d):
            with torch.no_grad():
                first, second = self.dilated.weight.double(), self.pointwise.weight[..., 0].double()
                self.dilated.weight.copy_(torch.einsum("om,mik->oik", second, first))
            self.pointwise = nn.Identity()


class EncoderBlock(nn.Module):
    """Residual units, then a strided convolution: ``(B, channels, F) -> (B, 2 channels, F / stride)``, not activated.

    Frame j of the convolution is computed from the frames ``stride * j - (stride - 1)`` to ``stride * j + stride``, or
    if causal from the ``2 * stride`` frames up to ``stride * j + stride - 1``.
    """

    def __init__(
        self, channels: int, stride: int, dilations: Sequence[int], act: nn.Module, causal: bool, norm: Norm | None
    ) -> None:
        super().__init__()
        self.units = nn.Sequential(*(ResidualUnit(channels, dilation, act, causal, norm) for dilation in dilations))
        left = {} if causal else {"left": stride - 1}
        self.down = _convolution(channels, 2 * channels, 2 * stride, causal, norm, stride=stride, **left)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.down(self.units(x))
        return h


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
        h: Tensor = self.units(self.act(self.up(x)))
        return h


class EBEN(Revised, WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    A filter bank splits each sensor into ``bands`` (m); the lowest ``input_bands`` (p) are kept. A convolution to
    ``channels`` (n) follows; one encoder block per stride, doubling them; a bottleneck of two convolutions; the
    mirrored decoder, each of whose blocks takes the sum of the output below and of the encoder's output at that level;
    a convolution to m bands. The kept bands of one sensor are added to the lowest of these, tanh bounds the sum, and
    the filter bank joins it. No convolution has a bias.

    The activations (leaky ReLU) are those of the published code: before each encoder block; before, between and after
    the convolutions of the bottleneck; after each transposed convolution; at the end of each residual unit. What passes
    from the encoder to the decoder of the same level is not activated.

    The published network is for files: it mirrors the signal at both ends of each layer, and looks 198 ms ahead with
    the defaults. The causal one has the same layers and parameters; each convolution and the filter bank see the past
    only, and its only look-ahead is the bank's delay, ``taps - bands`` samples (1.75 ms, 17.7 ms with the rest of the
    frame of 16 ms). It cannot mirror: the frames that a mirror puts before the first one are those that follow it. They
    are replaced by zeros, the silence before the file. At the end of the file a causal layer needs no padding.

    With m=4 and n=32 there are 1,945,888 parameters for p=1 and 96 more per further band: the published counts without
    their 256 filter taps, which are not trained. The filters are those of :class:`bcfusion.nn.pqmf.PQMF`, whose cutoff
    is searched more finely and whose gain is exactly one: they differ from the published ones by .05 % of their norm.
    The first frame ends with the first sample of the file, as published.

    The initial weights are torch's, but those of the transposed convolutions are drawn for their true number of inputs.
    On the way to the bottleneck levels fall to about 2 % of the speech; without biases the leaky ReLU works the same at
    any level, and the untrained correction is about a tenth of the speech.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        bands: of the filter bank (m).
        input_bands: of each sensor that the network sees, the lowest ones (p).
        channels: after the first convolution (n); doubled by every encoder block (32 to 256).
        taps: of the filter bank, see :class:`bcfusion.nn.pqmf.PQMF`.
        beta: likewise.
        cutoff: likewise; with ``filter_gain`` it gives a published network the filters that it was trained with.
        filter_gain: likewise, ``gain`` there; the public bank has ``cutoff=0.158866584`` and None.
        strides: of the encoder blocks, first to last, in frames of one sample per band.
        dilations: of the residual units of one block.
        latent_channels: between encoder and decoder.
        negative_slope: of the leaky ReLU.
        causal: every convolution and the filter bank see the past only; the network streams in chunks of ``hop``.
        weight_norm: weight normalisation of all convolutions but the first and last (Salimans & Kingma 2016).
        skip_channel: the sensor that the output starts from; -1 is the last (the air microphone, in fusion).
        provide_bands: also return ``bands``, for discriminators that judge them as published.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops, of the causal network only; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        provides: ``bands (B, bands, frames)`` that the filter bank joins to the estimate, if ``provide_bands``.
        hop: samples, ``bands`` times the product of the strides; a streaming chunk is a multiple of it.
        delay: algorithmic latency in samples, exact at the frame phases where it is longest; ``taps - bands + hop - 1``
            if causal.
        last: convolution to the bands; its ``weight`` is a plain parameter, at which gradients of losses can be
            compared.

    Raises:
        ConfigError: sizes that do not fit.
    """

    revision = 2  # 1 activated what passes to the decoder, not the first encoder block's input, and padded with zeros

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        bands: int = 4,
        input_bands: int = 1,
        channels: int = 32,
        taps: int = 32,
        beta: float = 9.0,
        cutoff: float | None = None,
        filter_gain: float | None = 1.0,
        strides: Sequence[int] = (2, 4, 8),
        dilations: Sequence[int] = (1, 3, 9),
        latent_channels: int = 64,
        negative_slope: float = 0.01,
        causal: bool = False,
        weight_norm: bool = True,
        skip_channel: int = -1,
        provide_bands: bool = False,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(self, within(1, bands, input_bands=input_bands), at_least(1, strides=strides))
        pqmf = PQMF(bands, taps, beta, cutoff, causal, signals_of(in_channels, lookahead_ms), filter_gain)
        # a bank that is not causal needs frames outside the file at both ends. The body delays by `head` before the
        # bank, so that its first frame ends with the first sample, and by `tail` after it, which completes the output
        self.head, self.tail = (0, 0) if causal else (taps - 1 - pqmf.left, pqmf.left)
        lookahead = pqmf.lookahead + self.head + self.tail
        hop = bands * prod(strides)
        super().__init__(
            sample_rate, in_channels, hop, causal, lookahead, skip_channel=skip_channel, lookahead_ms=lookahead_ms
        )
        self.input_bands = input_bands
        self.provides = ("bands",) if provide_bands else ()
        norm: Norm | None = "weight_norm" if weight_norm else None
        act = nn.LeakyReLU(negative_slope)

        self.pqmf = pqmf
        self.inside_hop = bands  # samples of a frame of the bands
        self.keeps_noise = input_bands < bands
        widths = [channels * 2**level for level in range(len(strides) + 1)]
        blocks = list(zip(widths, strides, strict=False))
        shared = (tuple(dilations), act, causal, norm)
        self.first = _convolution(self.signals * input_bands, channels, 3, causal, None)
        self.encoder = nn.ModuleList(EncoderBlock(width, stride, *shared) for width, stride in blocks)
        self.reduce = _convolution(widths[-1], latent_channels, 7, causal, norm)
        self.expand = _convolution(latent_channels, widths[-1], 7, causal, norm)
        self.decoder = nn.ModuleList(DecoderBlock(width, stride, *shared) for width, stride in reversed(blocks))
        self.last = _convolution(channels, bands, 3, causal, None)
        self.act = act
        if not causal:  # the last frame of the bands that an output depends on, and the samples of that frame's filters
            self.delay = bands * future_reach(prod(strides), self) + taps - 1

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Map ``(B, signals, T)``, T a multiple of ``hop``, to ``(B, 1, T)``, late by ``lookahead``."""
        kept = self.pqmf.analysis(F.pad(inputs, (self.head, -self.head)), slice(self.input_bands))
        bands = torch.tanh(self.restored_bands(kept))
        estimate = F.pad(self.pqmf.synthesis(bands), (self.tail, -self.tail))
        return {"estimate": estimate, "bands": bands} if self.provides else estimate

    def inside(self, waveform: Tensor) -> dict[str, Tensor]:
        """Return the ``bands (B, bands, frames)`` of a file ``(B, 1, T)``, as many as an estimate of T samples has.

        They are complete at both ends, and like those of an estimate they go on to whole frames of the network.
        """
        padded = F.pad(self.padded(waveform), (self.head, -self.head)).expand(-1, self.signals, -1)
        bands = self.pqmf.analysis(padded)[:, : self.pqmf.bands]
        return {"bands": bands[..., : bands.shape[-1] - self.future // self.pqmf.bands]}

    def trim(self, name: str, value: Tensor, length: int) -> Tensor:
        """Trim a waveform, or drop the frames of the bands that additional look-ahead puts before the file."""
        return super().trim(name, value, length) if name == "estimate" else value[..., self.future // self.pqmf.bands :]

    def restored_bands(self, kept: Tensor) -> Tensor:
        """Map the kept bands ``(B, signals * input_bands, frames)`` to all bands of the output, not yet bounded.

        Args:
            kept: the lowest bands of each signal, the first one's first; ``hop / bands`` frames or a multiple of it.

        Returns:
            ``(B, bands, frames)``.
        """
        h = channels_last(self.first(kept))  # (B, channels, frames)
        skips = []
        for encode in self.encoder:
            h = encode(self.act(h))
            skips.append(h)
        h = self.act(self.reduce(self.act(h)))  # (B, latent_channels, frames * bands / hop)
        h = self.act(self.expand(h))
        for decode in self.decoder:
            h = decode(h + skips.pop())
        h = self.last(h)  # (B, bands, frames)
        lowest = h[:, : self.input_bands] + kept.unflatten(1, (self.signals, -1))[:, self.skip_channel]
        return torch.cat([lowest, h[:, self.input_bands :]], dim=1)
