"""Conv-TasNet: a learned encoding of short segments, a temporal convolutional network on it, a learned decoder.

Luo & Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation", IEEE/ACM TASLP
27(8), 2019. Of its C sources there is one here: speech.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, ConvTranspose1d, set_weight
from bcfusion.nn.cpu import DepthwiseConv1d, PointwiseConv1d, PReLU
from bcfusion.nn.network import WaveformNetwork, future_reach
from bcfusion.nn.norm import CumulativeLayerNorm, FrameLayerNorm, GlobalLayerNorm
from bcfusion.requirements import above, at_least, one_of, require

NormName = Literal["gLN", "cLN", "BN", "channel_LN"]
MaskActivation = Literal["relu", "softmax", "sigmoid"]
EncoderActivation = Literal["linear", "relu"]
Head = Literal["mask", "mapping", "additive"]

_NORMS: dict[str, Callable[[int, bool], nn.Module]] = {
    "gLN": lambda channels, causal: GlobalLayerNorm(channels, causal=causal),
    "cLN": lambda channels, causal: CumulativeLayerNorm(channels),
    "BN": lambda channels, causal: nn.BatchNorm1d(channels),
    "channel_LN": lambda channels, causal: FrameLayerNorm(channels),
}


def _softmax(output: Tensor) -> Tensor:
    """Return the mask of speech, which competes with that of all the rest."""
    if torch.compiler.is_exporting():  # the same by one operator, which runtimes need not transpose for
        speech, rest = output.chunk(2, dim=1)
        return torch.sigmoid(speech - rest)
    return output.unflatten(1, (2, -1)).softmax(1)[:, 0]


_MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "softmax": _softmax,
    "sigmoid": torch.sigmoid,
}


class EncodingHead(nn.Module):
    """The estimate's encoding ``(B, N, F)`` from that of one sensor and from the separator's output.

    - ``mask``: their product, the mask computed by ``mask_activation``. With ``softmax`` the masks of speech and of all
      the rest sum to one, like those of the paper's sources: the separator outputs two maps, and the rest is not
      decoded.
    - ``mapping``: the separator's output itself.
    - ``additive``: the sum of the sensor's encoding and the separator's output.

    A mask on a learned encoding is not confined to the sensor's band, unlike one on a spectrogram. It weights filters
    of about a millisecond, each of them wide in frequency, independently in every frame; and the decoder's filters need
    not be the encoder's. Both put energy where the sensor has none. But no mask can produce speech in a frame in which
    the sensor is silent, and sigmoid or softmax make no coefficient larger than it was.

    Args:
        kind: one of the three.
        mask_activation: of ``mask``; the others have none.
        level: root mean square of an encoding of speech. ``mapping`` and ``additive`` scale the separator's output by
            it, so that the separator works at unit level and the steps of the optimiser are as small for them.

    Attributes:
        maps: number of maps, of N channels each, that the separator has to output.
        passes: approximate share of the sensor's encoding that the untrained head lets pass.

    Raises:
        ConfigError: another ``kind`` or ``mask_activation``.
    """

    def __init__(self, kind: Head, mask_activation: MaskActivation, level: float) -> None:
        require(self, one_of(get_args(Head), head=kind), one_of(_MASKS, mask_activation=mask_activation))
        super().__init__()
        self.kind, self.mask_activation, self.level = kind, mask_activation, level
        self.maps = 2 if kind == "mask" and mask_activation == "softmax" else 1
        self.passes = 0.5 if kind == "mask" else 1.0
        self.activate = _MASKS[mask_activation]

    def forward(self, encoding: Tensor, output: Tensor) -> Tensor:
        """Return ``(B, N, F)`` from ``encoding (B, N, F)`` of the sensor and ``output (B, maps N, F)``."""
        if self.kind == "mask":
            return encoding * self.activate(output)
        return self.level * output if self.kind == "mapping" else encoding + self.level * output

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.mask_activation}" if self.kind == "mask" else self.kind


class ConvBlock(nn.Module):
    """1x1 convolution, dilated depthwise convolution, 1x1 convolution: ``(B, channels, F) -> (B, outputs, F)``.

    PReLU and a normalisation follow each of the first two (section II.B, fig. 1 C).
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        outputs: int,
        kernel_size: int,
        dilation: int,
        causal: bool,
        norm: Callable[[int, bool], nn.Module],
    ) -> None:
        super().__init__()
        hidden = hidden_channels
        self.expand = PointwiseConv1d(channels, hidden, causal)
        self.expand_act = nn.Sequential(PReLU(), norm(hidden, causal))
        self.depthwise = DepthwiseConv1d(hidden, kernel_size, dilation, causal)
        self.depthwise_act = nn.Sequential(PReLU(), norm(hidden, causal))
        self.project = PointwiseConv1d(hidden, outputs, causal)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block adds to the next block's input, to the skip path, or to both, in this order."""
        h = self.depthwise(self.expand_act(self.expand(x)))
        y: Tensor = self.project(self.depthwise_act(h))
        return y


class ConvTasNet(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    An encoder without bias and, by default, without activation turns segments of each sensor, half overlapping, into
    coefficients of learned filters. The separator sees those of all sensors (early fusion): a normalisation, a 1x1
    convolution to the bottleneck, ``repeats`` times ``blocks`` residual blocks of dilation 1, 2, 4, ..., then PReLU and
    a 1x1 convolution to the filters. The head computes the estimate's encoding from this, and the decoder overlaps and
    adds its filters.

    Parameters with the defaults, for one sensor: 4,918,833. The paper's 5.1 M are for two speakers, which need one more
    map of the last convolution, 66,048, and include a residual convolution in the last block, 65,664, whose output is
    not used. Without the skip path there are 3,408,561.

    The decoder starts as the inverse of the encoder, so that with ``head=additive`` the untrained network returns its
    input and with a mask, by sigmoid or softmax of an encoding that is not rectified, a slightly disturbed version of
    it: training starts at the sensor's own quality, and aligned with it.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        filters: of the encoder, per sensor, and of the decoder (N).
        filter_length: in samples, even; segments start every half of it (L).
        bottleneck_channels: between the blocks, and of the skip path (B, and Sc with the same value).
        hidden_channels: of the depthwise convolutions (H).
        kernel_size: of these, in frames (P).
        blocks: in each repeat, with doubling dilation (X).
        repeats: of the sequence of blocks (R).
        norm: ``gLN`` over the whole file, which cannot be causal; ``cLN`` over the past; ``BN``, batch normalisation,
            causal at inference only, when it measures nothing; ``channel_LN``, over the channels of each frame
            separately.
        skip_path: the input of the last convolutions is the sum of the blocks' skip outputs; without, the last block's
            output.
        head: how the separator's output becomes the estimate, see :class:`EncodingHead`.
        mask_activation: of ``head="mask"``; the paper's best is ``sigmoid``.
        encoder_activation: ``linear``, or ``relu``: the optional nonlinear function of the paper's encoder (eq. 2),
            after which no coefficient is negative.
        edge_segments: use segments that reach beyond the ends of the file too, so that the first and last samples lie
            in as many segments as all others. False: only those within the file, as in published checkpoints, whose
            first and last half segment are less reliable; not causal. A file shorter than a segment keeps them.
        causal: no look-ahead past the segment; the network streams.
        skip_channel: the sensor whose encoding is masked or added to; -1 is the last (the air microphone, in fusion).
        speech_level: root mean square of the speech that the initial weights are scaled for (0.07: -23 dBFS).
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops, of the causal network only; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        hop: samples; half of ``filter_length``.
        delay: algorithmic latency in samples: ``filter_length - 1`` and additional look-ahead if causal; otherwise plus
            the reach of the convolutions; None with gLN.

    Raises:
        ConfigError: sizes or names that do not fit, gLN or ``edge_segments=False`` with ``causal=True``.
    """

    least_frame = 32e-3  # segments of a millisecond, one by one, are slower than real time

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        filters: int = 512,
        filter_length: int = 16,
        bottleneck_channels: int = 128,
        hidden_channels: int = 512,
        kernel_size: int = 3,
        blocks: int = 8,
        repeats: int = 3,
        norm: NormName = "gLN",
        skip_path: bool = True,
        head: Head = "mask",
        mask_activation: MaskActivation = "sigmoid",
        encoder_activation: EncoderActivation = "linear",
        edge_segments: bool = True,
        causal: bool = False,
        skip_channel: int = -1,
        speech_level: float = 0.07,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self,
            at_least(2, filter_length=filter_length),
            (filter_length % 2 == 0, f"filter_length={filter_length} must be even"),
            at_least(1, filters=filters, blocks=blocks, repeats=repeats),
            one_of(_NORMS, norm=norm),
            one_of(get_args(EncoderActivation), encoder_activation=encoder_activation),
            (edge_segments or not causal, "edge_segments=False is impossible with causal=True: streams start anywhere"),
            above(0, speech_level=speech_level),
        )
        hop = filter_length // 2
        # a segment ends with its frame, and its output starts there: late by the overlap
        super().__init__(
            sample_rate,
            in_channels,
            hop,
            causal,
            lookahead=filter_length - hop,
            skip_channel=skip_channel,
            lookahead_ms=lookahead_ms,
        )
        make_norm = _NORMS[norm]
        features = self.signals * filters
        self.filters, self.skip_path, self.edge_segments = filters, skip_path, edge_segments
        self.activate = torch.relu if encoder_activation == "relu" else nn.Identity()
        self.head = EncodingHead(head, mask_activation, speech_level * min(1.0, filter_length / filters) ** 0.5)
        self.keeps_noise = head == "mask"
        # causal even in a network that is not: looking ahead of a segment is left to the separator
        self.encoder = Conv1d(self.signals, features, filter_length, hop, groups=self.signals, bias=False, causal=True)
        self.bottleneck = nn.Sequential(
            make_norm(features, causal), PointwiseConv1d(features, bottleneck_channels, causal)
        )
        self.blocks = nn.ModuleList()
        for index in range(repeats * blocks):
            # with a skip path nothing uses the residual path after the last block
            both = skip_path and index < repeats * blocks - 1
            outputs = bottleneck_channels * (2 if both else 1)
            dilation = 2 ** (index % blocks)
            self.blocks.append(
                ConvBlock(bottleneck_channels, hidden_channels, outputs, kernel_size, dilation, causal, make_norm)
            )
        self.output = nn.Sequential(PReLU(), PointwiseConv1d(bottleneck_channels, self.head.maps * filters, causal))
        self.decoder = ConvTranspose1d(filters, 1, filter_length, hop, bias=False, causal=True)
        self._initialise()
        if not causal:
            future = future_reach(1, self.blocks)  # frames
            self.delay = None if norm == "gLN" else self.lookahead + hop - 1 + future * hop

    def body(self, inputs: Tensor) -> Tensor:
        """Map ``(B, in_channels, T)``, T a multiple of ``hop``, to ``(B, 1, T)``, late by half a segment."""
        encoding = self.activate(self.encoder(inputs))  # (B, signals N, F)
        outside = 0 if self.edge_segments or encoding.shape[-1] < 3 else 1  # segments at either end
        encoding = encoding[..., outside : encoding.shape[-1] - outside]
        sensor = encoding.unflatten(1, (self.signals, self.filters))[:, self.skip_channel]
        restored = self.head(sensor, self.separate(encoding))
        estimate: Tensor = self.decoder(F.pad(restored, (outside, outside)))
        return estimate

    def separate(self, encoding: Tensor) -> Tensor:
        """Apply the temporal convolutional network: ``(B, signals N, F)`` to ``(B, maps N, F)``."""
        x: Tensor = self.bottleneck(encoding)
        if not self.skip_path:
            for block in self.blocks:
                x = x + block(x)
            return self.output(x)
        total = torch.zeros_like(x)
        for block in self.blocks[:-1]:
            residual, skip = block(x).chunk(2, dim=1)
            x, total = x + residual, total + skip
        return self.output(total + self.blocks[-1](x))

    def _initialise(self) -> None:
        """Give encoders orthonormal columns; the decoder inverts that of the head's sensor, its overlap and mask."""
        by_sensor = self.encoder.weight.detach().unflatten(0, (self.signals, self.filters)).clone()
        for weight in by_sensor:
            nn.init.orthogonal_(weight[:, 0])
        set_weight(self.encoder, by_sensor.flatten(0, 1))
        set_weight(self.decoder, by_sensor[self.skip_channel] / (2 * self.head.passes))
