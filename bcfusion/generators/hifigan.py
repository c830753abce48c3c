"""HiFi-GAN's generator, a vocoder from log mel spectrogram to waveform, and a network around it.

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

from bcfusion.nn.conv import Conv1d, ConvTranspose1d, channels_last, set_weight
from bcfusion.nn.mel import LogMel
from bcfusion.nn.network import WaveformNetwork, future_reach
from bcfusion.nn.revision import Revised
from bcfusion.requirements import above, at_least, require

PUBLISHED_EPS = 1e-9  # power that the published code adds to each bin
LAST_SLOPE = 0.01  # of the leaky ReLU before the last convolution: the published code leaves it at torch's default


class ResidualBlock(nn.Module):
    """``x + plain(act(dilated(act(x))))`` per dilation, one after the other; ``(B, channels, T)`` to the same shape."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int], slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.dilated = nn.ModuleList(
            Conv1d(channels, channels, kernel_size, dilation=d, norm="weight_norm") for d in dilations
        )
        self.plain = nn.ModuleList(Conv1d(channels, channels, kernel_size, norm="weight_norm") for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            h = dilated(F.leaky_relu(x, self.slope))
            x = x + plain(F.leaky_relu(h, self.slope))
        return x


class UpsamplingBlock(nn.Module):
    """``(B, channels, N) -> (B, channels / 2, rate N)``: transposed convolution, then multi-receptive-field fusion.

    The fusion is the mean of residual blocks with different kernels and the same input.
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
        x = self.up(F.leaky_relu(x, self.slope))
        total = self.fused[0](x)
        for block in self.fused[1:]:
            total = total + block(x)
        return cast("Tensor", total / len(self.fused))

    def last_input(self, sample: int) -> int:
        """Return the last input frame that output ``sample`` depends on."""
        return self.up.last_input(sample + max(future_reach(1, block) for block in self.fused))


class Vocoder(Revised):
    """Frames of features to a waveform in [-1, 1], ``(B, n_mels, N) -> (B, 1, N x product of rates)``. Not causal.

    A convolution to ``channels``; per rate a transposed convolution that halves them and a fusion of residual blocks; a
    convolution to one channel; tanh. Leaky ReLU before every convolution but the first, with a slope of 0.01 before the
    last, as in the published code; weight normalisation of all. The defaults are HiFi-GAN V1: 13.94 M parameters with
    80 mels.

    Every output sample is computed from as many frames before it as after it: frame j stands for the output samples ``j
    hop`` to ``(j + 1) hop - 1``, and an aligned spectrogram has frames that are centred on the middle of these.

    Convolutions pad with zeros at both ends of the file: give features whose silence is 0 (log mel minus the logarithm
    of its floor), or each end of a file sounds like a loud frame.

    Args:
        n_mels: features in a frame.
        channels: after the first convolution, halved by every rate.
        rates: of upsampling, first to last. Their product is ``hop``.
        kernel_sizes: of the transposed convolutions, one per rate; longer by an even number of samples.
        residual_kernel_sizes: odd, of the residual blocks that are fused.
        dilations: of the layers of each residual block, one list per entry of ``residual_kernel_sizes``.
        negative_slope: of the leaky ReLU, but for the last one.
        input_level: root mean square of the features that the initial weights are scaled for (6: log mel minus
            ln(1e-5), of speech).
        output_level: root mean square of the untrained network's output (0.07: speech at -23 dBFS). With torch's own
            initial weights, hardly anything but biases reaches the output of so deep a network.

    Attributes:
        hop: samples in a frame.

    Raises:
        ConfigError: sizes that do not fit.
    """

    revision = 2  # 1 had a slope of `negative_slope` before the last convolution

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
        longer = [kernel - rate for kernel, rate in zip(kernel_sizes, rates, strict=False)]
        even = len(kernel_sizes) == len(rates) and all(size >= 0 and size % 2 == 0 for size in longer)
        require(
            self,
            at_least(1, rates=rates),
            (
                channels % 2 ** len(rates) == 0,
                f"channels={channels} must be divisible by {2 ** len(rates)}, 2 per rate",
            ),
            (
                even,
                f"kernel_sizes={list(kernel_sizes)} must be one per entry of rates={list(rates)}, longer by an even "
                "number of samples",
            ),
            at_least(1, residual_kernel_sizes=residual_kernel_sizes),
            (
                all(size % 2 for size in residual_kernel_sizes),
                f"residual_kernel_sizes={list(residual_kernel_sizes)} must be odd",
            ),
            (
                len(dilations) == len(residual_kernel_sizes),
                f"dilations={[list(d) for d in dilations]} must be one list per entry of residual_kernel_sizes",
            ),
            above(0, input_level=input_level, output_level=output_level),
        )
        self.n_mels, self.hop, self.slope = n_mels, prod(rates), negative_slope
        self.first = Conv1d(n_mels, channels, 7, norm="weight_norm")
        self.blocks = nn.ModuleList(
            UpsamplingBlock(channels // 2**level, rate, size, residual_kernel_sizes, dilations, negative_slope)
            for level, (rate, size) in enumerate(zip(rates, kernel_sizes, strict=True))
        )
        self.last = Conv1d(channels // 2 ** len(rates), 1, 7, norm="weight_norm")
        self._initialise(input_level, output_level)

    def forward(self, mel: Tensor) -> Tensor:
        h = channels_last(self.first(mel))  # (B, channels, N)
        for block in self.blocks:
            h = block(h)
        return torch.tanh(self.last(F.leaky_relu(h, LAST_SLOPE)))

    def _initialise(self, input_level: float, output_level: float) -> None:
        keep = 3.0**0.5  # of uniform weights within 1 / sqrt(fan in), for outputs of the inputs' variance
        revive = _revive(self.slope)
        gains = {layer: keep * revive for layer in self.modules() if isinstance(layer, Conv1d | ConvTranspose1d)}
        for module in self.modules():
            if isinstance(module, ResidualBlock):  # each layer adds a quarter of the variance, instead of doubling it
                gains.update(dict.fromkeys((cast("Conv1d", layer) for layer in module.plain), 0.5 * keep * revive))
        gains[self.first] = keep / input_level
        gains[self.last] = keep * _revive(LAST_SLOPE) * output_level
        with torch.no_grad():
            for layer, gain in gains.items():
                assert layer.bias is not None
                layer.bias.zero_()
                set_weight(layer, gain * layer.weight)


def _revive(slope: float) -> float:
    """Return the gain that gives a signal without mean the level back that a leaky ReLU took from it."""
    return float((2.0 / (1.0 + slope**2)) ** 0.5)


class HifiGan(WaveformNetwork):
    """Waveform to waveform by way of the log mel spectrogram, ``(B, in_channels, T) -> (B, 1, T)`` for any T.

    The log mel spectrograms of all sensors, stacked as features, or that of one of them, are the input of one
    :class:`Vocoder`. Nothing else of the sensors is used: all phases are the vocoder's own. Output and input are
    aligned: a frame of the vocoder's output lies in the middle of the ``win_length`` samples that its mel frame was
    computed from. Silence enters as 0.

    With 80 mels and one sensor: 13.94 M parameters; it looks 244 ms ahead at 16 kHz.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the analysis, see :class:`bcfusion.nn.mel.LogMel`.
        win_length: likewise.
        n_mels: likewise.
        f_min: likewise.
        f_max: likewise.
        floor: likewise; below 1, as the mels of speech are far above it.
        channels: of the vocoder.
        rates: of the vocoder. Their product is the hop of the analysis.
        kernel_sizes: of the vocoder.
        residual_kernel_sizes: of the vocoder.
        dilations: of the vocoder.
        negative_slope: of the vocoder.
        speech_level: root mean square of the untrained network's output (0.07: -23 dBFS).
        sensor: the only one that is used; -1 is the last. None: all are.
        published_mel: compute the log mel spectrogram as published checkpoints expect it: the file is mirrored at its
            ends, a mel magnitude below ``floor`` is raised to it (instead of adding it), and silence enters as
            ln(floor).

    Attributes:
        hop: samples in a frame.
        settings: arguments that the shapes of the weights do not reveal, by name.
        delay: algorithmic latency in samples, exact at the frame phases where it is longest.

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
        published_mel: bool = False,
    ) -> None:
        hop = prod(rates)
        longer = win_length - hop
        require(
            self,
            (
                longer >= 0 and longer % 2 == 0,
                f"win_length={win_length} must be longer than the product of rates, {hop}, by an even number",
            ),
            (0 < floor < 1, f"floor={floor} must lie between 0 and 1, well below the mels of speech"),
        )
        # the output of frame j lies in the middle of its window if the body is late by half of what surrounds it
        late = (win_length - hop) // 2
        fallback = -1 if sensor is None else sensor
        lookahead = 0 if published_mel else late  # a mirrored file has all samples of its first frame
        super().__init__(sample_rate, in_channels, hop, False, lookahead, skip_channel=fallback)
        self.hears_all = sensor is None
        self.keeps_noise = True  # it hears no phase
        self.published_mel, self.late = published_mel, late
        self.used = slice(None) if sensor is None else slice(sensor % in_channels, sensor % in_channels + 1)
        self.mel = LogMel(sample_rate, n_fft, hop, win_length, n_mels, f_min, f_max, floor)
        steps = {"rates": list(rates), "dilations": [list(d) for d in dilations], "negative_slope": negative_slope}
        self.settings = {**self.mel.settings, **steps, "published_mel": published_mel}
        # what the vocoder sees as 0, like the zeros around the file
        self.silence = 0.0 if published_mel else math.log(floor)
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
        self.delay = late + future_reach(hop, self)

    def synthesise(self, log_mel: Tensor) -> Tensor:
        """Return the waveform ``(B, 1, N hop)``, late by ``lookahead``, of log mel magnitudes ``(B, sensors * n_mels,
        N)``."""
        waveform: Tensor = self.vocoder(log_mel - self.silence)
        return waveform

    def body(self, inputs: Tensor) -> Tensor:
        sensors = inputs[:, self.used]
        waveforms = sensors.flatten(0, 1).unsqueeze(1)
        if self.published_mel:
            log_mel = self.mel.mirrored(waveforms, self.late, PUBLISHED_EPS)
        else:
            log_mel = self.mel(waveforms)  # (B sensors, n_mels, N)
        return self.synthesise(log_mel.unflatten(0, sensors.shape[:2]).flatten(1, 2))
