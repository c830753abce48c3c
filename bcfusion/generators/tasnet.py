"""TasNet: a gated encoding of short segments, a mask by LSTMs, a learned decoder.

Luo & Mesgarani, "TasNet: Time-Domain Audio Separation Network for Real-Time, Single-Channel Speech Separation", ICASSP
2018. Of its sources there is one here: speech.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcfusion.generators.conv_tasnet import EncodingHead, Head, MaskActivation
from bcfusion.nn.conv import Conv1d, ConvTranspose1d, set_weight
from bcfusion.nn.delay import Delay
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.norm import FrameLayerNorm
from bcfusion.nn.recurrent import LSTM
from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import at_least, require


class SegmentNorm(StreamingModule):
    """The L2 norm of each segment over its samples and all sensors: ``(B, S, T) -> (B, 1, T / hop)``.

    One norm for all sensors keeps their ratio. Causal; a segment ends with its frame.

    Args:
        hop: samples from one segment to the next.
        overlap: whether a segment spans two hops, or one.
        eps: energy below which a segment counts as silence: at 1e-8, 80 samples at -99 dBFS.
    """

    def __init__(self, hop: int, overlap: bool, eps: float = 1e-8) -> None:
        super().__init__()
        self.hop, self.eps = hop, eps
        self.before = Delay(1) if overlap else None

    def forward(self, x: Tensor) -> Tensor:
        energy = x.square().sum(1, keepdim=True).unflatten(-1, (-1, self.hop)).sum(-1)
        if self.before is not None:
            energy = energy + self.before(energy)
        return (energy + self.eps).sqrt()


class TasNet(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    Segments are scaled to unit L2 norm, by which the output is multiplied in the end: the input of the network does not
    depend on the level, and its output scales with the input. In pauses the noise is as loud as speech to the network.
    Each segment is encoded as ReLU(x U) sigmoid(x V) (eq. 3), normalised over its coefficients (eq. 4 to 6) and
    processed by LSTM layers, all sensors together (early fusion). Every layer after the first adds its input to its
    output: our reading of the paper's identity skip connections from the second layer on. A linear layer and the head
    compute the estimate's encoding, and the decoder's filters are added up where segments overlap.

    Parameters for one sensor: 23,154,000 (both ways, 500 cells per direction: the defaults), 31,154,000 (causal, 1000
    cells). At 16 kHz segments of 80 samples are the paper's 5 ms; with its 40, at 8 kHz, there are 60,000 fewer.

    The decoder starts as the inverse of the encoder: but for ``head=mapping`` the untrained network returns
    approximately its input.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        filters: of the encoder, per sensor, and of the decoder (N).
        filter_length: of a segment, in samples (L).
        overlap: segments start every half of ``filter_length``, which is then even; otherwise they follow each other.
        hidden_size: cells of each LSTM layer, in each direction.
        num_layers: LSTM layers.
        head: how the separator's output becomes the estimate, see
            :class:`bcfusion.generators.conv_tasnet.EncodingHead`.
        mask_activation: of ``head="mask"``; the paper's is ``softmax``, here over speech and the rest.
        causal: LSTMs run forward only, and the network streams; otherwise both ways, and it depends on the whole file.
        skip_channel: the sensor whose encoding is masked or added to; -1 is the last (the air microphone, in fusion).
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops, of the causal network only; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        hop: samples from one segment to the next.
        delay: algorithmic latency in samples: ``filter_length - 1`` and additional look-ahead if causal, otherwise
            None.

    Raises:
        ConfigError: sizes or names that do not fit.
    """

    least_frame = 40e-3  # segments of a frame share the weights that are read from memory, which is what takes long

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        filters: int = 500,
        filter_length: int = 80,
        overlap: bool = False,
        hidden_size: int = 500,
        num_layers: int = 4,
        head: Head = "mask",
        mask_activation: MaskActivation = "softmax",
        causal: bool = False,
        skip_channel: int = -1,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self,
            at_least(1, filter_length=filter_length, filters=filters, num_layers=num_layers),
            (not overlap or filter_length % 2 == 0, f"filter_length={filter_length} must be even with overlap=True"),
        )
        hop = filter_length // 2 if overlap else filter_length
        super().__init__(
            sample_rate,
            in_channels,
            hop,
            causal,
            lookahead=filter_length - hop,
            skip_channel=skip_channel,
            lookahead_ms=lookahead_ms,
        )
        features = self.signals * filters
        self.filters = filters
        # half of the filters are positive at a time, and the gate is half open
        level = 0.5 * (0.5 * min(2 / filters, 1 / filter_length)) ** 0.5
        self.head = EncodingHead(head, mask_activation, level)
        self.keeps_noise = head == "mask"
        self.segment_norm = SegmentNorm(hop, overlap)

        def encoder() -> Conv1d:
            return Conv1d(self.signals, features, filter_length, hop, groups=self.signals, bias=False, causal=True)

        self.basis, self.gate = encoder(), encoder()
        self.norm = FrameLayerNorm(features)
        width = hidden_size * (1 if causal else 2)
        self.lstms = nn.ModuleList(
            LSTM(width if index else features, hidden_size, bidirectional=not causal, causal=causal)
            for index in range(num_layers)
        )
        self.output = nn.Linear(width, self.head.maps * filters)
        self.decoder = ConvTranspose1d(filters, 1, filter_length, hop, bias=False, causal=True)
        self._initialise()

    def body(self, inputs: Tensor) -> Tensor:
        """Map ``(B, in_channels, T)``, T a multiple of ``hop``, to ``(B, 1, T)``, late by the overlap of segments."""
        size = self.segment_norm(inputs)  # (B, 1, F)
        # without biases, dividing the coefficients divides the segments
        encoding = torch.relu(self.basis(inputs) / size) * torch.sigmoid(self.gate(inputs) / size)
        sensor = encoding.unflatten(1, (self.signals, self.filters))[:, self.skip_channel]
        estimate: Tensor = self.decoder(size * self.head(sensor, self.separate(encoding)))
        return estimate

    def separate(self, encoding: Tensor) -> Tensor:
        """Apply the recurrent network: ``(B, signals N, F)`` to ``(B, maps N, F)``."""
        x = self.norm(encoding).transpose(1, 2)
        for index, lstm in enumerate(self.lstms):
            x = x + lstm(x) if index else lstm(x)
        y: Tensor = self.output(x)
        return y.transpose(1, 2)

    def _initialise(self) -> None:
        """Give filters in pairs of opposite sign, one of which is active; the decoder inverts them, gate and mask."""
        by_sensor = self.basis.weight.detach().unflatten(0, (self.signals, self.filters)).clone()
        half = -(-self.filters // 2)
        for weight in by_sensor:
            positive = nn.init.orthogonal_(weight.new_empty(half, weight.shape[-1]))
            weight[:, 0] = torch.cat([positive, -positive])[: self.filters]
        set_weight(self.basis, by_sensor.flatten(0, 1))
        segments = self.decoder.kernel_size // self.hop  # that add up at each sample
        set_weight(self.decoder, by_sensor[self.skip_channel] / (0.5 * self.head.passes * segments))
