"""Two branches: how much of the air microphone to keep, and what to replace the rest with.

A mask is the confidence in the noisy air microphone in each bin; where it is low, speech is mapped from the body
sensor. A mask alone can clean the air microphone but fills no band that is lost in noise; mapping alone has to guess
what the air microphone still records well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.norm import FrameLayerNorm
from bcfusion.nn.recurrent import GRU
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork, magnitude
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, require


class Encoder(nn.Module):
    """Strided convolutions along frequency; returns the outputs of all its levels."""

    def __init__(self, inputs: int, bins: int, channels: Sequence[int], kernel_size: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        side = kernel_size[0] // 2
        for width in channels:
            layer = Conv2d(inputs, width, kernel_size, bins, (2, 1), padding=(side, side), causal=True)
            self.layers.append(layer)
            self.norms.append(FrameLayerNorm(width, eps=1e-5))
            inputs, bins = width, layer.out_bins
        self.out_bins = bins

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(B, inputs, F, N)`` to one ``(B, width, F', N)`` per level."""
        levels = []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nn.functional.elu(norm(layer(x)))
            levels.append(x)
        return levels


class Decoder(nn.Module):
    """The encoder mirrored; each level takes the sum of the output below and of the encoder's output at that level."""

    def __init__(self, encoder: Encoder, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        convolutions = [layer for layer in encoder.layers if isinstance(layer, Conv2d)]
        for depth, layer in enumerate(reversed(convolutions)):
            last = depth == len(convolutions) - 1
            width = outputs if last else layer.in_channels
            kernel_size, bins = layer.kernel_size, layer.out_bins
            cut = (bins - 1) * 2 + kernel_size[0] - layer.below - layer.freq_bins  # leaves the encoder's input bins
            up = ConvTranspose2d(layer.out_channels, width, kernel_size, bins, 2, (layer.below, cut), causal=True)
            self.layers.append(up)
            self.norms.append(nn.Identity() if last else FrameLayerNorm(width, eps=1e-5))

    def forward(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        """Map ``(B, width, F', N)`` of the deepest level, and the encoder's levels, to ``(B, outputs, F, N)``."""
        for depth, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x + levels[-1 - depth]))
            x = x if depth == len(self.layers) - 1 else nn.functional.elu(x)
        return x


class TwoBranch(SpectralNetwork):
    """``estimate = confidence * air + (1 - confidence) * mapped``, complex spectra, the confidence real, in every bin.

    One encoder processes the air microphone, one the body sensors; the recurrence over time receives both, since the
    signal of the body sensor separates speech from noise; one decoder computes the confidence, from the air's levels,
    one the mapped spectrum, from the body's. With a single sensor both encoders process it: it is kept where it is
    good, and replaced where it is empty. The mapping starts from the first body sensor, whose low bands are free of
    noise and good already.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        channels: of the encoders' levels, each of which halves the bins.
        kernel_size: (frequency, frames); the former odd.
        hidden_size: of the recurrence.
        num_layers: of the recurrence.
        compression: exponent on the magnitudes at the encoders' input.
        head: relation of the mapping's output to the first body sensor, see :class:`bcfusion.nn.spectral.SpectralHead`.
        init_output_scale: factor on the initial weights of the mapping's last layer.
        skip_channel: the air microphone; -1 is the last sensor.
        frequency_norm: ``learnable``: the inputs of both encoders and the output of the mapping, before the head uses
            it, are scaled bin by bin, from the training set's statistics on; the confidence, before the sigmoid, and a
            mask are scaled and shifted from 1 and 0 on. See :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. None:
            none of these.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        provides: ``mask``, the confidence ``(B, F, N)``.

    Raises:
        ConfigError: sizes that do not fit.
    """

    provides = ("mask",)
    hears_all = False

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 2,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "sqrt_hann",
        channels: Sequence[int] = (16, 32, 32, 48, 48),
        kernel_size: Sequence[int] = (5, 2),
        hidden_size: int = 256,
        num_layers: int = 2,
        compression: float = 0.3,
        head: Head = "additive",
        init_output_scale: float = 0.1,
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self,
            (
                len(kernel_size) == 2 and kernel_size[0] >= 3 and kernel_size[0] % 2 == 1,
                f"kernel_size={list(kernel_size)} must be two numbers, the first odd and above 1",
            ),
            at_least(1, channels=channels),
            (0 < compression <= 1, f"compression={compression} must be above 0 and at most 1"),
            above(0, init_output_scale=init_output_scale),
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
        kernel = (kernel_size[0], kernel_size[1])
        self.compression = compression
        air = skip_channel % in_channels
        body = [sensor for sensor in range(in_channels) if sensor != air] or [air]
        copies = range(0, self.signals, in_channels)  # with additional look-ahead the last ones are in time
        self.air_signals = [copy + air for copy in copies]
        self.body_signals = [copy + sensor for copy in copies for sensor in body]
        self.air, self.first_body = copies[-1] + air, copies[-1] + body[0]
        self.air_encoder = Encoder(2 * len(self.air_signals), self.stft.bins, channels, kernel)
        self.body_encoder = Encoder(2 * len(self.body_signals), self.stft.bins, channels, kernel)
        width = channels[-1] * self.air_encoder.out_bins
        self.recurrence = GRU(2 * width, hidden_size, num_layers)
        self.from_recurrence = nn.Linear(hidden_size, 2 * width)
        self.confidence = Decoder(self.air_encoder, 1)
        self.mapping = Decoder(self.body_encoder, 2)
        self.head = SpectralHead(head)
        self.keeps_noise = self.head.masks
        last = self.mapping.layers[-1]
        assert isinstance(last, ConvTranspose2d)
        assert last.bias is not None
        with torch.no_grad():
            last.weight.mul_(init_output_scale)
            last.bias.zero_()
        bins = self.stft.bins
        self.air_frequency_in = self.frequency_affine(len(self.air_signals), bins, parts=2)
        self.body_frequency_in = self.frequency_affine(len(self.body_signals), bins, parts=2)
        self.confidence_frequency_out = self.frequency_affine(1, bins, kind="identity")
        self.frequency_out = self.frequency_affine(1, bins, parts=2, kind=self.head.output_kind)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        real, imag = sensors
        first = self.first_body
        return {
            "air_frequency_in": self._compressed(real[:, self.air_signals], imag[:, self.air_signals]),
            "body_frequency_in": self._compressed(real[:, self.body_signals], imag[:, self.body_signals]),
            "frequency_out": torch.stack(self.head.wanted((real[:, first], imag[:, first]), target), dim=1),
        }

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        air = (real[:, self.air], imag[:, self.air])
        air_spectrum = self._compressed(real[:, self.air_signals], imag[:, self.air_signals])
        body_spectra = self._compressed(real[:, self.body_signals], imag[:, self.body_signals])
        air_levels = self.air_encoder(self.air_frequency_in(air_spectrum))
        body_levels = self.body_encoder(self.body_frequency_in(body_spectra))
        deepest = torch.cat([air_levels[-1], body_levels[-1]], dim=1)  # (B, 2 width, F', N)
        h = self.from_recurrence(self.recurrence(deepest.flatten(1, 2).transpose(1, 2)))
        air_h, body_h = h.transpose(1, 2).unflatten(1, deepest.shape[1:3]).chunk(2, dim=1)
        mask = torch.sigmoid(self.confidence_frequency_out(self.confidence(air_h, air_levels)))[:, 0]
        output = self.frequency_out(self.mapping(body_h, body_levels))
        first = self.first_body
        mapped = self.head((real[:, first], imag[:, first]), (output[:, 0], output[:, 1]))
        estimate = mask * air[0] + (1 - mask) * mapped[0], mask * air[1] + (1 - mask) * mapped[1]
        return estimate, {"mask": mask}

    def _compressed(self, real: Tensor, imag: Tensor) -> Tensor:
        """Return ``(B, 2 S, F, N)`` with compressed magnitudes and the same phases."""
        gain = magnitude(real, imag) ** (self.compression - 1)
        return torch.cat([gain * real, gain * imag], dim=1)
