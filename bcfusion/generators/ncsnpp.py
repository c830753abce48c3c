"""NCSN++: a U-Net of residual blocks with attention on spectra, the network of score-based speech restoration.

Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021, appendix H; on
complex spectra: Richter et al., "Speech enhancement and dereverberation with diffusion-based generative models", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.norm import GroupNorm
from bcfusion.nn.precision import filter_tensor
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork
from bcfusion.nn.stft import Window
from bcfusion.nn.time import TimeConditioned
from bcfusion.requirements import at_least, require, within

_TAPS = np.array([1.0, 3.0, 3.0, 1.0])  # of the filter of both resamplers, along bins and along frames
_SMALL = 1e-3  # factor on the initial weights that end a residual path: a block starts as its shortcut


class FourierEmbedding(nn.Module):
    """Times ``(B,)`` to ``(B, 4 channels)``: sines and cosines of log t at fixed random frequencies, two linear layers.

    The frequencies (Tancik et al., "Fourier features let networks learn high frequency functions", 2020) are part of
    the state of the network.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * scale * torch.randn(channels))
        self.layers = nn.Sequential(
            nn.Linear(2 * channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels), nn.SiLU()
        )

    def forward(self, time: Tensor) -> Tensor:
        phases = time.to(self.frequencies).clamp_min(1e-4).log()[:, None] * self.frequencies
        embedded: Tensor = self.layers(torch.cat([phases.sin(), phases.cos()], dim=1))
        return embedded


class Resample(nn.Module):
    """Half or double the bins and frames of ``(B, C, F, N)`` by a smoothing filter, without parameters."""

    kernel: Tensor

    def __init__(self, up: bool) -> None:
        super().__init__()
        self.up = up
        taps = _TAPS / _TAPS.sum() * (2 if up else 1)
        self.register_buffer("kernel", filter_tensor(np.outer(taps, taps)[None, None]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        resample = F.conv_transpose2d if self.up else F.conv2d
        return resample(x, kernel, stride=2, padding=1, groups=channels)


class ResidualBlock(nn.Module):
    """``(B, inputs, F, N)`` to ``(B, outputs, F', N')``: the residual block of BigGAN, shifted by the time.

    Args:
        inputs: channels.
        outputs: channels.
        embedding: numbers that describe the time.
        resample: halves or doubles bins and frames of both paths; None: they stay.
        dropout: before the second convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, resample: Resample | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.resample = resample
        self.first_norm, self.first = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shift = nn.Linear(embedding, outputs)
        self.second_norm, self.second = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        same = inputs == outputs and resample is None
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)
        _nearly_silent(self.second)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.first_norm(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.first(h) + self.shift(embedding)[:, :, None, None]
        h = self.second(self.dropout(F.silu(self.second_norm(h))))
        return cast("Tensor", (self.shortcut(x) + h) / math.sqrt(2))


class Attention(nn.Module):
    """Self-attention of one head over all bins and frames of ``(B, C, F, N)``, added to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.inward = nn.Conv2d(channels, 3 * channels, 1)
        self.outward = nn.Conv2d(channels, channels, 1)
        _nearly_silent(self.outward)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        # in this layout torch has a kernel that never holds all weights at once, the square of the length of a file
        rows = self.inward(self.norm(x)).flatten(2).transpose(1, 2).contiguous()
        query, key, value = rows[:, None].chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)[:, 0].transpose(1, 2).reshape(x.shape)
        return cast("Tensor", (x + self.outward(attended)) / math.sqrt(2))


class NCSNpp(TimeConditioned, SpectralNetwork):
    """Generator ``(B, in_channels, T) -> (B, 1, T)`` for any T. Not causal: it normalises over the whole file.

    Each level has residual blocks; between levels bins and frames are halved. The input spectrum, halved as often, is
    added at every level of the encoder (progressive input), and the output is the sum of what every level of the
    decoder gives, doubled as often (progressive output). Attention is at the bottom, and at the levels with
    ``attention_bins`` bins. The spectrum of a signal is real at both ends; so that the bins are a power of two, the one
    at half the sample rate takes the place of the imaginary part at 0 Hz.

    Departures from the public code: the input is divided by its loudness over the file and the output multiplied by it;
    the levels add up to the two parts of the spectrum at once, without a last convolution of as many channels as the
    input has; and the output is not divided by the time, as FlowSE's is.

    The published network, ``channels=128, multipliers=(1, 1, 2, 2, 2, 2, 2), blocks=2``, has 65.6 M parameters with
    one sensor and a state; the defaults have 1.08 M with one sensor.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors, or of the channels of an objective on a path.
        channels: of the first level.
        multipliers: channels of each level, in multiples of ``channels``.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        attention_bins: the level of so many bins, if there is one, has attention; 0: only the bottom.
        dropout: within the residual blocks.
        head: meaning of the output, see :class:`bcfusion.nn.spectral.SpectralHead`.
        n_fft: of the STFT, in samples; ``n_fft / 2`` must be divisible by 2 at every level but the last.
        hop_length: likewise.
        win_length: likewise.
        window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        skip_channel: the sensor that is masked or added to; -1 is the last (the air microphone, in fusion).
        init_output_scale: factor on the initial weights of the layers that give the output.
        frequency_norm: ``learnable``: the spectra of all channels and the output, before the head uses it, are scaled
            bin by bin; both start from the training set, see :class:`bcfusion.nn.frequency_norm.FrequencyAffine`, that
            of a mask, which is shifted too, at 1 and 0. None: neither.

    Attributes:
        delay: None.
        provides: ``mask``, the magnitude ``(B, F, N)`` of the mask, if the head is one.

    Raises:
        ConfigError: sizes that do not fit; another ``head``.
    """

    provides: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 24,
        multipliers: Sequence[int] = (1, 1, 2, 2, 2),
        blocks: int = 1,
        attention_bins: int = 16,
        dropout: float = 0.0,
        head: Head = "additive",
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
        skip_channel: int = -1,
        init_output_scale: float = 0.3,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        halved = 2 ** (len(multipliers) - 1)
        require(
            self,
            at_least(1, channels=channels, multipliers=multipliers, blocks=blocks),
            at_least(0, attention_bins=attention_bins, init_output_scale=init_output_scale),
            within(0, 0.9, dropout=dropout),
            (
                n_fft % (2 * halved) == 0,
                f"n_fft={n_fft} must be a multiple of {2 * halved} with {len(multipliers)} levels",
            ),
        )
        super().__init__(
            sample_rate, in_channels, n_fft, hop_length, win_length, window, False, None, skip_channel, frequency_norm
        )
        self.halved = halved
        self.head = SpectralHead(head)
        self.provides = ("mask",) if self.head.masks else ()
        self.only_masks = self.head.masks
        widths = [channels * multiplier for multiplier in multipliers]
        bins = [n_fft // 2 // 2**level for level in range(len(widths))]
        last, inputs, numbers = len(widths) - 1, 2 * in_channels, 4 * channels
        self.down, self.up = Resample(up=False), Resample(up=True)

        def block(inward: int, outward: int, resample: Resample | None = None) -> ResidualBlock:
            return ResidualBlock(inward, outward, numbers, resample, dropout)

        self.embedding = FourierEmbedding(channels)
        self.first = nn.Conv2d(inputs, channels, 3, padding=1)
        self.encoder, self.halving, self.progressive_in = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width, kept = channels, [channels]
        for level, wide in enumerate(widths):
            layers = nn.ModuleList()
            for _ in range(blocks):
                attention = [Attention(wide)] if bins[level] == attention_bins else []
                layers.append(nn.ModuleList([block(width, wide), *attention]))
                width = wide
                kept.append(width)
            self.encoder.append(layers)
            if level < last:
                self.halving.append(block(width, width, self.down))
                self.progressive_in.append(nn.Conv2d(inputs, width, 1))
                kept.append(width)
        self.bottom = nn.ModuleList([block(width, width), Attention(width), block(width, width)])
        self.decoder, self.doubling, self.progressive_out = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            layers = nn.ModuleList()
            for _ in range(blocks + 1):
                layers.append(block(width + kept.pop(), widths[level]))
                width = widths[level]
            if bins[level] == attention_bins:
                layers.append(Attention(width))
            self.decoder.append(layers)
            out = nn.Conv2d(width, 2, 3, padding=1)
            with torch.no_grad():
                out.weight.mul_(init_output_scale)
                assert out.bias is not None
                out.bias.zero_()
                if level == 0:
                    out.bias[0] = float(self.head.masks)
            self.progressive_out.append(nn.Sequential(_norm(width), nn.SiLU(), out))
            if level:
                self.doubling.append(block(width, width, self.up))

        self.frequency_in = self.frequency_affine(in_channels, self.stft.bins, parts=2)
        self.frequency_out = self.frequency_affine(1, self.stft.bins, parts=2, kind=self.head.output_kind)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return self.head.statistics(sensors, target, self.skip_channel)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        frames = real.shape[-1]
        x = F.pad(_packed(self.frequency_in(torch.cat([real, imag], dim=1))), (0, -frames % self.halved))
        loudness = (x.square().mean((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        h = self._network(x / loudness)[..., :frames]
        if not self.head.masks:
            h = h * loudness
        h = self.frequency_out(_unpacked(h))
        output = h[:, 0], h[:, 1]
        return self.head((real[:, self.skip_channel], imag[:, self.skip_channel]), output), self.head.provided(output)

    def _network(self, x: Tensor) -> Tensor:
        """Map ``(B, 2 in_channels, F, N)`` to ``(B, 2, F, N)``, F and N multiples of all halvings."""
        embedding = self.embedding(self.time(x))
        h = self.first(x)
        kept = [h]
        for level, blocks in enumerate(self.encoder):
            for layers in cast("nn.ModuleList", blocks):
                for layer in cast("nn.ModuleList", layers):
                    h = layer(h, embedding)
                kept.append(h)
            if level < len(self.halving):
                x = self.down(x)
                h = self.halving[level](h, embedding) + self.progressive_in[level](x)
                kept.append(h)
        for layer in self.bottom:
            h = layer(h, embedding)
        output: Tensor | None = None
        for level, layers in enumerate(self.decoder):
            for layer in cast("nn.ModuleList", layers):
                h = (
                    layer(h, embedding)
                    if isinstance(layer, Attention)
                    else layer(torch.cat([h, kept.pop()], dim=1), embedding)
                )
            given = self.progressive_out[level](h)
            output = given if output is None else self.up(output) + given
            if level < len(self.doubling):
                h = self.doubling[level](h, embedding)
        assert output is not None
        return output


def _nearly_silent(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        conv.weight.mul_(_SMALL)
        if conv.bias is not None:
            conv.bias.zero_()


def _norm(channels: int) -> GroupNorm:
    groups = next(count for count in range(min(max(channels // 4, 1), 32), 0, -1) if channels % count == 0)
    return GroupNorm(groups, channels, eps=1e-6)


def _packed(x: Tensor) -> Tensor:
    """Return ``(B, 2 C, F - 1, N)`` of the real parts of C spectra of F bins, then their imaginary parts."""
    real, imag = x.chunk(2, dim=1)
    return torch.cat([real[:, :, :-1], torch.cat([real[:, :, -1:], imag[:, :, 1:-1]], dim=2)], dim=1)


def _unpacked(x: Tensor) -> Tensor:
    """Return the spectra of which :func:`_packed` made ``x``."""
    real, imag = x.chunk(2, dim=1)
    real, last = torch.cat([real, imag[:, :, :1]], dim=2), torch.zeros_like(imag[:, :, :1])
    return torch.cat([real, torch.cat([last, imag[:, :, 1:], last], dim=2)], dim=1)
