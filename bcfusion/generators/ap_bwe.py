"""AP-BWE: bandwidth extension by two streams of ConvNeXt blocks, one for the amplitude and one for the phase.

Lu et al., "Towards High-Quality and Efficient Speech Bandwidth Extension with Parallel Amplitude and Phase Prediction",
IEEE/ACM Transactions on Audio, Speech, and Language Processing, 2024.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Conv1d, set_weight
from bcfusion.nn.norm import FrameLayerNorm
from bcfusion.nn.spectral import Complex, SpectralNetwork
from bcfusion.nn.stft import Window

NORM_EPS = 1e-6
PHASOR_EPS = 1e-5  # power below which two numbers have no direction: 1 / root of it bounds the gradient of the phase


class ConvNeXtBlock(nn.Module):
    """``x + scale * narrow(gelu(widen(norm(depthwise(x)))))``, ``(B, channels, N)`` to the same (Liu et al. 2022).

    The scale is one learned number for each channel, 1 / blocks at the start: however deep the stream, its blocks add
    up to about what it starts from.
    """

    def __init__(self, channels: int, expansion: int, kernel_size: int, scale: float) -> None:
        super().__init__()
        self.depthwise = Conv1d(channels, channels, kernel_size, groups=channels)
        self.norm = FrameLayerNorm(channels, NORM_EPS)
        self.widen = Conv1d(channels, expansion * channels, 1)
        self.narrow = Conv1d(expansion * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels, 1), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Shape in, shape out."""
        h = F.gelu(self.widen(self.norm(self.depthwise(x))))
        return x + self.scale * self.narrow(h)


class Stream(nn.Module):
    """From a spectrum ``(B, inputs, N)`` through ConvNeXt blocks to features ``(B, channels, N)``, in three parts.

    ``start`` and ``end`` are called on their own, and the blocks one by one, with another stream's features in between.
    """

    def __init__(self, inputs: int, channels: int, blocks: int, expansion: int, kernel_size: int) -> None:
        super().__init__()
        self.start = nn.Sequential(Conv1d(inputs, channels, kernel_size), FrameLayerNorm(channels, NORM_EPS))
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels, expansion, kernel_size, 1 / blocks) for _ in range(blocks))
        self.end = FrameLayerNorm(channels, NORM_EPS)


class ApBwe(SpectralNetwork):
    """Waveform to waveform between an STFT and its inverse, ``(B, in_channels, T) -> (B, 1, T)`` for any T. Not causal.

    The amplitude stream hears the log amplitudes of all sensors, side by side as features, and gives what is added to
    one sensor's; the phase stream hears the phases and gives two numbers for each bin, the angle of which is the phase.
    Before each pair of blocks the amplitude stream takes in the phase stream, then the phase stream the amplitude
    stream. All layers over time are centred: 27 frames of 5 ms to either side.

    The defaults look 155 ms ahead at 16 kHz. The 29.76 M parameters that are published are those of blocks with a layer
    scale and without global response normalisation (with it: 29.81 M, and the network would hear the whole file).

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft, hop_length, win_length, window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        channels: of the streams.
        blocks: in a stream.
        expansion: how many times wider a block is within.
        kernel_size: of the first convolutions and the depthwise ones, odd, in frames.
        phase_skip: add the cosine and sine of one sensor's phase to the two numbers whose angle is the output's phase,
            nothing where the sensor hears nothing; False: the paper's, phases start at random.
        skip_channel: the sensor whose amplitudes and phases are started from; -1 is the last (the air microphone, in
            fusion).
        floor: amplitude of a bin below which it is empty, without a phase, of a signal in [-1, 1] and a window that is
            not normalised; 1e-4 is about 16-bit audio's quantisation noise.
        init_output_scale: factor on the initial weights of the three output layers; at 0.1 the untrained network gives
            nearly its input.

    Raises:
        ConfigError: sizes that do not fit.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 1024,
        hop_length: int = 80,
        win_length: int = 320,
        window: Window = "hann",
        channels: int = 512,
        blocks: int = 8,
        expansion: int = 3,
        kernel_size: int = 7,
        phase_skip: bool = True,
        skip_channel: int = -1,
        floor: float = 1e-4,
        init_output_scale: float = 0.1,
    ) -> None:
        problems = []
        if min(channels, blocks, expansion) < 1:
            problems.append(f"ApBwe: channels={channels}, blocks={blocks}, expansion={expansion} must be at least 1")
        if kernel_size < 1 or kernel_size % 2 == 0:
            problems.append(f"ApBwe: kernel_size={kernel_size} must be odd: the kernels are centred")
        if min(floor, init_output_scale) <= 0:
            problems.append(f"ApBwe: floor={floor} and init_output_scale={init_output_scale} must be above 0")
        if problems:
            raise ConfigError(problems)
        super().__init__(
            sample_rate,
            in_channels,
            n_fft,
            hop_length,
            win_length,
            window,
            causal=False,
            future_frames=(blocks + 1) * (kernel_size // 2),
            skip_channel=skip_channel,
        )
        self.phase_skip, self.floor = phase_skip, floor
        bins = self.stft.bins
        self.amplitude = Stream(in_channels * bins, channels, blocks, expansion, kernel_size)
        self.phase = Stream(in_channels * bins, channels, blocks, expansion, kernel_size)
        self.to_amplitude = Conv1d(channels, bins, 1)
        self.to_cosine = Conv1d(channels, bins, 1)
        self.to_sine = Conv1d(channels, bins, 1)
        for layer in (self.to_amplitude, self.to_cosine, self.to_sine):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            set_weight(layer, init_output_scale * layer.weight)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """``(B, in_channels, F, N)`` twice to the estimate's ``(B, F, N)`` twice."""
        power = real.square() + imag.square()
        log_amplitude = 0.5 * (power + self.floor**2).log()
        empty = power <= self.floor**2  # no angle is computed there, whose gradient has no bound at the origin
        phase = torch.atan2(imag.masked_fill(empty, 0.0), real.masked_fill(empty, 1.0))

        a = self.amplitude.start(log_amplitude.flatten(1, 2))  # (B, channels, N)
        p = self.phase.start(phase.flatten(1, 2))
        for of_amplitude, of_phase in zip(self.amplitude.blocks, self.phase.blocks, strict=True):
            # one after the other: both sums of the same two would make the streams one
            a = a + p
            p = p + a
            a, p = of_amplitude(a), of_phase(p)

        a, p = self.amplitude.end(a), self.phase.end(p)
        amplitude = (log_amplitude[:, self.skip_channel] + self.to_amplitude(a)).exp()
        cosine, sine = self.to_cosine(p), self.to_sine(p)
        if self.phase_skip:
            heard = self.skip_channel
            length = (power[:, heard] + self.floor**2).sqrt()
            cosine, sine = cosine + real[:, heard] / length, sine + imag[:, heard] / length
        # cosine and sine of atan2(sine, cosine), without the angle
        per_length = (cosine.square() + sine.square() + PHASOR_EPS).rsqrt()
        return (amplitude * cosine * per_length, amplitude * sine * per_length), {}
