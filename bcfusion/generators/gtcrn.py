"""GTCRN: grouped convolutions and grouped recurrence on a spectrum, small enough for a microcontroller.

Rong et al., "GTCRN: A Speech Enhancement Model Requiring Ultralow Computational Resources", ICASSP 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.bands import erb
from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.norm import BatchNorm2d, InstantLayerNorm
from bcfusion.nn.precision import filter_tensor
from bcfusion.nn.recurrent import GRU, along_bands, along_time, pointwise
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork, magnitude
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, require

_NEIGHBOURS = 3  # bands that the subband features of one band are taken from


def erb_triangles(sample_rate: int, n_fft: int, low_bins: int, n_bands: int) -> np.ndarray:
    """Return weights ``(n_bands, F - low_bins)`` of triangular bands above the first ``low_bins`` bins.

    The centres divide the ERB-rate scale (Glasberg & Moore 1990) from bin ``low_bins`` to half the sample rate into
    equal parts, rounded to whole bins; a band falls to 0 at the centres of its neighbours. The weights of a bin sum to
    one.

    Args:
        sample_rate: in Hz.
        n_fft: points of the transform; F = n_fft // 2 + 1.
        low_bins: bins below the bands.
        n_bands: bands, at least 2.

    Raises:
        ConfigError: there are no bins for them, or two centres fall on one bin.
    """
    bins = n_fft // 2 + 1
    require("GTCRN", at_least(1, low_bins=low_bins), at_least(2, bands=n_bands))
    enough = low_bins + n_bands <= bins
    require("GTCRN", (enough, f"low_bins={low_bins} and bands={n_bands} are more than the {bins} bins of the spectrum"))
    lowest, highest = erb(np.array([low_bins * sample_rate / n_fft, sample_rate / 2]))
    frequencies = (10.0 ** (np.linspace(lowest, highest, n_bands) / 21.4) - 1.0) / 0.00437
    centres = np.round(frequencies * n_fft / sample_rate)
    spaced = bool((np.diff(centres) > 0).all())
    require("GTCRN", (spaced, f"bands={n_bands} above bin {low_bins} are narrower than a bin: take fewer of them"))
    above_bins = np.arange(low_bins, bins)
    return np.stack([np.interp(above_bins, centres, row) for row in np.eye(n_bands)])


class SubbandFeatures(nn.Module):
    """Each band beside its neighbours: ``(B, C, K, N)`` to ``(B, 3 C, K, N)``, zeros beyond the outermost bands."""

    def forward(self, x: Tensor) -> Tensor:
        side = _NEIGHBOURS // 2
        padded = F.pad(x, (0, 0, side, side))
        bands = x.shape[2]
        return torch.stack([padded[:, :, k : k + bands] for k in range(_NEIGHBOURS)], dim=2).flatten(1, 2)


class TemporalAttention(nn.Module):
    """Temporal recurrent attention: a gain in (0, 1) per channel and frame, from the power of this and earlier frames.

    ``(B, C, K, N)`` to the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.recurrence = GRU(channels, 2 * channels)
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        power = (x * x).mean(2)  # (B, C, N)
        gain = torch.sigmoid(self.linear(self.recurrence(power.transpose(1, 2)))).transpose(1, 2)
        return x * gain[:, :, None]


class GroupedBlock(nn.Module):
    """Grouped temporal convolution: ``(B, channels, bands, N)`` to the same shape.

    One half of the channels passes two pointwise convolutions, between them a depthwise one over three bands and three
    frames, and temporal attention; the other half is left as it is. Then both are interleaved, so that the next block
    works on parts of both.
    """

    def __init__(self, channels: int, bands: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        self.features = SubbandFeatures()
        self.widen = nn.Sequential(
            Conv2d(_NEIGHBOURS * half, channels, (1, 1), bands, causal=True), BatchNorm2d(channels), nn.PReLU()
        )
        depthwise = Conv2d(
            channels, channels, (3, 3), bands, dilation=(1, dilation), padding=(1, 1), groups=channels, causal=True
        )
        self.depthwise = nn.Sequential(depthwise, BatchNorm2d(channels), nn.PReLU())
        self.narrow = nn.Sequential(Conv2d(channels, half, (1, 1), bands, causal=True), BatchNorm2d(half))
        self.attention = TemporalAttention(half)

    def forward(self, x: Tensor) -> Tensor:
        changed, kept = x.chunk(2, dim=1)
        changed = self.attention(self.narrow(self.depthwise(self.widen(self.features(changed)))))
        return torch.stack([changed, kept], dim=2).flatten(1, 2)


class _Grouped(nn.Module):
    """Two recurrent layers side by side, ``(B, N, C)`` to ``(B, N, C)``, each for one half of the channels."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.groups = nn.ModuleList([first, second])

    def forward(self, x: Tensor) -> Tensor:
        outputs = [group(part) for group, part in zip(self.groups, x.chunk(2, dim=-1), strict=True)]
        return torch.cat([y if isinstance(y, Tensor) else y[0] for y in outputs], dim=-1)


class GroupedDualPath(nn.Module):
    """``(B, channels, bands, N)`` to the same shape: along the bands of each frame, then along the frames of each band.

    Either path is a pair of GRUs, a linear layer, which mixes the two groups, and a layer normalisation over (bands,
    channels) of one frame, added to its input. Along the bands the GRUs run both ways, along the frames forward only.
    """

    def __init__(self, channels: int, bands: int) -> None:
        super().__init__()
        half = channels // 2
        along_frequency = (nn.GRU(half, half // 2, batch_first=True, bidirectional=True) for _ in range(2))
        self.intra = _Grouped(*along_frequency)
        self.intra_linear = nn.Linear(channels, channels)
        self.intra_norm = InstantLayerNorm(channels, bands, eps=1e-8)
        self.inter = _Grouped(*(GRU(half, half, streams=bands) for _ in range(2)))
        self.inter_linear = nn.Linear(channels, channels)
        self.inter_norm = InstantLayerNorm(channels, bands, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.intra_norm(pointwise(self.intra_linear, along_bands(self.intra, x)))
        return x + self.inter_norm(pointwise(self.inter_linear, along_time(self.inter, x)))


class GTCRN(SpectralNetwork):
    """Causal generator ``(B, in_channels, T) -> (B, 1, T)`` for any T, of 27,765 parameters.

    Magnitude, real and imaginary part of each sensor's spectrum pass two strided convolutions, three grouped temporal
    blocks with growing dilation, two grouped dual-path blocks, and a mirrored decoder whose layers add the output of
    their encoder layer. Convolutions see the past and the present frame only.

    The published network is ``head="mask", bands=64``: the lowest ``low_bins`` bins are kept, those above are summed
    into triangles on the ERB scale, and the output is interpolated back. It is a complex ratio mask whose parts are
    bounded by tanh (with ``frequency_norm`` before they are scaled). That network has 23,669 parameters, or 48,245 with
    the two fixed matrices of the bands, which the paper counts. A mask cannot fill a band in which the sensor has no
    signal, nor can one value be the spectrum of a band of bins: the other heads, of which ``additive`` is the default,
    keep all bins.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: of all layers; a multiple of 4.
        dilations: of the grouped blocks of the encoder, in frames; the decoder has them in reverse.
        blocks: dual-path blocks.
        low_bins: bins that are not compressed, if there are bands.
        bands: above them, at least 2; None: all bins are kept, as heads other than masks need.
        head: meaning of the output, see :class:`bcfusion.nn.spectral.SpectralHead`.
        n_fft: of the STFT, in samples.
        hop_length: likewise.
        win_length: likewise.
        window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        skip_channel: the sensor that is masked or added to; -1 is the last (the air microphone, in fusion).
        init_output_scale: factor on the initial output. A mask starts near one, so that the untrained network returns
            about what this sensor recorded.
        frequency_norm: ``learnable``: the spectra of all channels and the output, before the head uses it, are scaled
            bin by bin; both start from the training set, see :class:`bcfusion.nn.frequency_norm.FrequencyAffine`, that
            of a mask, which is shifted too, at 1 and 0. None: neither.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        delay: ``win_length - 1`` samples, and additional look-ahead.
        provides: ``mask``, the magnitude ``(B, F, N)`` of the mask, if the head is one.

    Raises:
        ConfigError: sizes that do not fit, another ``head``, or bands without a mask.
    """

    provides: tuple[str, ...] = ("mask",)
    bands_to_bins: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 16,
        dilations: Sequence[int] = (1, 2, 5),
        blocks: int = 2,
        low_bins: int = 65,
        bands: int | None = None,
        head: Head = "additive",
        n_fft: int = 512,
        hop_length: int = 256,
        win_length: int = 512,
        window: Window = "sqrt_hann",
        skip_channel: int = -1,
        init_output_scale: float = 0.3,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
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
        widest = self.stft.bins if bands is None else low_bins + bands
        require(
            self,
            at_least(1, channels=channels, dilations=dilations, blocks=blocks),
            (channels % 4 == 0, f"channels={channels} must be a multiple of 4"),
            above(0, init_output_scale=init_output_scale),
            (widest % 4 == 1, f"{widest} bands of the first layer must be one more than a multiple of 4"),
            (bands is None or self.head.masks, f"head={head} needs bands=null: bands can only be masked"),
        )
        self.provides = ("mask",) if self.head.masks else ()
        self.only_masks = self.head.masks
        self.low_bins = self.stft.bins if bands is None else low_bins
        if bands is not None:
            weights = filter_tensor(erb_triangles(sample_rate, n_fft, low_bins, bands).T)
            self.register_buffer("bands_to_bins", weights, persistent=False)
        middle, narrow = (widest + 1) // 2, (widest + 3) // 4
        self.features = SubbandFeatures()
        first = Conv2d(9 * self.signals, channels, (5, 1), widest, (2, 1), padding=(2, 2), causal=True)
        second = Conv2d(channels, channels, (5, 1), middle, (2, 1), padding=(2, 2), groups=2, causal=True)
        self.encoder = nn.ModuleList(
            [
                nn.Sequential(first, BatchNorm2d(channels), nn.PReLU()),
                nn.Sequential(second, BatchNorm2d(channels), nn.PReLU()),
                *(GroupedBlock(channels, narrow, dilation) for dilation in dilations),
            ]
        )
        self.blocks = nn.Sequential(*(GroupedDualPath(channels, narrow) for _ in range(blocks)))
        third = ConvTranspose2d(channels, channels, (5, 1), narrow, 2, (2, 2), groups=2, causal=True)
        last = ConvTranspose2d(channels, 2, (5, 1), middle, 2, (2, 2), causal=True)
        last_norm = BatchNorm2d(2)
        with torch.no_grad():
            last_norm.weight.fill_(init_output_scale)
            last_norm.bias[0] = float(self.head.masks)
        self.decoder = nn.ModuleList(
            [
                *(GroupedBlock(channels, narrow, dilation) for dilation in reversed(dilations)),
                nn.Sequential(third, BatchNorm2d(channels), nn.PReLU()),
                nn.Sequential(last, last_norm, nn.Tanh() if head == "mask" else nn.Identity()),
            ]
        )

        self.frequency_in = self.frequency_affine(self.signals, self.stft.bins, parts=2)
        self.frequency_out = self.frequency_affine(1, self.stft.bins, parts=2, kind=self.head.output_kind)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return self.head.statistics(sensors, target, self.skip_channel)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        scaled_real, scaled_imag = self.frequency_in(torch.cat([real, imag], dim=1)).chunk(2, dim=1)
        x = torch.cat([magnitude(scaled_real, scaled_imag, eps=1e-12), scaled_real, scaled_imag], dim=1)
        h = self.features(self._compressed(x))
        skips = []
        for encode in self.encoder:
            h = encode(h)
            skips.append(h)
        h = self.blocks(h)
        for decode in self.decoder:
            h = decode(h + skips.pop())
        h = self.frequency_out(self._expanded(h))
        output = h[:, 0], h[:, 1]
        sensor = real[:, self.skip_channel], imag[:, self.skip_channel]
        return self.head(sensor, output), self.head.provided(output)

    def _compressed(self, x: Tensor) -> Tensor:
        """Sum the upper bins of ``(B, C, F, N)`` into bands."""
        if self.low_bins == self.stft.bins:
            return x
        return torch.cat([x[:, :, : self.low_bins], self.bands_to_bins.T @ x[:, :, self.low_bins :]], dim=2)

    def _expanded(self, x: Tensor) -> Tensor:
        """Interpolate the bins ``(B, C, F, N)`` from what :meth:`_compressed` gives."""
        if self.low_bins == self.stft.bins:
            return x
        return torch.cat([x[:, :, : self.low_bins], self.bands_to_bins @ x[:, :, self.low_bins :]], dim=2)
