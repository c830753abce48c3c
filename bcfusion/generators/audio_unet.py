"""Audio U-Net, strided convolutions down and sub-pixel convolutions up, without and with TFiLM.

Kuleshov et al., "Audio Super-Resolution using Neural Nets", ICLR workshop 2017; Birnbaum et al., "Temporal FiLM:
Capturing Long-Range Sequence Dependencies with Feature-Wise Modulations", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, channels_last, concatenate
from bcfusion.nn.film import TFiLM
from bcfusion.nn.initial import whiten
from bcfusion.nn.network import WaveformNetwork, future_reach
from bcfusion.requirements import above, at_least, require

_SLOPE = 0.2  # of the encoder's LeakyReLU, for negative inputs


class SubPixelShuffle(nn.Module):
    """Sub-pixel shuffle (Shi et al. 2016) of time: ``(B, 2 C, T) -> (B, C, 2 T)``.

    Channel c holds the even samples, channel C + c the odd ones, so that nothing moves in the channels-last layout.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, (2, -1)).flatten(1, 2).transpose(1, 2)

    def last_input(self, sample: int) -> int:
        """Return the input frame that output ``sample`` comes from."""
        return sample // 2


class DownsamplingBlock(nn.Module):
    """Convolution of stride 2, dropout, LeakyReLU, TFiLM: ``(B, in_channels, T) -> (B, out_channels, T / 2)``.

    The paper's downsampling blocks have no dropout; its bottleneck, which is otherwise the same, has.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dropout: float, film: TFiLM | None):
        super().__init__()
        self.conv = Conv1d(in_channels, out_channels, kernel_size, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.film = film

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.dropout(self.conv(x)), _SLOPE)
        return h if self.film is None else self.film(h)


class UpsamplingBlock(nn.Module):
    """Convolution, dropout, ReLU, sub-pixel shuffle x 2, TFiLM: ``(B, in_channels, T) -> (B, out_channels, 2 T)``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dropout: float, film: TFiLM | None):
        super().__init__()
        self.conv = Conv1d(in_channels, 2 * out_channels, kernel_size)
        self.dropout = nn.Dropout(dropout)
        self.shuffle = SubPixelShuffle()
        self.film = film

    def forward(self, x: Tensor) -> Tensor:
        h = self.shuffle(F.relu(self.dropout(self.conv(x))))
        return h if self.film is None else self.film(h)


class AudioUNet(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    One downsampling block per entry of ``channels`` and one more as the bottleneck; as many upsampling blocks, each
    followed by the concatenation with the encoder's features of its level; a convolution to two channels, shuffled to
    one, which is added to one sensor. The network thus computes a correction of that sensor.

    Audio U-Net: the defaults, 70.977 M parameters (71.0 M in the table of the EBEN paper; the widths 128, 256, 512, 512
    of the paper's formula give 56.411 M). With TFiLM: ``channels=(128, 256, 512, 512), tfilm_block=256``, 68.234 M.

    Narrow-band input that was decimated has to be low-passed first, in the data and at inference alike: a network that
    is trained on aliasing expects it.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: features of the downsampling blocks, first to last; the bottleneck has as many as the last.
        kernel_sizes: of the same blocks, and of the upsampling blocks at the same levels; odd. That of the bottleneck
            is the last, that of the final convolution 9.
        dropout: probability, in the bottleneck and the upsampling blocks.
        tfilm_block: samples of the waveform in a block of the TFiLM layers, the same time at every level, a multiple of
            ``2 ** (len(channels) + 1)``; every block ends with such a layer. None: no TFiLM.
        tfilm_bidirectional: half of the TFiLM layers' units run from the end of the file (the paper's run forward).
        skip_channel: the sensor that the output starts from; -1 is the last (the air microphone, in fusion).
        speech_level: root mean square of speech (0.07: -23 dBFS), which the network should see at a level of one:
            inputs are divided by it, the correction is multiplied. The initial weights keep power from layer to layer
            and biases start at 0; torch's own initial biases exceed such speech after a few layers. The first layer
            starts whitened, see :func:`bcfusion.nn.initial.whiten`.
        init_output_scale: root mean square of the untrained network's correction, relative to ``speech_level``.

    Attributes:
        hop: samples, the product of the strides or the TFiLM block.
        delay: look-ahead in samples, exact at the frame phases where it is longest; None with ``tfilm_bidirectional``.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: Sequence[int] = (128, 384, 512, 512),
        kernel_sizes: Sequence[int] = (65, 33, 17, 9),
        dropout: float = 0.5,
        tfilm_block: int | None = None,
        tfilm_bidirectional: bool = False,
        skip_channel: int = -1,
        speech_level: float = 0.07,
        init_output_scale: float = 0.1,
    ) -> None:
        frame = 2 ** (len(channels) + 1)
        require(
            self,
            at_least(1, channels=channels),
            (
                len(kernel_sizes) == len(channels),
                f"kernel_sizes={list(kernel_sizes)} must be one per entry of channels",
            ),
            at_least(3, kernel_sizes=kernel_sizes),
            (all(size % 2 for size in kernel_sizes), f"kernel_sizes={list(kernel_sizes)} must be odd"),
            (0 <= dropout < 1, f"dropout={dropout} must be at least 0 and below 1"),
            (
                tfilm_block is None or (tfilm_block >= frame and tfilm_block % frame == 0),
                f"tfilm_block={tfilm_block} must be a multiple of {frame} samples, or null",
            ),
            (
                tfilm_block is not None or not tfilm_bidirectional,
                "tfilm_bidirectional=True without tfilm_block: there is no TFiLM layer",
            ),
            above(0, init_output_scale=init_output_scale, speech_level=speech_level),
        )
        super().__init__(sample_rate, in_channels, tfilm_block or frame, causal=False, skip_channel=skip_channel)

        def film(width: int, stride: int) -> TFiLM | None:
            return TFiLM(width, tfilm_block // stride, causal=not tfilm_bidirectional) if tfilm_block else None

        levels = list(enumerate(zip(channels, kernel_sizes, strict=True), start=1))
        inputs = [in_channels, *channels]
        self.encoder = nn.ModuleList(
            DownsamplingBlock(inputs[level - 1], width, size, 0.0, film(width, 2**level))
            for level, (width, size) in levels
        )
        deepest = channels[-1]
        self.bottleneck = DownsamplingBlock(deepest, deepest, kernel_sizes[-1], dropout, film(deepest, frame))
        below = [2 * width for width in channels[1:]] + [deepest]  # channels that enter each level from below
        self.decoder = nn.ModuleList(
            UpsamplingBlock(below[level - 1], width, size, dropout, film(width, 2**level))
            for level, (width, size) in reversed(levels)
        )
        self.last = Conv1d(2 * channels[0], 2, kernel_size=9)
        self.shuffle = SubPixelShuffle()
        self.speech_level = speech_level
        self._initialise(init_output_scale)
        if not tfilm_bidirectional:
            self.delay = future_reach(self.hop, self)

    def body(self, inputs: Tensor) -> Tensor:
        h = channels_last(inputs / self.speech_level)
        skips = []
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
        h = self.bottleneck(h)  # (B, channels[-1], T / 2^(levels + 1))
        for decode in self.decoder:
            h = concatenate(decode(h), skips.pop())
        correction: Tensor = self.shuffle(self.last(h)) * self.speech_level
        return correction + inputs[:, self.skip_channel].unsqueeze(1)

    @torch.no_grad()
    def _initialise(self, output_scale: float) -> None:
        for block in (*self.encoder, self.bottleneck, *self.decoder):
            assert isinstance(block, DownsamplingBlock | UpsamplingBlock)
            slope = _SLOPE if isinstance(block, DownsamplingBlock) else 0.0
            nn.init.kaiming_uniform_(block.conv.weight, a=slope)
        first = self.encoder[0]
        assert isinstance(first, DownsamplingBlock)
        whiten(first.conv)
        bound = (3.0 / (self.last.in_channels * self.last.kernel_size)) ** 0.5  # keeps the power of the input
        self.last.weight.uniform_(-bound, bound).mul_(output_scale)
        for layer in self.modules():
            if isinstance(layer, Conv1d):
                assert layer.bias is not None
                layer.bias.zero_()
