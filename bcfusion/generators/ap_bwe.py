"""AP-BWE: bandwidth extension by two streams of ConvNeXt blocks, one for the amplitude and one for the phase.

Lu et al., "Towards High-Quality and Efficient Speech Bandwidth Extension with Parallel Amplitude and Phase Prediction",
IEEE/ACM Transactions on Audio, Speech, and Language Processing, 2024.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d, set_weight
from bcfusion.nn.frequency_norm import LEAST_OF_LOGARITHMS, FrequencyNorm
from bcfusion.nn.norm import FrameLayerNorm
from bcfusion.nn.padding import pad
from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.nn.spectral import Complex, SpectralNetwork, from_log, log_magnitude, magnitude
from bcfusion.nn.stft import Window, window_samples
from bcfusion.requirements import above, at_least, require

NORM_EPS = 1e-6
PUBLISHED_EPS = 1e-24  # power of a bin, and of two numbers, that the published code does not add
PHASOR_EPS = 1e-5  # power below which two numbers have no direction; 1 / its root bounds the gradient of the phase


class ConvNeXtBlock(nn.Module):
    """``x + scale * narrow(gelu(widen(norm(depthwise(x)))))``, ``(B, channels, N)`` to the same (Liu et al. 2022).

    The scale is one learned number per channel, initially 1 / blocks: however deep the stream, the sum of its blocks is
    initially about as large as its input.
    """

    def __init__(self, channels: int, expansion: int, kernel_size: int, scale: float) -> None:
        super().__init__()
        self.depthwise = Conv1d(channels, channels, kernel_size, groups=channels)
        self.norm = FrameLayerNorm(channels, NORM_EPS)
        self.widen = Conv1d(channels, expansion * channels, 1)
        self.narrow = Conv1d(expansion * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels, 1), scale))

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.widen(self.norm(self.depthwise(x))))
        return x + self.scale * self.narrow(h)


class Stream(nn.Module):
    """Three parts of a stream: from a spectrum ``(B, inputs, N)`` through ConvNeXt blocks to features ``(B, channels,
    N)``.

    The network calls ``start``, each block and ``end`` separately, and mixes in the other stream's features in between.
    """

    def __init__(self, inputs: int, channels: int, blocks: int, expansion: int, kernel_size: int) -> None:
        super().__init__()
        self.start = nn.Sequential(Conv1d(inputs, channels, kernel_size), FrameLayerNorm(channels, NORM_EPS))
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels, expansion, kernel_size, 1 / blocks) for _ in range(blocks))
        self.end = FrameLayerNorm(channels, NORM_EPS)


class ApBwe(SpectralNetwork):
    """Waveform to waveform between an STFT and its inverse, ``(B, in_channels, T) -> (B, 1, T)`` for any T. Not causal.

    The input of the amplitude stream is the log amplitudes of all sensors, stacked as features; its output is added to
    the log amplitude of one sensor. The input of the phase stream is the phases; its output is two numbers per bin,
    whose angle is the phase. Before each pair of blocks the phase stream is added to the amplitude stream, then the
    amplitude stream to the phase stream. All layers over time are centred: 27 frames of 5 ms to either side.

    The defaults look 155 ms ahead at 16 kHz. The published number of 29.76 M parameters is that of blocks with a layer
    scale and without global response normalisation (with it: 29.81 M, and the network would depend on the whole file).

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        channels: of the streams.
        blocks: in a stream.
        expansion: how many times wider a block is inside.
        kernel_size: of the first convolutions and the depthwise ones, odd, in frames.
        phase_skip: add the cosine and sine of one sensor's phase (0 where the sensor has no signal) to the two numbers
            whose angle is the output's phase; False: as in the paper, phases start at random.
        skip_channel: the sensor whose amplitudes and phases are the starting point; -1 is the last (the air microphone,
            in fusion).
        floor: amplitude below which a bin is empty and has no phase, of a signal in [-1, 1] and a window that is not
            normalised; 1e-4 is about the quantisation noise of 16-bit audio.
        published_spectra: compute spectra as published checkpoints expect them: frames centred on multiples of the hop
            of a file that is mirrored at its ends, a window in the middle of ``n_fft`` samples, to which phases refer,
            ``floor`` added to the amplitude (not its square to the power), a phase in every bin, however quiet, and
            output phases of length one, however uncertain.
        init_output_scale: factor on the initial weights of the three output layers; at 0.1 the untrained network
            returns nearly its input.
        frequency_norm: ``learnable``: the log amplitudes of the sensors, and what is added to them, are scaled and
            shifted bin by bin; both start from the training set, see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. Phases stay as they are. None: neither. Not with
            ``published_spectra``.

    Attributes:
        provides: ``spectrum (B, F, N, 2)``, real and imaginary parts before the inverse transform.

    Raises:
        ConfigError: sizes that do not fit.
    """

    provides = ("spectrum",)
    window: Tensor

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
        published_spectra: bool = False,
        init_output_scale: float = 0.1,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        require(
            self,
            at_least(1, channels=channels, blocks=blocks, expansion=expansion, kernel_size=kernel_size),
            (kernel_size % 2 == 1, f"kernel_size={kernel_size} must be odd: the kernels are centred"),
            above(0, floor=floor, init_output_scale=init_output_scale),
            (
                not (published_spectra and frequency_norm),
                "published_spectra=True is for imported networks, which have no frequency_norm: set one of both only",
            ),
        )
        future = (blocks + 1) * (kernel_size // 2)
        super().__init__(
            sample_rate, in_channels, n_fft, hop_length, win_length, window, False, future, skip_channel, frequency_norm
        )
        self.phase_skip, self.floor, self.published_spectra = phase_skip, floor, published_spectra
        if published_spectra:
            self.lookahead = 0  # the frames are centred
            window_of_frames = filter_tensor(window_samples(window, win_length))
            self.register_buffer("window", window_of_frames, persistent=False)
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
        self.frequency_in = self.frequency_affine(in_channels, bins, least=LEAST_OF_LOGARITHMS)
        self.frequency_out = self.frequency_affine(1, bins, kind="restore", least=LEAST_OF_LOGARITHMS)

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Transform, apply the network, transform back: in causal frames, or in those of published checkpoints."""
        if not self.published_spectra:
            return super().body(inputs)
        stft, samples = self.stft, inputs.shape[-1]
        sizes = (stft.n_fft, stft.hop_length, stft.win_length, self.window)
        around = (stft.n_fft - stft.win_length) // 2  # zeros under no part of the window
        with full_precision(inputs):
            mirrored = pad(inputs.to(self.window.dtype), stft.win_length // 2, stft.win_length // 2, "reflect")
            padded = F.pad(mirrored, (around, around)).flatten(0, 1)
            spectra = torch.stft(padded, *sizes, center=False, return_complex=True)
        spectra = spectra.unflatten(0, inputs.shape[:2])  # (B, in_channels, F, T / hop_length + 1)
        (real, imag), _ = self.spectrum(spectra.real, spectra.imag)
        with full_precision(real):
            restored = torch.complex(real.to(self.window.dtype), imag.to(self.window.dtype))
            estimate = torch.istft(restored, *sizes, center=True, length=samples)
            # for losses, phases refer to the start of the window, and frames to those of the causal transform
            turn = 2 * torch.pi * around / stft.n_fft * torch.arange(stft.bins, device=real.device)
            turned = torch.view_as_real(restored * torch.polar(torch.ones_like(turn), turn).unsqueeze(-1))
        return {"estimate": estimate.unsqueeze(1), "spectrum": F.pad(turned, (0, 0, stft.centred, 0))}

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        levels, wanted = (self._log_amplitude(*parts) for parts in (sensors, target))
        return {"frequency_in": levels, "frequency_out": (wanted - levels[:, self.skip_channel]).unsqueeze(1)}

    def _log_amplitude(self, real: Tensor, imag: Tensor) -> Tensor:
        if self.published_spectra:
            return (magnitude(real, imag, PUBLISHED_EPS) + self.floor).log()
        return log_magnitude(real, imag, self.floor)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        power = real.square() + imag.square()
        log_amplitude = self._log_amplitude(real, imag)
        # no angle is computed in an empty bin: its gradient is unbounded at the origin
        empty = power == 0 if self.published_spectra else power <= self.floor**2
        phase = torch.atan2(imag.masked_fill(empty, 0.0), real.masked_fill(empty, 1.0))

        a = self.amplitude.start(self.frequency_in(log_amplitude).flatten(1, 2))  # (B, channels, N)
        p = self.phase.start(phase.flatten(1, 2))
        for of_amplitude, of_phase in zip(self.amplitude.blocks, self.phase.blocks, strict=True):
            # one after the other: two sums of the same two streams would make them equal
            a = a + p
            p = p + a
            a, p = of_amplitude(a), of_phase(p)

        a, p = self.amplitude.end(a), self.phase.end(p)
        correction = self.frequency_out(self.to_amplitude(a).unsqueeze(1)).squeeze(1)
        amplitude = from_log(log_amplitude[:, self.skip_channel] + correction, self.stft.win_length)
        cosine, sine = self.to_cosine(p), self.to_sine(p)
        if self.phase_skip:
            sensor = self.skip_channel
            length = (power[:, sensor] + self.floor**2).sqrt()
            cosine, sine = cosine + real[:, sensor] / length, sine + imag[:, sensor] / length
        # cosine and sine of atan2(sine, cosine), without the angle
        eps = PUBLISHED_EPS if self.published_spectra else PHASOR_EPS
        per_length = (cosine.square() + sine.square() + eps).rsqrt()
        parts = amplitude * cosine * per_length, amplitude * sine * per_length
        return parts, {"spectrum": torch.stack(parts, dim=-1)}
