"""DCCRN, an encoder and decoder of complex convolutions around an LSTM, on spectrograms.

Hu et al., "DCCRN: Deep Complex Convolution Recurrent Network for Phase-Aware Speech Enhancement", Interspeech 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.complex import (
    ComplexConv2d,
    ComplexConvTranspose2d,
    ComplexLinear,
    ComplexLSTM,
    LinearPerPart,
    PReLUPerPart,
    complex_cat,
)
from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.precision import filter_tensor, full_precision
from bcfusion.nn.recurrent import LSTM
from bcfusion.nn.revision import Revised
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork
from bcfusion.nn.stft import Window, window_samples
from bcfusion.requirements import above, at_least, require


class EncoderBlock(nn.Module):
    """Complex convolution, batch norm, PReLU: ``(B, inputs, F, N) -> (B, outputs, F / 2, N)``.

    The kernel covers the present frame and those before it, whether the network is causal or not.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: Sequence[int], freq_bins: int, act: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        padding = _halving(kernel_size[0])
        self.conv = ComplexConv2d(inputs // 2, outputs // 2, kernel_size, freq_bins, 2, padding, causal=True)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = act()

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.activation(self.norm(self.conv(x))))


class DecoderBlock(nn.Module):
    """Complex transposed convolution, batch norm, PReLU: ``(B, inputs, F, N) -> (B, outputs, 2F, N)``.

    The last block of the network is a convolution only.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: Sequence[int],
        freq_bins: int,
        causal: bool,
        last: bool,
        act: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        padding, future = _halving(kernel_size[0]), 0 if causal else kernel_size[1] - 1
        self.conv = ComplexConvTranspose2d(
            inputs // 2, outputs // 2, kernel_size, freq_bins, 2, padding, causal=causal, future=future
        )
        self.after = nn.Identity() if last else nn.Sequential(nn.BatchNorm2d(outputs), act())

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.after(self.conv(x)))


class RealBottleneck(nn.Module):
    """LSTM layers and a dense layer back: ``(B, features, N)`` to the same shape; DCCRN-E's."""

    def __init__(self, features: int, units: int, layers: int) -> None:
        super().__init__()
        self.lstm = LSTM(features, units, layers)
        self.dense = nn.Linear(units, features)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.dense(self.lstm(x.transpose(1, 2)))).transpose(1, 2)


class ComplexBottleneck(Revised, nn.Sequential):
    """Complex LSTM layers and dense layers back: ``(B, features, N)`` to the same shape; DCCRN-CL's.

    ``features`` and ``units`` count real and imaginary parts. As in the authors' code the dense layers are real ones,
    one for either part, unless ``complex_dense`` makes them one complex layer.
    """

    revision = 2  # 1 ended with a complex dense layer

    def __init__(self, features: int, units: int, layers: int, complex_dense: bool = False) -> None:
        dense = ComplexLinear if complex_dense else LinearPerPart
        sizes = [features // 2] + [units // 2] * layers
        super().__init__(
            *(ComplexLSTM(before, after) for before, after in pairwise(sizes)),
            dense(sizes[-1], features // 2),
        )


class DCCRN(SpectralNetwork):
    """Spectrum to spectrum between an STFT and its inverse, ``(B, in_channels, T) -> (B, 1, T)`` for any T.

    Complex convolutions halve the number of bins at each level, an LSTM runs over the frames of the last, and the
    mirrored decoder receives the encoder's output of the same level in addition to its own. The network works on bins 1
    to ``n_fft / 2``, whose number can be halved; at bin 0 its output is zero. The estimate's bin 0 is thus empty with
    masks and ``mapping``, and that of the sensor with ``additive``.

    DCCRN-E: the defaults, 3,742,349 parameters. DCCRN-CL: ``channels=(32, 64, 128, 256, 256, 256), complex_lstm=True``,
    3,671,053. These are the published 3.742 M and 3.671 M. They hold for ordinary batch norm of real and imaginary
    channels, and with biases before it, though it cancels them: with the paper's complex batch norm they would be 3.743
    M and 3.672 M. With the wider channels DCCRN-E would have 4.720 M.

    The usual decoder uses the later frames of its kernels: each level looks one frame ahead, in total 6 x 100 samples
    in addition to the 300 of the STFT's overlap. This is ``causal=False``; the causal network uses the earlier frames.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors; their spectra are input channels.
        channels: after each level of the encoder, counting real and imaginary ones: even.
        kernel_size: along (frequency, frames).
        lstm_units: of each LSTM layer, counting real and imaginary ones.
        lstm_layers: number of LSTM layers.
        complex_lstm: the LSTM is complex (DCCRN-CL) instead of real (DCCRN-E).
        complex_dense: the dense layer after a complex LSTM is complex too, as the paper draws it; the authors' code has
            one real layer for each part.
        activation_per_part: each PReLU has one slope for real and one for imaginary parts, instead of one for both.
        inner_frames: use frames within the file only, in the STFT and in all convolutions, and a transform that keeps
            energy: windowed in the middle of ``n_fft`` samples, and scaled so that the inverse is the transpose. The
            network then works on bins 0 to ``n_fft / 2 - 1``, and the highest one is empty. Not causal; for networks
            that were trained so.
        head: meaning of the output, see :class:`bcfusion.nn.spectral.SpectralHead`; that of DCCRN-E and -CL is
            ``polar_mask``. With a mask the network also provides its magnitude, ``mask (B, F, N)``, 0 at bin 0.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        causal: no frame of look-ahead; the network streams in chunks of whole hops.
        skip_channel: the sensor that is masked or added to; -1 is the last (the air microphone, in fusion).
        init_output_scale: factor on the initial weights of the last convolution. At 0.3 the untrained network's output
            is below the spectrum of speech at -23 dBFS. A mask starts around 1.
        frequency_norm: ``learnable``: the network's input and its output, before the head uses it, are scaled bin by
            bin. They start from the training set, see :class:`bcfusion.nn.frequency_norm.FrequencyAffine`, that of a
            mask, which is shifted too, at 1 and 0. None: neither. Not with ``inner_frames``.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops, of the causal network only; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        delay: algorithmic latency in samples, ``win_length - 1`` and additional look-ahead if causal, otherwise one
            hop more per frame that the decoder looks ahead.
        provides: ``mask`` if the head is one.

    Raises:
        ConfigError: sizes that do not fit, an unknown head, or settings that exclude each other.
    """

    provides: tuple[str, ...] = ("mask",)
    lowest_bin = 1
    least_frame = 18.75e-3  # three hops: 37.5 ms with the look-ahead, below the 40 ms that the DNS Challenge allows
    window: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 256, 256),
        kernel_size: Sequence[int] = (5, 2),
        lstm_units: int = 256,
        lstm_layers: int = 2,
        complex_lstm: bool = False,
        complex_dense: bool = False,
        activation_per_part: bool = False,
        inner_frames: bool = False,
        head: Head = "polar_mask",
        n_fft: int = 512,
        hop_length: int = 100,
        win_length: int = 400,
        window: Window = "hann",
        causal: bool = False,
        skip_channel: int = -1,
        init_output_scale: float = 0.3,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
        step = 2 ** (len(channels) + 1)
        require(
            self,
            at_least(2, channels=channels),
            (all(width % 2 == 0 for width in channels), f"channels={list(channels)} must be even"),
            (
                len(kernel_size) == 2 and kernel_size[0] >= 2 and kernel_size[1] >= 1,
                f"kernel_size={list(kernel_size)} must be two numbers, of at least 2 bins and 1 frame",
            ),
            (n_fft > 0 and n_fft % step == 0, f"n_fft={n_fft} must be a multiple of {step}, twice 2 per level"),
            at_least(1, lstm_layers=lstm_layers, lstm_units=lstm_units),
            (not complex_lstm or lstm_units % 2 == 0, f"lstm_units={lstm_units} must be even in a complex LSTM"),
            (complex_lstm or not complex_dense, "complex_dense=True needs complex_lstm=True"),
            (not (causal and inner_frames), "inner_frames=True is impossible with causal=True: streams start anywhere"),
            (
                not (inner_frames and frequency_norm),
                "inner_frames=True is for imported networks, which have no frequency_norm: set one of both only",
            ),
            above(0, init_output_scale=init_output_scale),
        )
        ahead = 0 if causal else len(channels) * (kernel_size[1] - 1)
        super().__init__(
            sample_rate,
            in_channels,
            n_fft,
            hop_length,
            win_length,
            window,
            causal,
            ahead,
            skip_channel,
            frequency_norm,
            lookahead_ms,
        )
        self.inner_frames, self.context = inner_frames, kernel_size[1] - 1
        if inner_frames:
            self.lookahead = 0
            self.register_buffer("window", filter_tensor(window_samples(window, win_length)), persistent=False)
        act = PReLUPerPart if activation_per_part else nn.PReLU
        self.head = SpectralHead(head)
        self.provides = ("mask",) if self.head.masks else ()
        self.only_masks = self.head.masks

        widths = [2 * self.signals, *channels]
        bins = [n_fft // 2 >> level for level in range(len(widths))]
        self.encoder = nn.ModuleList(
            EncoderBlock(widths[level], widths[level + 1], kernel_size, bins[level], act)
            for level in range(len(channels))
        )
        features = widths[-1] * bins[-1]
        self.bottleneck = (
            ComplexBottleneck(features, lstm_units, lstm_layers, complex_dense)
            if complex_lstm
            else RealBottleneck(features, lstm_units, lstm_layers)
        )
        outputs = [2, *channels]
        self.decoder = nn.ModuleList(
            DecoderBlock(2 * outputs[level], outputs[level - 1], kernel_size, bins[level], causal, level == 1, act)
            for level in range(len(channels), 0, -1)
        )
        self.frequency_in = self.frequency_affine(self.signals, bins[0], parts=2)
        self.frequency_out = self.frequency_affine(1, bins[0], parts=2, kind=self.head.output_kind)
        self._initialise(init_output_scale)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        whole = self.head.statistics(sensors, target, self.skip_channel)
        return {name: values[:, :, 1:] for name, values in whole.items()}  # without bin 0

    @property
    def maps_spectra(self) -> bool:
        """Whether all that it does between its transforms is :meth:`spectrum`: not of inner frames."""
        return not self.inner_frames

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Map the parts ``(B, signals, F, N)`` of the signals' spectra to those of the estimate, ``(B, F, N)``."""
        h = self.frequency_in(torch.cat([real, imag], dim=1)[:, :, 1:])
        h = self.frequency_out(self._network(h))  # (B, 2, F - 1, N)
        output = F.pad(h, (0, 0, 1, 0))  # (B, 2, F, N), with bin 0
        sensor = real[:, self.skip_channel], imag[:, self.skip_channel]
        provided = {key: F.pad(y, (0, 0, 1, 0)) for key, y in self.head.provided((h[:, 0], h[:, 1])).items()}
        return self.head(sensor, (output[:, 0], output[:, 1])), provided

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Transform, apply the network, transform back: in all frames, or in those within the file."""
        if not self.inner_frames:
            return super().body(inputs)
        stft, samples = self.stft, inputs.shape[-1]
        hop, win_length, around = stft.hop_length, stft.win_length, (stft.n_fft - stft.win_length) // 2
        shortest = win_length + hop * self.context * len(self.encoder)  # leaves the LSTM one frame
        with full_precision(inputs):
            x = F.pad(inputs.to(self.window.dtype), (around, around + max(shortest - samples, 0))).flatten(0, 1)
            spectra = torch.stft(
                x, stft.n_fft, hop, win_length, self.window, center=False, normalized=False, return_complex=True
            )
        spectra = spectra.unflatten(0, inputs.shape[:2])[:, :, :-1]  # (B, in_channels, F - 1, N)
        scale = spectra.real.new_full((spectra.shape[2], 1), 2 * (hop / (win_length * stft.n_fft)) ** 0.5)
        scale[0] *= 0.5**0.5  # the lowest bin has no mirror image
        real, imag = scale * spectra.real, scale * spectra.imag
        h = self._network(torch.cat([real, imag], dim=1))  # (B, 2, F - 1, N)
        sensor, output = (real[:, self.skip_channel], imag[:, self.skip_channel]), (h[:, 0], h[:, 1])
        estimate = self._synthesis([F.pad(part / scale, (0, 0, 0, 1)) for part in self.head(sensor, output)])
        before = win_length // hop - 1  # frames that only the padded grid has
        provided = {key: F.pad(value, (before, before, 0, 1)) for key, value in self.head.provided(output).items()}
        estimate = estimate[..., :samples]
        return {"estimate": estimate, **provided} if provided else estimate

    def _synthesis(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the waveform ``(B, 1, T)`` of inner frames: windowed again, added, divided by the overlap inside."""
        stft, window = self.stft, self.window
        around = (stft.n_fft - stft.win_length) // 2
        with full_precision(parts[0]):
            real, imag = (part.to(window.dtype) for part in parts)
            frames = torch.fft.irfft(torch.complex(real, imag), stft.n_fft, dim=1)[:, around : around + len(window)]
            weighted = frames * (window * stft.hop_length / window.square().sum()).unsqueeze(-1)
            length = (frames.shape[-1] - 1) * stft.hop_length + len(window)
            return F.fold(weighted, (1, length), (1, len(window)), stride=(1, stft.hop_length))[:, :, 0]

    def _network(self, h: Tensor) -> Tensor:
        """Map ``(B, 2 signals, F - 1, N)`` to ``(B, 2, F - 1, N)``."""
        outside = self.context if self.inner_frames else 0  # frames that a kernel reaches before the file
        skips = []
        for encode in self.encoder:
            h = encode(h)[..., outside:]
            skips.append(h)
        h = self.bottleneck(h.flatten(1, 2)).unflatten(1, h.shape[1:3])  # (B, channels, (F - 1) / 2^levels, N)
        for decode in self.decoder:
            h = decode(F.pad(complex_cat(h, skips.pop()), (outside, 0)))
        return h

    def _initialise(self, output_scale: float) -> None:
        last = self.decoder[-1]
        assert isinstance(last, DecoderBlock)
        with torch.no_grad():
            last.conv.layer.weight.mul_(output_scale)
            assert last.conv.layer.bias is not None
            # b_r - b_i is added to the real part, b_r + b_i to the imaginary part: 1 and 0 for a mask
            last.conv.layer.bias.copy_(torch.tensor([0.5, -0.5] if self.head.masks else [0.0, 0.0]))


def _halving(bins: int) -> tuple[int, int]:
    """Return the padding (below, above) with which a kernel of ``bins`` and stride 2 halves an even number of bins."""
    below = (bins - 1) // 2
    return below, bins - 2 - below
