"""Wave-U-Net, a U-Net on the waveform.

Stoller et al., "Wave-U-Net: A Multi-Scale Neural Network for End-to-End Audio Source Separation", ISMIR 2018.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, channels_last, concatenate
from bcfusion.nn.initial import whiten
from bcfusion.nn.network import WaveformNetwork, future_reach
from bcfusion.requirements import above, at_least, require, within

_SLOPE = 0.2  # of every LeakyReLU, for negative inputs


class DownsamplingBlock(nn.Module):
    """``(B, in_channels, T)`` to the skip ``(B, channels, T)`` and to ``(B, 2 channels, T / stride)``.

    The paper convolves and then keeps every stride-th frame; the strided convolution computes only these.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.features = Conv1d(in_channels, channels, kernel_size)
        self.down = Conv1d(channels, 2 * channels, kernel_size, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower level's input, and the skip."""
        skip = _activate(self.features(x))
        return _activate(self.down(skip)), skip


class LinearInterpolation(nn.Module):
    """``(B, channels, T) -> (B, channels, T stride)``, linear between frames: no checkerboard artefacts."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        # in four dimensions, where torch keeps and vectorises the channels-last layout
        return F.interpolate(x.unsqueeze(2), scale_factor=(1.0, float(self.stride)), mode="bilinear").squeeze(2)

    def last_input(self, sample: int) -> int:
        """Return the last input frame that output ``sample`` depends on."""
        # sample n lies at (n + 1/2) / stride - 1/2 between frames, and depends on the one on either side
        return (2 * sample + 1 - self.stride) // (2 * self.stride) + 1


class UpsamplingBlock(nn.Module):
    """``(B, 2 channels, T / stride)`` and the skip ``(B, channels, T)`` to ``(B, channels, T)``."""

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.interpolate = LinearInterpolation(stride)
        self.up = Conv1d(2 * channels, channels, kernel_size)
        self.merge = Conv1d(2 * channels, channels, kernel_size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        h = _activate(self.up(self.interpolate(x)))
        return _activate(self.merge(concatenate(h, skip)))


class WaveUNet(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; input and output in [-1, 1].

    An encoder of ``levels`` widths, each twice the one above, with time divided by ``stride`` in between; a convolution
    at the lowest level; a decoder that interpolates linearly and concatenates the encoder's features. The sensors are
    concatenated once more before the last convolution, of one sample, whose weights thus mix them directly into the
    output (as in the paper, and the only linear path from input to output). LeakyReLU 0.2 follows all other
    convolutions.

    Compared with the paper, which has 12 levels of stride 2 that widen by 24 channels with kernels of 15 and 5 samples:
    the later and smaller 6 levels of stride 4 that double, kernel 5 throughout, two convolutions in every block, 17.465
    M parameters (17.5 M published). There is no tanh at the end, which would distort the input that is passed on.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: features of the first level, doubled by every further one (32 to 1024).
        levels: number of widths; time is divided ``levels - 1`` times, and ``stride ** (levels - 1)`` is ``hop``.
        stride: between levels, 2 to ``kernel_size``.
        kernel_size: of all convolutions but the last, in samples of their level.
        skip_channel: the sensor that the output starts from; -1 is the last (the air microphone, in fusion).
        speech_level: root mean square of speech (0.07: -23 dBFS), which the network should see at a level of one:
            inputs are divided by it, the output is multiplied. The initial weights keep power from layer to layer and
            biases start at 0; torch's own initial biases exceed such speech after a few layers. See also
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
        require(
            self,
            at_least(2, levels=levels),
            at_least(1, channels=channels),
            within(2, kernel_size, stride=stride),
            above(0, init_output_scale=init_output_scale, speech_level=speech_level),
        )
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
        self.delay = future_reach(self.hop, self)

    def body(self, inputs: Tensor) -> Tensor:
        sensors = inputs / self.speech_level
        h = channels_last(sensors)
        skips = []
        for encode in self.encoder:
            h, skip = encode(h)
            skips.append(skip)
        h = _activate(self.bottleneck(h))  # (B, channels 2^(levels - 1), T / hop)
        for decode in self.decoder:
            h = decode(h, skips.pop())
        output: Tensor = self.last(concatenate(h, sensors))
        return output * self.speech_level

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
