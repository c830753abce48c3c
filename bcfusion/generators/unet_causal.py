"""A causal U-Net of gated convolutions on spectra of 20 ms frames, conditioned on the time of a path.

After the causal flow networks of Hsieh and Braun 2025: gated linear units (Dauphin et al., "Language modeling with
gated convolutional networks", ICML 2017) in a U-Net (Ronneberger et al. 2015), modulated by the time (FiLM, Perez et
al. 2018). Sizes and the recurrence at its bottom are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion.generators.dpcrn import DualPathBlock
from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.norm import FrameLayerNorm
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork, compressed, expanded, frame_loudness
from bcfusion.nn.stft import Window
from bcfusion.nn.time import TimeConditioned, TimeEmbedding
from bcfusion.requirements import above, at_least, require, within


class GatedBlock(nn.Module):
    """``(B, channels, F, N)`` to the same shape: normalised, modulated by the time, convolved, gated, and added.

    The convolution gives twice the channels, one half of which gates the other. Normalisation is over channels and bins
    of each frame.

    Args:
        channels: C.
        bins: F.
        kernel_size: along (frequency, frames); the first odd.
        embedding: numbers that describe the time.
    """

    def __init__(self, channels: int, bins: int, kernel_size: Sequence[int], embedding: int) -> None:
        super().__init__()
        side = kernel_size[0] // 2
        self.norm = FrameLayerNorm(channels)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv = Conv2d(channels, 2 * channels, kernel_size, bins, padding=(side, side), causal=True)
        self.out = Conv2d(channels, channels, (1, 1), bins, causal=True)
        with torch.no_grad():
            self.modulation.weight.mul_(0.1)  # the untrained network is nearly the same at all times
            self.modulation.bias.zero_()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        value, gate = self.conv(self.norm(x) * (1 + scale) + shift).chunk(2, dim=1)
        y: Tensor = x + self.out(value * torch.sigmoid(gate))
        return y


class UNetCausal(TimeConditioned, SpectralNetwork):
    """Causal generator ``(B, in_channels, T) -> (B, 1, T)`` for any T, on spectra of 20 ms frames.

    Real and imaginary parts of all channels are divided by the loudness of their frame, which a mapping gets back in
    the end (with additional look-ahead that of its own time), and widened. Each level has gated blocks and a
    convolution that halves the bins; at the bottom dual-path recurrence runs along frequency and along time; the
    decoder mirrors the encoder, and each of its levels also takes the output of the encoder's. Convolutions see the
    past and the present frame only.
    The defaults have 783,162 parameters.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors, or of the channels of an objective on a path.
        channels: of each level, first to last; the last is that of the recurrence, and even.
        blocks: gated blocks per level of the encoder, and of the decoder.
        kernel_size: of the gated blocks, along (frequency, frames).
        recurrent_blocks: dual-path blocks at the bottom.
        embedding: numbers that describe the time.
        normalize_frames: whether frames are divided by their loudness, all channels together, which a mapping gets back
            in the end. None: they are, unless an objective learns a velocity, which is as loud in pauses as in speech.
        compression: exponent of the magnitudes with which spectra enter and leave the network; 1: as they are. Without
            it the high bands, 40 dB below the others, are small differences that it hardly learns. None: 0.5, but 1 on
            a path in the spectrum, which is compressed there. A mask is one of spectra as they are.
        head: meaning of the output, see :class:`bcfusion.nn.spectral.SpectralHead`.
        n_fft: of the STFT, in samples; ``n_fft / 2`` must be divisible by 2 at every level but the last.
        hop_length: likewise.
        win_length: likewise.
        window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        skip_channel: the sensor that is masked or added to; -1 is the last (the air microphone, in fusion).
        init_output_scale: factor on the initial weights of the last layer.
        frequency_norm: ``learnable``: the spectra of all channels and the output, before the head uses it, are scaled
            bin by bin; both start from the training set, see :class:`bcfusion.nn.frequency_norm.FrequencyAffine`, that
            of a mask, which is shifted too, at 1 and 0. None: neither.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        delay: ``win_length - 1`` samples, and additional look-ahead.
        provides: ``mask``, the magnitude ``(B, F, N)`` of the mask, if the head is one.

    Raises:
        ConfigError: sizes that do not fit; another ``head``.
    """

    provides: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: Sequence[int] = (24, 32, 48, 64, 96),
        blocks: int = 1,
        kernel_size: Sequence[int] = (3, 3),
        recurrent_blocks: int = 1,
        embedding: int = 64,
        normalize_frames: bool | None = True,
        compression: float | None = 1.0,
        head: Head = "additive",
        n_fft: int = 320,
        hop_length: int = 160,
        win_length: int = 320,
        window: Window = "sqrt_hann",
        skip_channel: int = -1,
        init_output_scale: float = 0.3,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
        halved = 2 ** (len(channels) - 1)
        require(
            self,
            at_least(1, channels=channels, blocks=blocks, kernel_size=kernel_size, embedding=embedding),
            at_least(0, recurrent_blocks=recurrent_blocks),
            above(0, init_output_scale=init_output_scale),
            [] if compression is None else within(0.1, 1, compression=compression),
            (
                len(kernel_size) == 2 and kernel_size[0] % 2 == 1,
                f"kernel_size={list(kernel_size)} must be odd along frequency",
            ),
            (not channels or channels[-1] % 2 == 0, f"channels={list(channels)} must end with an even number"),
            (
                n_fft % (2 * halved) == 0,
                f"n_fft={n_fft} must be a multiple of {2 * halved} with {len(channels)} levels",
            ),
        )
        super().__init__(
            sample_rate,
            in_channels,
            n_fft,
            hop_length,
            win_length,
            window,
            True,
            0,
            skip_channel,
            frequency_norm,
            lookahead_ms,
        )
        self.normalize_frames = normalize_frames is not False
        self.compression = 0.5 if compression is None else float(compression)
        self.head = SpectralHead(head)
        self.provides = ("mask",) if self.head.masks else ()
        self.only_masks = self.head.masks
        bins = [n_fft // 2 // 2**level + 1 for level in range(len(channels))]

        def level_of(level: int) -> nn.ModuleList:
            return nn.ModuleList(
                GatedBlock(channels[level], bins[level], kernel_size, embedding) for _ in range(blocks)
            )

        self.embedding = TimeEmbedding(embedding)
        self.first = Conv2d(2 * self.signals, channels[0], (3, 1), bins[0], padding=(1, 1), causal=True)
        levels = range(len(channels))
        self.encoder = nn.ModuleList(level_of(level) for level in levels)
        self.down = nn.ModuleList(
            Conv2d(channels[level], channels[level + 1], (3, 1), bins[level], (2, 1), padding=(1, 1), causal=True)
            for level in levels[:-1]
        )
        self.recurrence = nn.Sequential(*(DualPathBlock(channels[-1], bins[-1]) for _ in range(recurrent_blocks)))
        self.up = nn.ModuleList(
            ConvTranspose2d(channels[level + 1], channels[level], (3, 1), bins[level + 1], 2, (1, 1), causal=True)
            for level in levels[:-1]
        )
        self.join = nn.ModuleList(
            Conv2d(2 * channels[level], channels[level], (1, 1), bins[level], causal=True) for level in levels[:-1]
        )
        self.decoder = nn.ModuleList(level_of(level) for level in levels[:-1])
        self.last_norm = FrameLayerNorm(channels[0])
        self.last = Conv2d(channels[0], 2, (3, 1), bins[0], padding=(1, 1), causal=True)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.weight.mul_(init_output_scale)
            self.last.bias.zero_()
            self.last.bias[0] = float(self.head.masks)

        self.frequency_in = self.frequency_affine(self.signals, self.stft.bins, parts=2)
        self.frequency_out = self.frequency_affine(1, self.stft.bins, parts=2, kind=self.head.output_kind)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        small = compressed(*sensors, self.compression), compressed(*target, self.compression)
        return self.head.statistics(*small, self.skip_channel)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        plain = real[:, self.skip_channel], imag[:, self.skip_channel]
        real, imag = compressed(real, imag, self.compression)
        x = self.frequency_in(torch.cat([real, imag], dim=1))
        embedding = self.embedding(self.time(x))
        h = self.first(x / frame_loudness(x) if self.normalize_frames else x)
        skips = []
        for level, blocks in enumerate(self.encoder):
            for block in cast("nn.ModuleList", blocks):
                h = block(h, embedding)
            if level < len(self.down):
                skips.append(h)
                h = self.down[level](h)
        h = self.recurrence(h)
        for level in reversed(range(len(self.up))):
            h = self.join[level](torch.cat([self.up[level](h), skips.pop()], dim=1))
            for block in cast("nn.ModuleList", self.decoder[level]):
                h = block(h, embedding)
        h = self.last(self.last_norm(h))
        if self.normalize_frames and not self.head.masks:
            h = h * frame_loudness(self.parts_in_time(x))
        h = self.frequency_out(h)
        output = h[:, 0], h[:, 1]
        if self.head.masks:
            return self.head(plain, output), self.head.provided(output)
        real, imag = self.head((real[:, self.skip_channel], imag[:, self.skip_channel]), output)
        return expanded(real, imag, self.compression), {}
