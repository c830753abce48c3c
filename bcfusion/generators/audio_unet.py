"""Audio U-Net, strided convolutions down and sub-pixel convolutions up, without and with TFiLM.

Kuleshov et al., "Audio Super-Resolution using Neural Nets", ICLR workshop 2017; Birnbaum et al., "Temporal FiLM:
Capturing Long-Range Sequence Dependencies with Feature-Wise Modulations", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Conv1d, channels_last
from bcfusion.nn.film import TFiLM
from bcfusion.nn.initial import whiten
from bcfusion.nn.network import WaveformNetwork

_SLOPE = 0.2  # of the encoder's LeakyReLU, where its input is negative


class DownsamplingBlock(nn.Module):
    """Convolution of stride 2, dropout, LeakyReLU, TFiLM: ``(B, in_channels, T) -> (B, out_channels, T / 2)``.

    The paper's downsampling blocks have no dropout; its bottleneck, which is the same otherwise, has.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dropout: float, film: TFiLM | None):
        super().__init__()
        self.conv = Conv1d(in_channels, out_channels, kernel_size, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.film = film

    def forward(self, x: Tensor) -> Tensor:
        """Halves the frames."""
        h = F.leaky_relu(self.dropout(self.conv(x)), _SLOPE)
        return h if self.film is None else self.film(h)

    def last_input(self, frame: int) -> int:
        """The last input frame that output ``frame`` depends on."""
        frame = frame if self.film is None else self.film.last_input(frame)
        return self.conv.input_span(frame, frame)[1]


class UpsamplingBlock(nn.Module):
    """Convolution, dropout, ReLU, sub-pixel shuffle x 2, TFiLM: ``(B, in_channels, T) -> (B, out_channels, 2 T)``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dropout: float, film: TFiLM | None):
        super().__init__()
        self.conv = Conv1d(in_channels, 2 * out_channels, kernel_size)
        self.dropout = nn.Dropout(dropout)
        self.film = film

    def forward(self, x: Tensor) -> Tensor:
        """Doubles the frames."""
        h = shuffle(F.relu(self.dropout(self.conv(x))))
        return h if self.film is None else self.film(h)

    def last_input(self, frame: int) -> int:
        """The last input frame that output ``frame`` depends on."""
        frame = (frame if self.film is None else self.film.last_input(frame)) // 2
        return self.conv.input_span(frame, frame)[1]


class AudioUNet(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    A downsampling block for each of ``channels`` and one more as the bottleneck; as many upsampling blocks, each
    followed by the concatenation of the encoder's features of its level; a convolution to two channels, shuffled to
    one, which is added to one sensor. So the network computes a correction of that sensor.

    Audio U-Net: the defaults, 70.977 M parameters (71.0 M in the table of the EBEN paper; the widths 128, 256, 512, 512
    of the paper's formula make 56.411 M). With TFiLM: ``channels=(128, 256, 512, 512), tfilm_block=256``, 68.234 M.

    Narrow-band input that was decimated has to be low-passed first, in the data and at inference alike: a network that
    is trained on aliasing expects it.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: features of the downsampling blocks, first to last; the bottleneck has as many as the last.
        kernel_sizes: of the same blocks, and of the upsampling blocks at the same levels; odd. The bottleneck's is the
            last, the final convolution's is 9.
        dropout: probability, in the bottleneck and the upsampling blocks.
        tfilm_block: samples of the waveform in a block of the TFiLM layers, the same time at every level, a multiple of
            ``2 ** (len(channels) + 1)``; one such layer stands at the end of every block. None: no TFiLM.
        tfilm_bidirectional: half of the TFiLM layers' units run from the end of the file (the paper's run forward).
        skip_channel: the sensor that the output starts from; -1 is the last (the air microphone, in fusion).
        speech_level: root mean square of speech (0.07: -23 dBFS), which the network is to see at a level of one: inputs
            are divided by it, the correction is multiplied. The initial weights keep power from layer to layer and
            biases start at 0; at torch's own start they drown such speech after a few layers. The first layer starts
            whitened, see :func:`bcfusion.nn.initial.whiten`.
        init_output_scale: root mean square of the untrained network's correction, relative to ``speech_level``.

    Attributes:
        hop: samples, the product of strides or the TFiLM block.
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
        problems = []
        if not channels or min(channels) < 1 or len(kernel_sizes) != len(channels):
            problems.append(
                f"AudioUNet: channels={list(channels)} must be one or more numbers of at least 1, with as many "
                f"kernel_sizes={list(kernel_sizes)}"
            )
        if any(size < 3 or size % 2 == 0 for size in kernel_sizes):
            problems.append(f"AudioUNet: kernel_sizes={list(kernel_sizes)} must be odd and at least 3")
        if not 0 <= dropout < 1:
            problems.append(f"AudioUNet: dropout={dropout} must be at least 0 and below 1")
        if tfilm_block is not None and (tfilm_block < frame or tfilm_block % frame):
            problems.append(f"AudioUNet: tfilm_block={tfilm_block} must be a multiple of {frame} samples, or null")
        if tfilm_bidirectional and tfilm_block is None:
            problems.append("AudioUNet: tfilm_bidirectional=True without tfilm_block: there is no TFiLM layer")
        if init_output_scale <= 0 or speech_level <= 0:
            problems.append(
                f"AudioUNet: init_output_scale={init_output_scale} and speech_level={speech_level} must be above 0"
            )
        if problems:
            raise ConfigError(problems)
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
        below = [2 * width for width in channels[1:]] + [deepest]  # channels that come up into each level, with skips
        self.decoder = nn.ModuleList(
            UpsamplingBlock(below[level - 1], width, size, dropout, film(width, 2**level))
            for level, (width, size) in reversed(levels)
        )
        self.last = Conv1d(2 * channels[0], 2, kernel_size=9)
        self.speech_level = speech_level
        self._initialise(init_output_scale)
        if not tfilm_bidirectional:
            self.delay = max(self.last_input(sample) - sample for sample in range(self.hop))  # it repeats every hop

    def body(self, inputs: Tensor) -> Tensor:
        """``(B, in_channels, T)``, T a multiple of ``hop``, to ``(B, 1, T)``."""
        h = channels_last(inputs / self.speech_level)
        skips = []
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
        h = self.bottleneck(h)  # (B, channels[-1], T / 2^(levels + 1))
        for decode in self.decoder:
            # torch.cat keeps the channels-last layout when these are the last dimension, and in no other three
            parts = [decode(h).transpose(1, 2), skips.pop().transpose(1, 2)]
            h = torch.cat(parts, dim=-1).transpose(1, 2)
        correction = shuffle(self.last(h)) * self.speech_level
        return correction + inputs[:, self.skip_channel].unsqueeze(1)

    def last_input(self, sample: int) -> int:
        """The last input sample that output ``sample`` depends on; TFiLM runs forward."""
        frame = self.last.input_span(sample // 2, sample // 2)[1]
        lasts = [frame]  # of what comes up and of the skip at each level, the highest first
        for decode in reversed(self.decoder):
            assert isinstance(decode, UpsamplingBlock)
            lasts.append(decode.last_input(lasts[-1]))
        last = self.bottleneck.last_input(lasts.pop())
        for encode in reversed(self.encoder):
            assert isinstance(encode, DownsamplingBlock)
            last = encode.last_input(max(last, lasts.pop()))
        return last

    @torch.no_grad()
    def _initialise(self, output_scale: float) -> None:
        for block in (*self.encoder, self.bottleneck, *self.decoder):
            assert isinstance(block, DownsamplingBlock | UpsamplingBlock)
            slope = _SLOPE if isinstance(block, DownsamplingBlock) else 0.0
            nn.init.kaiming_uniform_(block.conv.weight, a=slope)
        first = self.encoder[0]
        assert isinstance(first, DownsamplingBlock)
        whiten(first.conv)
        bound = (3.0 / (self.last.in_channels * self.last.kernel_size)) ** 0.5  # keeps the power of what comes in
        self.last.weight.uniform_(-bound, bound).mul_(output_scale)
        for layer in self.modules():
            if isinstance(layer, Conv1d):
                assert layer.bias is not None
                layer.bias.zero_()


def shuffle(x: Tensor) -> Tensor:
    """Sub-pixel shuffle (Shi et al. 2016) of time: ``(B, 2 C, T) -> (B, C, 2 T)``.

    Channel c gives the even samples, channel C + c the odd ones, so that in the channels-last layout nothing moves.
    """
    return x.transpose(1, 2).unflatten(2, (2, -1)).flatten(1, 2).transpose(1, 2)
