"""LaCo-SENet: magnitude and phase by large kernels, whose share of future frames is the latency.

Kim & Chung, "Latency-Configurable Streaming Speech Enhancement via Asymmetric Temporal Padding", Interspeech 2026
(arXiv 2606.19688), also the backbone of BAFNet-plus; its blocks are those of PrimeK-Net (Lin et al. 2025). As in
MP-SENet (Lu et al. 2023) a dense encoder is followed by a decoder of the magnitude and one of the phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.nn.conv2d import Conv2d
from bcfusion.nn.delay import Delay
from bcfusion.nn.dense import (
    DenseDilatedBlock,
    DenseEncoder,
    LearnableSigmoid,
    MagnitudeDecoder,
    PhaseDecoder,
    frames_ahead,
)
from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.norm import ChannelLayerNorm
from bcfusion.nn.spectral import Complex, SpectralNetwork, magnitude
from bcfusion.nn.stft import Window, window_samples
from bcfusion.requirements import above, at_least, one_of, require, within

Axis = Literal["time", "frequency"]
MagnitudeHead = Literal["mapping", "mask"]
PhaseInput = Literal["direction", "angle"]

PHASOR_EPS = 1e-5  # power below which two numbers have no direction; 1 / its root bounds the gradient of the phase
_INITIAL_LEVEL = 0.01  # root mean square of the noise that an untrained mapping makes, re full scale


def _pointwise(inputs: int, outputs: int, bins: int) -> Conv2d:
    return Conv2d(inputs, outputs, (1, 1), bins, causal=True)


def _depthwise(channels: int, bins: int, axis: Axis, kernel_size: int, bias: bool = True) -> Conv2d:
    """Return a convolution of each channel along one axis, causal along time and centred along frequency."""
    if axis == "time":
        return Conv2d(channels, channels, (1, kernel_size), bins, groups=channels, bias=bias, causal=True)
    side = kernel_size // 2
    padding = (side, side)
    return Conv2d(channels, channels, (kernel_size, 1), bins, padding=padding, groups=channels, bias=bias, causal=True)


class ChannelAttention(nn.Module):
    """``x + scale * narrow(h * gains(h))`` with ``h = gate(depthwise(widen(norm(x))))``, ``(B, channels, F, N)``.

    The gate multiplies one half of the channels by the other. The gains of the channels (Chen et al. 2022, "Simple
    Baselines for Image Restoration") come along frequency from the mean over the bins of a frame; along time, where a
    mean over the file would not be causal, from a depthwise convolution over ``pool_frames`` frames.

    Attributes:
        late: frames by which the output is late.
    """

    def __init__(
        self, channels: int, bins: int, axis: Axis, kernel_size: int, pool_frames: int, share: float, scale: float
    ) -> None:
        super().__init__()
        of_kernel, of_window = (
            frames_ahead(size, share) if axis == "time" else 0 for size in (kernel_size, pool_frames)
        )
        self.norm = ChannelLayerNorm(channels)
        self.widen = _pointwise(channels, 2 * channels, bins)
        self.depthwise = _depthwise(2 * channels, bins, axis, kernel_size)
        self.pool = _depthwise(channels, bins, axis, pool_frames, bias=False) if axis == "time" else None
        self.gains = _pointwise(channels, channels, bins if axis == "time" else 1)
        self.narrow = _pointwise(channels, channels, bins)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), float(scale)))
        self.gate_wait = Delay(of_window, (channels, bins))
        self.skip_wait = Delay(of_kernel + of_window, (channels, bins))
        self.late = of_kernel + of_window

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.depthwise(self.widen(self.norm(x))).chunk(2, dim=1)
        h = first * second
        pooled = h.mean(2, keepdim=True) if self.pool is None else self.pool(h)
        h = self.gate_wait(h) * self.gains(pooled)
        y: Tensor = self.skip_wait(x) + self.scale * self.narrow(h)
        return y


class GatedKernels(nn.Module):
    """``x + scale * narrow(parts)``: the widened channels are divided into parts, each with a kernel of its own size.

    ``(B, channels, F, N)`` to the same shape. A part is ``pointwise(depthwise(h)) * depthwise(h)``, both convolutions
    with its kernel.

    Attributes:
        late: frames by which the output is late.
    """

    def __init__(
        self, channels: int, bins: int, axis: Axis, kernel_sizes: Sequence[int], share: float, scale: float
    ) -> None:
        super().__init__()
        late = [frames_ahead(size, share) if axis == "time" else 0 for size in kernel_sizes]
        self.late = max(late)
        self.norm = ChannelLayerNorm(channels)
        self.widen = _pointwise(channels, len(kernel_sizes) * channels, bins)
        self.gates = nn.ModuleList(
            nn.Sequential(_depthwise(channels, bins, axis, size), _pointwise(channels, channels, bins))
            for size in kernel_sizes
        )
        self.values = nn.ModuleList(_depthwise(channels, bins, axis, size) for size in kernel_sizes)
        self.waits = nn.ModuleList(Delay(self.late - frames, (channels, bins)) for frames in late)
        self.narrow = _pointwise(len(kernel_sizes) * channels, channels, bins)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), float(scale)))
        self.skip_wait = Delay(self.late, (channels, bins))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.widen(self.norm(x)).chunk(len(self.gates), dim=1)
        gated = [
            wait(gate(part) * value(part))
            for gate, value, wait, part in zip(self.gates, self.values, self.waits, parts, strict=True)
        ]
        y: Tensor = self.skip_wait(x) + self.scale * self.narrow(torch.cat(gated, dim=1))
        return y


class Stage(nn.Module):
    """Pairs of :class:`ChannelAttention` and :class:`GatedKernels` along one axis, added to the scaled input.

    ``(B, channels, F, N)`` to the same shape. The scale of the input, one number per channel, is initially 0: the
    layers already keep their input.

    Attributes:
        late: frames by which the output is late.
    """

    def __init__(
        self,
        channels: int,
        bins: int,
        axis: Axis,
        pairs: int,
        kernel_size: int,
        kernel_sizes: Sequence[int],
        pool_frames: int,
        share: float,
        scale: float,
    ) -> None:
        super().__init__()
        layers: list[ChannelAttention | GatedKernels] = []
        for _ in range(pairs):
            layers.append(ChannelAttention(channels, bins, axis, kernel_size, pool_frames, share, scale))
            layers.append(GatedKernels(channels, bins, axis, kernel_sizes, share, scale))
        self.late = sum(layer.late for layer in layers)
        self.layers = nn.Sequential(*layers)
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.wait = Delay(self.late, (channels, bins))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x) + self.scale * self.wait(x)
        return y


class LaCoSENet(SpectralNetwork):
    """Causal generator ``(B, in_channels, T) -> (B, 1, T)`` for any T, of 1.37 M parameters.

    Compressed magnitudes and phases of all sensors pass a dense encoder, which halves the bins, and blocks of two
    stages, along time and then along frequency. A dense decoder gives the magnitude, another one the phase. There is no
    attention between frames, and no recurrence: long kernels see up to 1.5 s.

    Three shares say how much of each kernel's context along time lies in the future: 0 is strictly causal, 0.5 centred,
    1 all of it. Parameters, cost and the length of the context stay the same. A kernel with r future frames is the
    causal one, whose output is late by r, and what by-passes it waits: the sum of all r is the network's one
    look-ahead, and a stream is the same as the whole file. With the defaults, encoder and decoders may each look up to
    30 frames of 6.25 ms ahead, the blocks up to 176: 24.9 ms of latency at shares of 0, 1.5 s at shares of 1. The paper
    has encoder and decoders look ahead, with shares of 0, 1/30, 0.1, 1/6 and 0.5, for 0, 1, 3, 5 and 15 frames each,
    and counts half a window less.

    Everything is normalised over the channels of a bin, or by batch normalisation, which has fixed statistics in
    evaluation mode; the published network, too, which has a variant of the blocks that averages over the file.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: of all layers.
        blocks: of two stages.
        depth: layers of each dense block.
        time_pairs: of layers in a stage along time.
        frequency_pairs: likewise, along frequency.
        kernel_size: of the depthwise convolution before a gate, odd, in frames and in bins.
        time_kernels: frames of the kernels of the parts, along time.
        frequency_kernels: likewise odd numbers of bins, along frequency.
        pool_frames: frames from which the gains along time are computed.
        encoder_future: share of the encoder's context along time that lies in the future, 0 to 1.
        block_future: likewise, of the blocks.
        decoder_future: likewise, of both decoders.
        head: what the number that is decoded for a bin means: the compressed magnitude itself (``mapping``), or a
            factor on that of one sensor (``mask``). A mask cannot fill a band in which the sensor has no signal.
        largest: mask or compressed magnitude that cannot be exceeded; None: 2 for a mask, and for a mapping the
            largest one of a signal in [-1, 1].
        compression: exponent of the magnitudes.
        phase_input: ``direction``: the phase enters as its cosine and sine; ``angle``: as a number from -pi to pi, as
            published. An angle jumps where rounding decides its sign, so that a stream may differ from the whole file.
        phase_skip: add the cosine and sine of one sensor's phase (0 where it has no signal) to the two numbers whose
            angle is the output's phase; False: as published, phases start at random.
        n_fft: of the STFT, a multiple of 4, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        skip_channel: the sensor that is masked and whose phases are the starting point; -1 is the last (the air
            microphone, in fusion).
        floor: magnitude of an empty bin, of a signal in [-1, 1] and a window that is not normalised; 1e-4 is about the
            quantisation noise of 16-bit audio.
        init_scale: initial scale of what each layer of a stage adds to its input; published: 0.
        frequency_norm: ``learnable``: the compressed magnitudes of the sensors are scaled and shifted bin by bin, from
            the statistics of the training set on; so is the number that is decoded, before it is bounded, from 1 and 0
            on. See :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. None: neither.

    Attributes:
        late_frames: frames that the network looks ahead.
        delay: ``win_length - 1`` samples, and these frames.
        provides: ``spectrum (B, F, N, 2)``, real and imaginary parts before the inverse transform, and ``mask (B, F,
            N)``, the factor on magnitudes that are not compressed, if the head is one.

    Raises:
        ConfigError: sizes that do not fit, or another word.
    """

    provides: tuple[str, ...] = ("spectrum",)
    least_frame = 0.05  # s: shorter frames cost more than they compute

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 64,
        blocks: int = 4,
        depth: int = 4,
        time_pairs: int = 2,
        frequency_pairs: int = 2,
        kernel_size: int = 3,
        time_kernels: Sequence[int] = (3, 5, 7, 11),
        frequency_kernels: Sequence[int] = (3, 11, 23, 31),
        pool_frames: int = 11,
        encoder_future: float = 0.0,
        block_future: float = 0.0,
        decoder_future: float = 0.0,
        head: MagnitudeHead = "mapping",
        largest: float | None = None,
        compression: float = 0.3,
        phase_input: PhaseInput = "direction",
        phase_skip: bool = True,
        n_fft: int = 400,
        hop_length: int = 100,
        win_length: int = 400,
        window: Window = "hann",
        skip_channel: int = -1,
        floor: float = 1e-4,
        init_scale: float = 0.1,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        odd = [kernel_size, *frequency_kernels]
        require(
            self,
            at_least(1, channels=channels, blocks=blocks, time_pairs=time_pairs, frequency_pairs=frequency_pairs),
            at_least(1, kernel_size=kernel_size, time_kernels=time_kernels, frequency_kernels=frequency_kernels),
            at_least(1, pool_frames=pool_frames),
            (all(size % 2 == 1 for size in odd), f"{kernel_size=} and {list(frequency_kernels)=} must be odd"),
            within(0, 1, encoder_future=encoder_future, block_future=block_future, decoder_future=decoder_future),
            one_of(get_args(MagnitudeHead), head=head),
            one_of(get_args(PhaseInput), phase_input=phase_input),
            above(0, largest=1.0 if largest is None else largest, floor=floor),
            at_least(0, init_scale=init_scale),
            (0 < compression <= 1, f"compression={compression} must be above 0 and at most 1"),
            (
                n_fft % 4 == 0,
                f"n_fft={n_fft} must be a multiple of 4: half of the bins are then decoded to all of them",
            ),
        )
        bins = n_fft // 2 + 1
        encoder = DenseEncoder(
            (3 if phase_input == "direction" else 2) * in_channels,
            DenseDilatedBlock(channels, bins, depth, future_share=encoder_future),
        )
        half = encoder.out_bins
        stages: list[Stage] = []
        for _ in range(blocks):
            along_time = (time_pairs, kernel_size, time_kernels, pool_frames, block_future)
            along_frequency = (frequency_pairs, kernel_size, frequency_kernels, pool_frames, 0.0)
            stages.append(Stage(channels, half, "time", *along_time, init_scale))
            stages.append(Stage(channels, half, "frequency", *along_frequency, init_scale))
        decoders = (DenseDilatedBlock(channels, half, depth, future_share=decoder_future) for _ in range(2))
        magnitude_decoder, phase_decoder = MagnitudeDecoder(next(decoders)), PhaseDecoder(next(decoders))
        late = encoder.block.late + sum(stage.late for stage in stages) + phase_decoder.block.late
        super().__init__(
            sample_rate,
            in_channels,
            n_fft,
            hop_length,
            win_length,
            window,
            True,
            0,
            skip_channel,
            frequency_norm,
            late_frames=late,
        )
        self.only_masks = head == "mask"
        self.provides = ("spectrum", "mask") if head == "mask" else ("spectrum",)
        self.head, self.compression, self.floor = head, compression, floor
        self.phase_input, self.phase_skip = phase_input, phase_skip
        if largest is None:
            loudest = float(window_samples(window, win_length).sum())
            largest = 2.0 if head == "mask" else loudest**compression
        self.encoder = encoder
        self.stages = nn.Sequential(*stages)
        self.magnitude_decoder, self.phase_decoder = magnitude_decoder, phase_decoder
        self.bounded = LearnableSigmoid(bins, largest)
        self.sensor_wait = Delay(late, (2, bins))
        self.frequency_in = self.frequency_affine(in_channels, bins)
        self.frequency_out = self.frequency_affine(1, bins, kind="identity")
        self._initialise(largest, win_length)

    @torch.no_grad()
    def _initialise(self, largest: float, win_length: int) -> None:
        """Start from a mask of about 1, or from about the magnitude of faint noise."""
        noise = _INITIAL_LEVEL * (0.375 * win_length) ** 0.5  # under a Hann window
        start = min((1.0 if self.head == "mask" else noise**self.compression) / largest, 0.5)
        bias = self.magnitude_decoder.scale.bias
        assert bias is not None
        bias.copy_(torch.logit(torch.tensor([start])))

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return {"frequency_in": self._compressed(*sensors)}

    def _compressed(self, real: Tensor, imag: Tensor) -> Tensor:
        return magnitude(real, imag, self.floor**2).pow(self.compression)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        compressed = self.frequency_in(self._compressed(real, imag))
        x = torch.cat([compressed, *self._phases(real, imag)], dim=1)
        h = self.stages(self.encoder(x))
        decoded = self.frequency_out(self.magnitude_decoder(h).unsqueeze(1)).squeeze(1)
        size = self.bounded(decoded).pow(1 / self.compression)  # of a mask or of the magnitude, no longer compressed
        cosine, sine = self.phase_decoder(h)

        skip = torch.stack([real[:, self.skip_channel], imag[:, self.skip_channel]], dim=1)
        sensor_real, sensor_imag = self.sensor_wait(skip).unbind(1)
        if self.phase_skip:
            length = magnitude(sensor_real, sensor_imag, self.floor**2)
            cosine, sine = cosine + sensor_real / length, sine + sensor_imag / length
        per_length = (cosine.square() + sine.square() + PHASOR_EPS).rsqrt()
        gain = size * magnitude(sensor_real, sensor_imag, 1e-12) if self.head == "mask" else size
        parts = gain * per_length * cosine, gain * per_length * sine
        provided = {"spectrum": torch.stack(parts, dim=-1)}
        return parts, {**provided, "mask": size} if self.head == "mask" else provided

    def _phases(self, real: Tensor, imag: Tensor) -> tuple[Tensor, ...]:
        """Return the phases of all sensors as numbers of their own, ``(B, in_channels, F, N)`` each."""
        if self.phase_input == "direction":
            length = magnitude(real, imag, self.floor**2)
            return real / length, imag / length
        # no angle is computed in an empty bin: its gradient is unbounded at the origin
        empty = real.square() + imag.square() <= self.floor**2
        return (torch.atan2(imag.masked_fill(empty, 0.0), real.masked_fill(empty, 1.0)),)
