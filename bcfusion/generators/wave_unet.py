"""Wave-U-Net, a U-Net on the waveform.

Stoller et al., "Wave-U-Net: A Multi-Scale Neural Network for End-to-End Audio Source Separation", ISMIR 2018.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Conv1d, channels_last
from bcfusion.nn.initial import whiten
from bcfusion.nn.network import WaveformNetwork

_SLOPE = 0.2  # of every LeakyReLU, where its input is negative


class DownsamplingBlock(nn.Module):
    """``(B, in_channels, T)`` to the skip ``(B, channels, T)`` and to ``(B, 2 channels, T / stride)``.

    The paper convolves and then keeps every stride-th frame; the strided convolution computes only these.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.features = Conv1d(in_channels, channels, kernel_size)
        self.down = Conv1d(channels, 2 * channels, kernel_size, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The lower level's input, and the skip."""
        skip = _activate(self.features(x))
        return _activate(self.down(skip)), skip


class UpsamplingBlock(nn.Module):
    """``(B, 2 channels, T / stride)`` and the skip ``(B, channels, T)`` to ``(B, channels, T)``."""

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.up = Conv1d(2 * channels, channels, kernel_size)
        self.merge = Conv1d(2 * channels, channels, kernel_size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Interpolates between frames in a straight line, then convolves: no checkerboard artefacts."""
        # in four dimensions, where torch keeps and vectorises the channels-last layout
        x = F.interpolate(x.unsqueeze(2), scale_factor=(1.0, float(self.stride)), mode="bilinear").squeeze(2)
        h = _activate(self.up(x))
        return _activate(self.merge(_concatenate(h, skip)))

    def last_inputs(self, sample: int) -> tuple[int, int]:
        """The last frame of the lower level and the last sample of the skip that output ``sample`` depends on."""
        merged = self.merge.input_span(sample, sample)[1]
        interpolated = self.up.input_span(merged, merged)[1]
        # sample n lies at (n + 1/2) / stride - 1/2 between frames, and hears the one on either side
        return (2 * interpolated + 1 - self.stride) // (2 * self.stride) + 1, merged


class WaveUNet(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    An encoder of ``levels`` widths, each twice the one above, whose time is divided by ``stride`` in between; a
    convolution at the lowest level; a decoder that interpolates linearly and concatenates the encoder's features. The
    sensors are concatenated once more before the last convolution, of one sample, whose weights so mix them directly
    into the output (the paper's, and the only way from input to output that is linear). LeakyReLU 0.2 stands behind all
    other convolutions.

    Against the paper, for its 12 levels of stride 2 that widen by 24 channels with kernels of 15 and 5 samples: the
    later and smaller 6 levels of stride 4 that double, kernel 5 throughout, two convolutions in every block, 17.465 M
    parameters (17.5 M published). There is no tanh at the end, which would bend the input that is passed on.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: features of the first level, doubled by every further one (32 to 1024).
        levels: number of widths; time is divided ``levels - 1`` times, and ``stride ** (levels - 1)`` is ``hop``.
        stride: between levels, 2 to ``kernel_size``.
        kernel_size: of all convolutions but the last, in samples of their level.
        skip_channel: the sensor that the output starts from; -1 is the last (the air microphone, in fusion).
        speech_level: root mean square of speech (0.07: -23 dBFS), which the network is to see at a level of one: inputs
            are divided by it, the output is multiplied. The initial weights keep power from layer to layer and biases
            start at 0; at torch's own start they drown such speech after a few layers. See also
            :func:`bcfusion.nn.initial.whiten`.
        init_output_scale: root mean square of the untrained network's correction of ``skip_channel``, relative to
            ``speech_level``.

    Attributes:
        delay: look-ahead in samples, exact at the frame phases where it is longest.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 32,
        levels: int = 6,
        stride: int = 4,
        kernel_size: int = 5,
        skip_channel: int = -1,
        speech_level: float = 0.07,
        init_output_scale: float = 0.3,
    ) -> None:
        problems = []
        if levels < 2 or channels < 1:
            problems.append(f"WaveUNet: levels={levels} must be at least 2, and channels={channels} at least 1")
        if not 2 <= stride <= kernel_size:
            problems.append(f"WaveUNet: stride={stride} must be 2 to the kernel_size, {kernel_size}")
        if init_output_scale <= 0 or speech_level <= 0:
            problems.append(
                f"WaveUNet: init_output_scale={init_output_scale} and speech_level={speech_level} must be above 0"
            )
        if problems:
            raise ConfigError(problems)
        super().__init__(sample_rate, in_channels, stride ** (levels - 1), causal=False, skip_channel=skip_channel)
        widths = [channels * 2**level for level in range(levels)]
        inputs = [in_channels, *widths[1:]]
        self.encoder = nn.ModuleList(
            DownsamplingBlock(inputs[level], widths[level], kernel_size, stride) for level in range(levels - 1)
        )
        self.bottleneck = Conv1d(widths[-1], widths[-1], kernel_size)
        self.decoder = nn.ModuleList(UpsamplingBlock(width, kernel_size, stride) for width in reversed(widths[:-1]))
        self.last = Conv1d(channels + in_channels, 1, kernel_size=1)
        self.speech_level = speech_level
        self._initialise(init_output_scale)
        self.delay = max(self.last_input(sample) - sample for sample in range(self.hop))  # it repeats every hop

    def body(self, inputs: Tensor) -> Tensor:
        """``(B, in_channels, T)``, T a multiple of ``hop``, to ``(B, 1, T)``."""
        sensors = inputs / self.speech_level
        h = channels_last(sensors)
        skips = []
        for encode in self.encoder:
            h, skip = encode(h)
            skips.append(skip)
        h = _activate(self.bottleneck(h))  # (B, channels 2^(levels - 1), T / hop)
        for decode in self.decoder:
            h = decode(h, skips.pop())
        output: Tensor = self.last(_concatenate(h, sensors))
        return output * self.speech_level

    def last_input(self, sample: int) -> int:
        """The last input sample that output ``sample`` depends on."""
        lasts = []  # of the skip at each level, the highest first
        for decode in reversed(self.decoder):
            assert isinstance(decode, UpsamplingBlock)
            sample, skip = decode.last_inputs(sample)
            lasts.append(skip)
        last = self.bottleneck.input_span(sample, sample)[1]
        for encode in reversed(self.encoder):
            assert isinstance(encode, DownsamplingBlock)
            last = max(encode.down.input_span(last, last)[1], lasts.pop())
            last = encode.features.input_span(last, last)[1]
        return last

    @torch.no_grad()
    def _initialise(self, output_scale: float) -> None:
        for layer in self.modules():
            if isinstance(layer, Conv1d):
                nn.init.kaiming_uniform_(layer.weight, a=_SLOPE)
                assert layer.bias is not None
                layer.bias.zero_()
        first = self.encoder[0]
        assert isinstance(first, DownsamplingBlock)
        whiten(first.features)
        features, direct = self.last.weight.split([self.last.in_channels - self.in_channels, self.in_channels], dim=1)
        bound = (3.0 / features.shape[1]) ** 0.5  # of uniform weights that keep the power of features of unit power
        features.uniform_(-bound, bound).mul_(output_scale)
        direct.zero_()
        direct[:, self.skip_channel] = 1.0


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)


def _concatenate(*parts: Tensor) -> Tensor:
    """Channels of all parts, in the channels-last layout, which torch.cat keeps in no three dimensions."""
    return torch.cat([part.transpose(1, 2) for part in parts], dim=-1).transpose(1, 2)
