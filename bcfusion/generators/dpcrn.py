"""DPCRN: a convolutional encoder and decoder of spectra, between them recurrence along frequency and along time.

Le et al., "DPCRN: Dual-Path Convolution Recurrent Network for Single Channel Speech Enhancement", Interspeech 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.norm import InstanceNorm2d, InstantLayerNorm
from bcfusion.nn.recurrent import LSTM, along_bands, along_time, pointwise
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, one_of, require

Norm = Literal["batch", "instance"]

_NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "instance": InstanceNorm2d}


class ConvUnit(nn.Module):
    """A convolution, normalisation and PReLU (He et al. 2015) with one slope per channel: ``(B, C, F, N)`` to ``(B, C',
    F', N)``."""

    def __init__(self, conv: Conv2d | ConvTranspose2d, norm: Norm) -> None:
        super().__init__()
        self.conv = conv
        self.norm = _NORMS[norm](conv.out_channels)
        self.activation = nn.PReLU(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y


class DualPathBlock(nn.Module):
    """``(B, channels, F, N)`` to the same shape: along the bins of each frame, then along the frames of each bin.

    Either path is an LSTM, a linear layer and a layer normalisation, added to its input. The one along frequency runs
    both ways, with half of the channels each; the one along time runs forward only. Both normalisations are over
    (frequency, channels) of one frame, with a gain and shift per value: information passes from frame to frame only by
    the LSTM along time.
    """

    def __init__(self, channels: int, freq_bins: int) -> None:
        super().__init__()
        self.intra = nn.LSTM(channels, channels // 2, batch_first=True, bidirectional=True)
        self.intra_linear = nn.Linear(channels, channels)
        self.intra_norm = InstantLayerNorm(channels, freq_bins)
        self.inter = LSTM(channels, channels, streams=freq_bins)
        self.inter_linear = nn.Linear(channels, channels)
        self.inter_norm = InstantLayerNorm(channels, freq_bins)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.intra_norm(pointwise(self.intra_linear, along_bands(self.intra, x)))
        return x + self.inter_norm(pointwise(self.inter_linear, along_time(self.inter, x)))


class DPCRN(SpectralNetwork):
    """Causal generator ``(B, in_channels, T) -> (B, 1, T)`` for any T, on spectra of 25 ms frames.

    Real and imaginary parts of all sensors are normalised frame by frame (iLN) and encoded by strided convolutions;
    dual-path blocks follow; then a mirrored decoder, each layer of which also takes the output of its encoder layer as
    further channels. The last layer outputs a complex spectrum, without activation. Convolutions see the past and the
    present frame only. The defaults have 805,798 parameters (published: 0.8 M). With n sensors the first convolution
    and iLN grow.

    iLN removes the loudness of a frame. A mask does not need it; ``mapping`` and ``additive`` outputs are therefore
    multiplied by the deviation that iLN divided the frame by, over all sensors, so that a dead one does not silence the
    others; with additional look-ahead by that of the output's own frame.

    Batch norm is over all frames in training. At inference it is, like instance norm with tracked statistics, a fixed
    gain and shift: in training mode neither is causal.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: after each encoder layer; the last number is that of the dual-path blocks, and even.
        freq_kernels: of the encoder layers along frequency.
        freq_strides: of the encoder layers along frequency.
        time_kernel: of all convolutions along time, in frames.
        blocks: dual-path blocks.
        norm: of the convolutions: ``batch`` (the paper's), or ``instance``, which measures each item in training and
            uses the running averages of these measurements at inference.
        head: meaning of the output, see :class:`bcfusion.nn.spectral.SpectralHead`; the paper's is ``mask``, which
            cannot fill a band in which the sensor has no signal.
        n_fft: of the STFT, in samples.
        hop_length: likewise.
        win_length: likewise.
        window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        skip_channel: the sensor that is masked or added to; -1 is the last (the air microphone, in fusion).
        init_output_scale: factor on the initial weights of the last layer. Its bias starts at a mask of one, so that
            the untrained network returns about what this sensor recorded; with ``mapping``, little.
        frequency_norm: ``learnable``: the spectra of the sensors are scaled bin by bin before iLN; the output, with the
            loudness restored, before the head uses it. They start from the training set, see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`, that of a mask, which is shifted too, at 1 and 0. None:
            neither.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        delay: ``win_length - 1`` samples, and additional look-ahead.
        provides: ``mask``, the magnitude ``(B, F, N)`` of the mask, if the head is one.

    Raises:
        ConfigError: sizes that do not fit; another ``norm`` or ``head``.
    """

    provides: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 32, 32, 64, 128),
        freq_kernels: Sequence[int] = (5, 3, 3, 3, 3),
        freq_strides: Sequence[int] = (2, 2, 1, 1, 1),
        time_kernel: int = 2,
        blocks: int = 2,
        norm: Norm = "batch",
        head: Head = "additive",
        n_fft: int = 400,
        hop_length: int = 200,
        win_length: int = 400,
        window: Window = "sine",
        skip_channel: int = -1,
        init_output_scale: float = 0.3,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
        bins = _bins_of_levels(n_fft // 2 + 1, channels, freq_kernels, freq_strides)
        require(
            self,
            at_least(1, time_kernel=time_kernel, blocks=blocks),
            above(0, init_output_scale=init_output_scale),
            one_of(_NORMS, norm=norm),
        )
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
            lookahead_ms,
        )
        self.head = SpectralHead(head)
        self.provides = ("mask",) if self.head.masks else ()
        self.only_masks = self.head.masks
        self.input_norm = InstantLayerNorm(2 * self.signals, bins[0])
        widths = [2 * self.signals, *channels]
        encoder, decoder = [], []
        for level, (kernel, stride) in enumerate(zip(freq_kernels, freq_strides, strict=True)):
            size, padding = (kernel, time_kernel), _padding(bins[level], kernel, stride)
            inputs, width = widths[level], widths[level + 1]
            down = Conv2d(inputs, width, size, bins[level], (stride, 1), padding=padding, causal=True)
            encoder.append(ConvUnit(down, norm))
            outputs = inputs if level else 2  # of the last one: real and imaginary part
            up = ConvTranspose2d(2 * width, outputs, size, bins[level + 1], stride, padding, causal=True)
            decoder.append(ConvUnit(up, norm) if level else up)
        self.encoder = nn.ModuleList(encoder)
        self.blocks = nn.Sequential(*(DualPathBlock(channels[-1], bins[-1]) for _ in range(blocks)))
        self.decoder = nn.ModuleList(reversed(decoder))
        last = decoder[0]
        assert isinstance(last, ConvTranspose2d)
        assert last.bias is not None
        with torch.no_grad():
            last.weight.mul_(init_output_scale)
            last.bias.zero_()
            last.bias[0] = float(self.head.masks)
        self.frequency_in = self.frequency_affine(self.signals, bins[0], parts=2)
        self.frequency_out = self.frequency_affine(1, bins[0], parts=2, kind=self.head.output_kind)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return self.head.statistics(sensors, target, self.skip_channel)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        x = self.frequency_in(torch.cat([real, imag], dim=1))
        h = self.input_norm(x)
        skips = []
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
        h = self.blocks(h)
        for decode in self.decoder:
            h = decode(torch.cat([h, skips.pop()], dim=1))
        sensor = real[:, self.skip_channel], imag[:, self.skip_channel]
        if not self.head.masks:
            variance = self.parts_in_time(x).var((1, 2), unbiased=False, keepdim=True)  # of each frame
            h = h * (variance + self.input_norm.eps).sqrt()
        h = self.frequency_out(h)
        output = h[:, 0], h[:, 1]
        return self.head(sensor, output), self.head.provided(output)


def _padding(bins: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return zeros (below, above) for which a convolution gives ``bins // stride`` bins, its transpose ``bins``."""
    both = kernel - stride - bins % stride
    return both // 2, both - both // 2


def _bins_of_levels(bins: int, channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return the bins before the first and after each encoder layer.

    Raises:
        ConfigError: sizes that do not fit.
    """
    lengths = [len(channels), len(kernels), len(strides)]
    require(
        DPCRN,
        at_least(1, channels=channels, freq_kernels=kernels, freq_strides=strides),
        (len(set(lengths)) == 1, f"channels, freq_kernels and freq_strides have {lengths} entries: one per layer"),
        (not channels or channels[-1] % 2 == 0, f"channels={list(channels)} must end with an even number"),
    )
    levels = [bins]
    for kernel, stride in zip(kernels, strides, strict=True):
        covered = sum(_padding(levels[-1], kernel, stride)) >= 0 and levels[-1] >= stride
        require(DPCRN, (covered, f"a kernel of {kernel} at stride {stride} skips some of {levels[-1]} bins"))
        levels.append(levels[-1] // stride)
    return levels
