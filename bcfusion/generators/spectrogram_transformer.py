"""A transformer over the frames of a spectrum, with skips between its halves, conditioned on the time of a path.

The network of generative speech models that follow a flow from noise: Le et al. 2023, "Voicebox: Text-guided
multilingual universal speech generation at scale", section 4; on complex spectra Ku et al. 2024, "Generative speech
foundation model pretraining for high-quality speech extraction and restoration", section 2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.attention import Alibi, Biases, SelfAttention
from bcfusion.nn.conv import Conv1d
from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork, frame_loudness
from bcfusion.nn.stft import Window
from bcfusion.nn.time import TimeConditioned
from bcfusion.requirements import above, at_least, require, within

_EPS = 1e-8  # of mean squares
_SKIP = 2**-0.5  # gain of what a skip brings


class WaveEmbedding(nn.Module):
    """Times ``(B,)`` in [0, 1] to vectors ``(B, channels)``: sines and cosines of trained frequencies, linear, SiLU.

    Args:
        waves: sines, and as many cosines; their frequencies start from normal numbers, in periods in [0, 1].
        channels: of the vectors.
    """

    def __init__(self, waves: int, channels: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(waves))
        self.linear = nn.Linear(2 * waves, channels)

    def forward(self, time: Tensor) -> Tensor:
        phases = 2 * math.pi * time.to(self.frequencies)[:, None] * self.frequencies
        return F.silu(self.linear(torch.cat([phases.sin(), phases.cos()], dim=1)))


class RmsNorm(nn.Module):
    """Divide each vector of ``(..., channels)`` by its root mean square, with a gain per channel (Zhang & Sennrich
    2019, "Root mean square layer normalization", eq. 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return _divided(x) * self.weight


class AdaptiveRmsNorm(nn.Module):
    """The same of ``(B, N, channels)``, with gains and shifts that are linear in the embedding of the time."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * channels)
        with torch.no_grad():
            self.modulation.weight.mul_(0.1)  # the untrained network is nearly the same at all times
            self.modulation.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        return _divided(x) * gain + shift


class FeedForward(nn.Module):
    """Two linear layers of each frame ``(B, N, channels)``, with a gated GELU between them (GEGLU: Shazeer 2020, "GLU
    variants improve transformer", eq. 6).

    Args:
        channels: C.
        factor: width of the hidden layer; two thirds of ``factor C`` are left, so that the gate costs nothing more.
        dropout: of the hidden values.
    """

    def __init__(self, channels: int, factor: float, dropout: float) -> None:
        super().__init__()
        width = max(1, int(channels * factor * 2 / 3))
        self.inward = nn.Linear(channels, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.outward = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.inward(x).chunk(2, dim=-1)
        y: Tensor = self.outward(self.dropout(value * F.gelu(gate)))
        return y


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward network, each of the normalised frames and added to them: ``(B, N, channels)``.

    Args:
        channels: C.
        heads: of the attention.
        reach: see :class:`bcfusion.nn.attention.Alibi`.
        causal: likewise.
        embedding: numbers that describe the time.
        factor: of the feed-forward network.
        dropout: likewise.
        skip: whether the layer also takes the input of an earlier one, by a linear layer of both.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        reach: int | None,
        causal: bool,
        embedding: int,
        factor: float,
        dropout: float,
        skip: bool,
    ) -> None:
        super().__init__()
        self.join = nn.Linear(2 * channels, channels) if skip else None
        self.attention_norm = AdaptiveRmsNorm(channels, embedding)
        self.attention = SelfAttention(channels, heads, reach, causal)
        self.feed_forward_norm = AdaptiveRmsNorm(channels, embedding)
        self.feed_forward = FeedForward(channels, factor, dropout)

    def forward(self, x: Tensor, embedding: Tensor, biases: Biases, earlier: Tensor | None = None) -> Tensor:
        if self.join is not None:
            assert earlier is not None
            x = self.join(torch.cat([x, _SKIP * earlier], dim=-1))
        x = x + self.attention(self.attention_norm(x, embedding), biases)
        y: Tensor = x + self.feed_forward(self.feed_forward_norm(x, embedding))
        return y


class SpectrogramTransformer(TimeConditioned, SpectralNetwork):
    """Generator ``(B, in_channels, T) -> (B, 1, T)`` for any T.

    Each frame, the real and imaginary parts of all channels and bins, is one vector. A convolution over neighbouring
    frames is added to the vectors as embedding of their place, and the transformer follows: layer ``depth - i`` of its
    second half also takes what layer ``i`` of its first half was given. A linear layer gives real and imaginary parts
    of the output.

    The published network, ``dim=1024, depth=24, heads=16, embedding=1024``, has 430.8 M parameters with one sensor and
    a state on a path; the defaults have 9.3 M with one sensor.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors, or of the channels of an objective on a path.
        dim: of the vectors; even.
        depth: layers; even.
        heads: of the attention, which divide ``dim``.
        feed_forward: width of the feed-forward networks, in multiples of ``dim``, a third less for their gates.
        kernel_size: of the convolution that embeds places, in frames; odd, if the network is not causal.
        embedding: numbers that describe the time.
        dropout: in the feed-forward networks.
        attention_frames: frames before its own, and after it if not causal, that a frame attends to in each layer; a
            stream keeps as many. None: all of the file.
        normalize_frames: whether frames are divided by their loudness, all channels together, which a mapping gets back
            in the end. None: they are, unless an objective learns a velocity, which is as loud in pauses as in speech.
        head: meaning of the output, see :class:`bcfusion.nn.spectral.SpectralHead`.
        n_fft: of the STFT, in samples.
        hop_length: likewise.
        win_length: likewise.
        window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        causal: whether no frame depends on a later one; the network then streams.
        skip_channel: the sensor that is masked or added to; -1 is the last (the air microphone, in fusion).
        init_output_scale: factor on the initial weights of the last layer.
        frequency_norm: ``learnable``: the spectra of all channels and the output, before the head uses it, are scaled
            bin by bin; both start from the training set, see :class:`bcfusion.nn.frequency_norm.FrequencyAffine`, that
            of a mask, which is shifted too, at 1 and 0. None: neither.
        lookahead_ms: additional look-ahead of a causal network in ms, 0 to 200, rounded up to whole hops; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        delay: ``win_length - 1`` samples and additional look-ahead, if causal; otherwise the reach of all layers in
            addition, or None without ``attention_frames``.
        provides: ``mask``, the magnitude ``(B, F, N)`` of the mask, if the head is one.

    Raises:
        ConfigError: sizes that do not fit; another ``head``; a causal network without ``attention_frames``.
    """

    provides: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        dim: int = 256,
        depth: int = 8,
        heads: int = 8,
        feed_forward: float = 4.0,
        kernel_size: int = 31,
        embedding: int = 256,
        dropout: float = 0.1,
        attention_frames: int | None = None,
        normalize_frames: bool | None = True,
        head: Head = "additive",
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
        causal: bool = False,
        skip_channel: int = -1,
        init_output_scale: float = 0.3,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self,
            at_least(2, dim=dim, depth=depth),
            at_least(1, heads=heads, kernel_size=kernel_size, embedding=embedding),
            [] if attention_frames is None else at_least(1, attention_frames=attention_frames),
            (not causal or attention_frames is not None, "causal=True needs attention_frames, which a stream keeps"),
            above(0, feed_forward=feed_forward, init_output_scale=init_output_scale),
            within(0, 0.9, dropout=dropout),
            (depth % 2 == 0, f"depth={depth} must be even, for skips between its halves"),
            (dim % 2 == 0, f"dim={dim} must be even"),
            (heads < 1 or dim % heads == 0, f"dim={dim} must be a multiple of heads={heads}"),
            (causal or kernel_size % 2 == 1, f"kernel_size={kernel_size} must be odd unless causal=True"),
        )
        later = None if attention_frames is None else 0 if causal else depth * attention_frames + kernel_size // 2
        super().__init__(
            sample_rate,
            in_channels,
            n_fft,
            hop_length,
            win_length,
            window,
            causal,
            later,
            skip_channel,
            frequency_norm,
            lookahead_ms,
        )
        self.normalize_frames = normalize_frames is not False
        self.head = SpectralHead(head)
        self.provides = ("mask",) if self.head.masks else ()
        self.only_masks = self.head.masks
        bins = self.stft.bins
        self.time_embedding = WaveEmbedding(dim // 2, embedding)
        self.first = nn.Linear(2 * self.signals * bins, dim)
        self.places = Conv1d(dim, dim, kernel_size, groups=dim, causal=causal)
        self.alibi = Alibi(heads, attention_frames, causal)
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim, heads, attention_frames, causal, embedding, feed_forward, dropout, skip=layer >= depth // 2
            )
            for layer in range(depth)
        )
        self.last_norm = RmsNorm(dim)
        self.last = nn.Linear(dim, 2 * bins)
        with torch.no_grad():
            self.last.weight.mul_(init_output_scale)
            self.last.bias.zero_()
            self.last.bias[:bins] = float(self.head.masks)

        self.frequency_in = self.frequency_affine(self.signals, bins, parts=2)
        self.frequency_out = self.frequency_affine(1, bins, parts=2, kind=self.head.output_kind)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return self.head.statistics(sensors, target, self.skip_channel)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        x = self.frequency_in(torch.cat([real, imag], dim=1))
        h = self._frames((x / frame_loudness(x) if self.normalize_frames else x).flatten(1, 2).mT)
        h = h.mT.unflatten(1, (2, -1))  # (B, 2, F, N)
        if self.normalize_frames and not self.head.masks:
            h = h * frame_loudness(self.parts_in_time(x))
        h = self.frequency_out(h)
        output = h[:, 0], h[:, 1]
        return self.head((real[:, self.skip_channel], imag[:, self.skip_channel]), output), self.head.provided(output)

    def _frames(self, x: Tensor) -> Tensor:
        """Map the vectors of frames ``(B, N, 2 signals F)`` to ``(B, N, 2 F)``."""
        embedding = self.time_embedding(self.time(x))
        x = self.first(x)
        x = x + F.gelu(self.places(x.mT)).mT
        biases = self.alibi(x)
        skips: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index < len(self.layers) // 2:
                skips.append(x)
                x = layer(x, embedding, biases)
            else:
                x = layer(x, embedding, biases, skips.pop())
        y: Tensor = self.last(self.last_norm(x))
        return y


def _divided(x: Tensor) -> Tensor:
    """Return the vectors of ``(..., channels)``, each divided by its root mean square."""
    return x * (x.square().mean(-1, keepdim=True) + _EPS).rsqrt()
