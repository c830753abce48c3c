"""HiFi-GAN+, a feed-forward WaveNet from waveform to waveform for bandwidth extension.

Su et al., "Bandwidth Extension is All You Need", ICASSP 2021. It shares only its name with the vocoder HiFi-GAN
(:mod:`bcfusion.generators.hifigan`).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, channels_last, set_weight
from bcfusion.nn.network import WaveformNetwork
from bcfusion.requirements import above, at_least, require

GATED_LEVEL = 0.34  # root mean square of tanh(a) sigmoid(b), a and b standard normal


class GatedLayer(nn.Module):
    """A dilated convolution, split into tanh(a) sigmoid(b), followed by one convolution for each of two outputs.

    ``(B, channels, T)`` to the next layer's input, ``sqrt(1/2) (x + residual(h))``, and to its part of the output. The
    last layer has no next one, and no convolution for it.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int, is_last: bool) -> None:
        super().__init__()
        self.dilated = Conv1d(channels, channels, kernel_size, dilation=dilation)
        self.residual = None if is_last else Conv1d(channels // 2, channels, 1)
        self.skip = Conv1d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next layer's input and the part of the output, both in the shape of the input."""
        signal, gate = self.dilated(x).chunk(2, dim=1)
        h = torch.tanh(signal) * torch.sigmoid(gate)
        # 1 / sqrt(2): the sum of two signals keeps their variance, however many layers there are
        return x if self.residual is None else 0.5**0.5 * (x + self.residual(h)), self.skip(h)


class HifiGanPlus(WaveformNetwork):
    """Waveform to waveform, ``(B, in_channels, T) -> (B, 1, T)`` for any T; speech in [-1, 1]. Not causal.

    ``stacks x layers`` gated layers; layer i of a stack has the dilation ``dilation_base ** i``. The sum of all layers'
    outputs, divided by the root of their number, goes through one linear map and tanh.

    The defaults, with 1.047 M parameters, look 410 ms ahead at 16 kHz. The published 1.055 M include 8,320 more: a
    residual convolution in the last layer, whose output is not used.

    The paper resamples narrow-band speech to ``sample_rate`` by a windowed sinc first. Here inputs already arrive at
    that rate: :mod:`bcfusion.audio` has resampled them, by a Kaiser window of the same shape and four times the width.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: of the layers, even; half of them are the gates.
        stacks: how often the dilations start from 1.
        layers: in a stack.
        kernel_size: of the dilated convolutions, odd.
        dilation_base: from one layer of a stack to the next; 3 is the largest without gaps for a kernel of 3.
        input_skip: add the input to the output, so that the network computes a correction. The paper has no such path,
            and tanh is not linear: there the network has to learn to pass on its input.
        pad_file: put ``delay`` zeros before and after the file, as published code does, so that the layers see silence
            there and not, each for itself, zeros. It costs as much time as that many samples of speech.
        skip_channel: the sensor that is added; -1 is the last (the air microphone, in fusion).
        speech_level: root mean square of the speech that the initial weights are scaled for (0.07: -23 dBFS): variance
            is kept from layer to layer, and the first and last convolution scale from this level to one and back.
        init_output_scale: further factor on the initial weight of the last convolution.

    Attributes:
        hop: 1 sample.
        delay: the future half of the receptive field of ``2 delay + 1`` samples.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 128,
        stacks: int = 2,
        layers: int = 8,
        kernel_size: int = 3,
        dilation_base: int = 3,
        input_skip: bool = True,
        pad_file: bool = False,
        skip_channel: int = -1,
        speech_level: float = 0.07,
        init_output_scale: float = 0.3,
    ) -> None:
        require(
            self,
            at_least(2, channels=channels),
            (channels % 2 == 0, f"channels={channels} must be even, half of them are the gates"),
            at_least(1, stacks=stacks, layers=layers, dilation_base=dilation_base, kernel_size=kernel_size),
            (kernel_size % 2 == 1, f"kernel_size={kernel_size} must be odd: the kernels are centred"),
            above(0, speech_level=speech_level, init_output_scale=init_output_scale),
        )
        dilations = [dilation_base**layer for layer in range(layers)] * stacks
        reach = (kernel_size - 1) // 2 * sum(dilations)
        super().__init__(sample_rate, in_channels, hop=1, causal=False, delay=reach, skip_channel=skip_channel)
        self.input_skip = input_skip
        self.edge = reach if pad_file else 0
        self.first = Conv1d(in_channels, channels, 1)
        self.layers = nn.ModuleList(
            GatedLayer(channels, kernel_size, dilation, is_last=n == len(dilations) - 1)
            for n, dilation in enumerate(dilations)
        )
        self.last = Conv1d(channels, 1, 1)
        self._initialise(speech_level, init_output_scale)

    def body(self, inputs: Tensor) -> Tensor:
        h = channels_last(self.first(F.pad(inputs, (self.edge, self.edge))))  # (B, channels, T + 2 edge)
        total = torch.zeros_like(h)
        for layer in self.layers:
            h, part = layer(h)
            total = total + part
        output = torch.tanh(self.last(total * len(self.layers) ** -0.5))
        output = output[..., self.edge : output.shape[-1] - self.edge]
        return output + inputs[:, self.skip_channel].unsqueeze(1) if self.input_skip else output

    def _initialise(self, speech_level: float, output_scale: float) -> None:
        keep = 3.0**0.5  # of uniform weights within 1 / sqrt(fan in), for outputs of the inputs' variance
        gains = {self.first: keep / speech_level, self.last: keep * speech_level * output_scale}
        for module in self.layers:
            layer = cast("GatedLayer", module)
            gains[layer.dilated] = keep
            gains[layer.skip] = keep / GATED_LEVEL
            if layer.residual is not None:
                gains[layer.residual] = keep / GATED_LEVEL
        with torch.no_grad():
            for convolution, gain in gains.items():
                assert convolution.bias is not None
                convolution.bias.zero_()
                set_weight(convolution, gain * convolution.weight)
