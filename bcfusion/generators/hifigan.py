"""HiFi-GAN's generator, a vocoder from log mel spectrogram to waveform, and the network that listens and speaks by it.

Kong et al., "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech Synthesis", NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Conv1d, ConvTranspose1d, channels_last, set_weight
from bcfusion.nn.mel import LogMel
from bcfusion.nn.network import WaveformNetwork, field_of_spans

Span = tuple[int, int]


class ResidualBlock(nn.Module):
    """``x + plain(act(dilated(act(x))))`` for each dilation, one after the other; ``(B, channels, T)`` to the same."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int], slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.dilated = nn.ModuleList(
            Conv1d(channels, channels, kernel_size, dilation=d, norm="weight_norm") for d in dilations
        )
        self.plain = nn.ModuleList(Conv1d(channels, channels, kernel_size, norm="weight_norm") for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Shape in, shape out."""
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            h = dilated(F.leaky_relu(x, self.slope))
            x = x + plain(F.leaky_relu(h, self.slope))
        return x

    def input_span(self, first: int, last: int) -> Span:
        """The first and last input sample that the outputs ``first`` to ``last`` depend on."""
        for layer in (*self.dilated, *self.plain):  # odd kernels: each one widens the span, in whatever order
            first, last = cast("Conv1d", layer).input_span(first, last)
        return first, last


class UpsamplingBlock(nn.Module):
    """``(B, channels, N) -> (B, channels / 2, rate N)``: transposed convolution, then multi-receptive-field fusion.

    The fusion is the mean of residual blocks of different kernels, which all hear the same input.
    """

    def __init__(
        self,
        channels: int,
        rate: int,
        kernel_size: int,
        residual_kernel_sizes: Sequence[int],
        dilations: Sequence[Sequence[int]],
        slope: float,
    ) -> None:
        super().__init__()
        self.slope = slope
        self.up = ConvTranspose1d(channels, channels // 2, kernel_size, rate, norm="weight_norm")
        self.fused = nn.ModuleList(
            ResidualBlock(channels // 2, size, steps, slope)
            for size, steps in zip(residual_kernel_sizes, dilations, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Upsamples by the rate."""
        x = self.up(F.leaky_relu(x, self.slope))
        total = self.fused[0](x)
        for block in self.fused[1:]:
            total = total + block(x)
        return cast("Tensor", total / len(self.fused))

    def input_span(self, first: int, last: int) -> Span:
        """The first and last input frame that the outputs ``first`` to ``last`` depend on."""
        spans = [cast("ResidualBlock", block).input_span(first, last) for block in self.fused]
        return self.up.input_span(min(start for start, _ in spans), max(end for _, end in spans))


class Vocoder(nn.Module):
    """Frames of features to a waveform in [-1, 1], ``(B, n_mels, N) -> (B, 1, N x product of rates)``. Not causal.

    A convolution to ``channels``; for each rate a transposed convolution that halves them and a fusion of residual
    blocks; a convolution to one channel; tanh. Leaky ReLU before every convolution but the first, weight normalisation
    of all. The defaults are HiFi-GAN V1: 13.94 M parameters with 80 mels.

    Every output sample is computed from frames to both of its sides alike: frame j stands for the output samples ``j
    hop`` to ``(j + 1) hop - 1``, and a spectrogram is aligned whose frames are centred on the middle of these.

    Convolutions pad with zeros at both ends of the file: give features whose silence is 0 (log mel less the logarithm
    of its floor), or each end of a file sounds like a loud frame.

    Args:
        n_mels: features in a frame.
        channels: after the first convolution, halved by every rate.
        rates: of upsampling, first to last. Their product is ``hop``.
        kernel_sizes: of the transposed convolutions, one for each rate; longer by an even number of samples.
        residual_kernel_sizes: odd, of the residual blocks that are fused.
        dilations: of the layers of each residual block, a list for each of ``residual_kernel_sizes``.
        negative_slope: of the leaky ReLU.
        input_level: root mean square of the features that the initial weights are scaled for (6: log mel less
            ln(1e-5), of speech).
        output_level: root mean square of the untrained network's output (0.07: speech at -23 dBFS). With torch's own
            start hardly anything but biases comes out of so deep a network.

    Attributes:
        hop: samples in a frame.
        input_spans: (first, last) frame that each of the ``hop`` samples of frame 0 depends on.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        n_mels: int = 80,
        channels: int = 512,
        rates: Sequence[int] = (8, 8, 2, 2),
        kernel_sizes: Sequence[int] = (16, 16, 4, 4),
        residual_kernel_sizes: Sequence[int] = (3, 7, 11),
        dilations: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        negative_slope: float = 0.1,
        input_level: float = 6.0,
        output_level: float = 0.07,
    ) -> None:
        super().__init__()
        problems = []
        if not rates or min(rates) < 1 or channels % 2 ** len(rates):
            problems.append(
                f"Vocoder: rates={list(rates)} must be one or more numbers of at least 1, and channels={channels} be "
                "halved by each"
            )
        longer = [kernel - rate for kernel, rate in zip(kernel_sizes, rates, strict=False)]
        if len(kernel_sizes) != len(rates) or any(size % 2 or size < 0 for size in longer):
            problems.append(
                f"Vocoder: kernel_sizes={list(kernel_sizes)} must be one for each of rates={list(rates)}, longer by an "
                "even number of samples"
            )
        if not residual_kernel_sizes or any(size % 2 == 0 for size in residual_kernel_sizes):
            problems.append(f"Vocoder: residual_kernel_sizes={list(residual_kernel_sizes)} must be odd, one or more")
        if len(dilations) != len(residual_kernel_sizes):
            problems.append(
                f"Vocoder: dilations={[list(d) for d in dilations]} must be a list for each of residual_kernel_sizes"
            )
        if min(input_level, output_level) <= 0:
            problems.append(f"Vocoder: input_level={input_level} and output_level={output_level} must be above 0")
        if problems:
            raise ConfigError(problems)
        self.n_mels, self.hop, self.slope = n_mels, prod(rates), negative_slope
        self.first = Conv1d(n_mels, channels, 7, norm="weight_norm")
        self.blocks = nn.ModuleList(
            UpsamplingBlock(channels // 2**level, rate, size, residual_kernel_sizes, dilations, negative_slope)
            for level, (rate, size) in enumerate(zip(rates, kernel_sizes, strict=True))
        )
        self.last = Conv1d(channels // 2 ** len(rates), 1, 7, norm="weight_norm")
        self._initialise(input_level, output_level)
        self.input_spans = [self.input_span(n, n) for n in range(self.hop)]

    def forward(self, mel: Tensor) -> Tensor:
        """``(B, 1, N hop)`` of ``(B, n_mels, N)``."""
        h = channels_last(self.first(mel))  # (B, channels, N)
        for block in self.blocks:
            h = block(h)
        return torch.tanh(self.last(F.leaky_relu(h, self.slope)))

    def input_span(self, first: int, last: int) -> Span:
        """The first and last frame that the output samples ``first`` to ``last`` depend on."""
        span = self.last.input_span(first, last)
        for block in reversed(self.blocks):
            span = cast("UpsamplingBlock", block).input_span(*span)
        return self.first.input_span(*span)

    def _initialise(self, input_level: float, output_level: float) -> None:
        keep = 3.0**0.5  # of uniform weights within 1 / sqrt(fan in), for outputs of the inputs' variance
        revive = (2.0 / (1.0 + self.slope**2)) ** 0.5  # what a leaky ReLU takes from a signal without mean
        gains = {layer: keep * revive for layer in self.modules() if isinstance(layer, Conv1d | ConvTranspose1d)}
        for module in self.modules():
            if isinstance(module, ResidualBlock):  # each layer adds a quarter of the variance, not as much again
                gains.update(dict.fromkeys((cast("Conv1d", layer) for layer in module.plain), 0.5 * keep * revive))
        gains[self.first] = keep / input_level
        gains[self.last] = keep * revive * output_level
        with torch.no_grad():
            for layer, gain in gains.items():
                assert layer.bias is not None
                layer.bias.zero_()
                set_weight(layer, gain * layer.weight)


class HifiGan(WaveformNetwork):
    """Waveform to waveform by way of the log mel spectrogram, ``(B, in_channels, T) -> (B, 1, T)`` for any T.

    The log mel spectrograms of all sensors, side by side as features, or that of one of them go through one
    :class:`Vocoder`. Nothing else of the input is heard: all phases are the vocoder's own. Output and input are
    aligned: a frame of the vocoder's output lies in the middle of the ``win_length`` samples that its mel frame was
    computed from. Silence enters as 0.

    With 80 mels and one sensor: 13.94 M parameters; it looks 244 ms ahead at 16 kHz.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft, win_length, n_mels, f_min, f_max, floor: of the analysis, see :class:`bcfusion.nn.mel.LogMel`.
        channels, rates, kernel_sizes, residual_kernel_sizes, dilations, negative_slope: of the vocoder. The product of
            ``rates`` is the analysis' hop.
        speech_level: root mean square of the untrained network's output (0.07: -23 dBFS).
        sensor: the only one that is heard; -1 is the last. None: all are.

    Attributes:
        hop: samples in a frame.
        settings: those that the weights do not show.
        receptive_field: (past, future), in samples: output n depends on input n - past to n + future, at the frame
            phases where they reach farthest.
        delay: the future part of the receptive field.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 1024,
        win_length: int = 1024,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        floor: float = 1e-5,
        channels: int = 512,
        rates: Sequence[int] = (8, 8, 2, 2),
        kernel_sizes: Sequence[int] = (16, 16, 4, 4),
        residual_kernel_sizes: Sequence[int] = (3, 7, 11),
        dilations: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        negative_slope: float = 0.1,
        speech_level: float = 0.07,
        sensor: int | None = None,
    ) -> None:
        hop = prod(rates)
        # the output of frame j lies in the middle of its window once the body is late by half of what surrounds it
        late = (win_length - hop) // 2
        fallback = -1 if sensor is None else sensor
        super().__init__(sample_rate, in_channels, hop, False, max(late, 0), skip_channel=fallback)
        problems = []
        if (win_length - hop) % 2:
            problems.append(
                f"HifiGan: win_length={win_length} must be longer than the product of rates, {hop}, by an even number"
            )
        if not 0 < floor < 1:
            problems.append(f"HifiGan: floor={floor} must lie between 0 and 1, well below the mels of speech")
        if problems:
            raise ConfigError(problems)
        self.heard = slice(None) if sensor is None else slice(sensor % in_channels, sensor % in_channels + 1)
        self.mel = LogMel(sample_rate, n_fft, hop, win_length, n_mels, f_min, f_max, floor)
        steps = {"rates": list(rates), "dilations": [list(d) for d in dilations], "negative_slope": negative_slope}
        self.settings = {**self.mel.settings, **steps}
        self.silence = math.log(floor)
        self.vocoder = Vocoder(
            n_mels * (in_channels if sensor is None else 1),
            channels,
            rates,
            kernel_sizes,
            residual_kernel_sizes,
            dilations,
            negative_slope,
            input_level=-math.log(floor) / 2,
            output_level=speech_level,
        )
        self.receptive_field = field_of_spans(
            [
                (start * hop + hop - win_length + late, (end + 1) * hop - 1 + late)  # frame j ends with hop j
                for start, end in self.vocoder.input_spans
            ]
        )
        self.delay = self.receptive_field[1]

    def synthesise(self, log_mel: Tensor) -> Tensor:
        """``(B, 1, N hop)``, late by ``lookahead``, of log mel magnitudes ``(B, sensors heard * n_mels, N)``."""
        waveform: Tensor = self.vocoder(log_mel - self.silence)  # zeros around the file are silence
        return waveform

    def body(self, inputs: Tensor) -> Tensor:
        """``(B, in_channels, T)``, T a multiple of ``hop``, to ``(B, 1, T)``, late by ``lookahead``."""
        heard = inputs[:, self.heard]
        log_mel = self.mel(heard.flatten(0, 1).unsqueeze(1))  # (B sensors, n_mels, N)
        return self.synthesise(log_mel.unflatten(0, heard.shape[:2]).flatten(1, 2))
