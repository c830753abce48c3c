"""BSRNN: the spectrum split into bands, recurrence along time and across bands in turn, a complex output per band.

Luo & Yu, "Music Source Separation With Band-Split RNN", IEEE/ACM TASLP 2023; for speech: Yu et al., "High Fidelity
Speech Enhancement with Band-split RNN", Interspeech 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.frequency_norm import FrequencyNorm
from bcfusion.nn.norm import FrameLayerNorm, GroupNorm
from bcfusion.nn.recurrent import LSTM, along_bands, along_time
from bcfusion.nn.spectral import Complex, Head, SpectralHead, SpectralNetwork
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, require

# Power of a bin's real or imaginary part, 38 dB below that of speech at -23 dBFS in frames of 512 samples: quieter
# input is not amplified any further, so that pauses stay quiet at the output.
LEVEL_FLOOR = 1e-4

_FEW = 8  # frames of a step that is exported


def speech_band_widths(sample_rate: int) -> list[float]:
    """Return widths in Hz, lowest band first: 200 Hz up to 4 kHz, 500 Hz up to 7 kHz, then 2 kHz (a split for speech).

    The last band ends at half the sample rate; a remainder of less than half of its full width joins the band below. 27
    bands at 16 kHz, the last one 1 kHz wide; 20 at 8 kHz; 35 at 48 kHz.
    """
    top = sample_rate / 2
    widths: list[float] = []
    position = 0.0
    while position < top:
        full = 200.0 if position < 4000 else 500.0 if position < 7000 else 2000.0
        width = min(full, top - position)
        if widths and width < full / 2:
            widths[-1] += width
        else:
            widths.append(width)
        position += width
    return widths


def bins_of_bands(widths: Sequence[float], sample_rate: int, n_fft: int) -> list[int]:
    """Return the number of bins in each band of these widths in Hz: from its lower edge to below its upper one.

    Raises:
        ConfigError: widths that do not add up to half the sample rate (within a bin), or a band without a bin.
    """
    top, spacing = sample_rate / 2, sample_rate / n_fft
    edges = list(accumulate(widths))
    complete = bool(edges) and abs(edges[-1] - top) <= spacing
    require(
        "BSRNN",
        above(0, band_widths=widths),
        (complete, f"band_widths={list(widths)} must add up to {top:g} Hz"),
    )
    counts = [0] * len(edges)
    for f in range(n_fft // 2 + 1):
        counts[sum(f * spacing >= edge for edge in edges[:-1])] += 1
    empty = [f"{width:g}" for width, count in zip(widths, counts, strict=True) if not count]
    require(
        "BSRNN",
        (not empty, f"band_widths of {', '.join(empty)} Hz hold no bin of n_fft={n_fft}, {spacing:g} Hz apart"),
    )
    return counts


class BandSplit(nn.Module):
    """``(B, inputs, F, N) -> (B, channels, K, N)``: each band's bins are normalised and mapped by a layer of their own.

    The normalisation is over a band's inputs and bins, of one frame if causal, otherwise of the whole file. It has no
    gain and shift, which the linear layer after it provides. A band's loudness from frame to frame, and with it the
    envelope of the spectrum, is what makes speech intelligible; the causal normalisation removes it, which is why the
    logarithm of the divisor is one more input of that layer.

    All bands are computed in one product, on bins gathered to ``(K, widest band)``.

    Args:
        widths: of the bands, in bins.
        inputs: real and imaginary parts of the sensors.
        channels: of a band's features.
        causal: see above.
        eps: added to the variance.
    """

    index: Tensor
    filled: Tensor
    counts: Tensor

    def __init__(self, widths: Sequence[int], inputs: int, channels: int, causal: bool, eps: float = 1e-8) -> None:
        super().__init__()
        self.causal, self.eps = causal, eps
        bins, widest = sum(widths), max(widths)
        first = [end - width for end, width in zip(accumulate(widths), widths, strict=True)]
        index = [
            [start + w if w < width else bins for w in range(widest)]  # bin F, a zero, fills narrow bands
            for start, width in zip(first, widths, strict=True)
        ]
        self.register_buffer("index", torch.tensor(index), persistent=False)
        filled = [[float(w < width) for w in range(widest)] for width in widths]
        self.register_buffer("filled", torch.tensor(filled).unsqueeze(-1), persistent=False)
        counts = [float(inputs * width) for width in widths]
        self.register_buffer("counts", torch.tensor(counts).view(-1, 1, 1), persistent=False)
        self.weight = nn.Parameter(torch.empty(bins, inputs, channels))
        self.bias = nn.Parameter(torch.zeros(channels, len(widths), 1))
        with torch.no_grad():  # inputs of unit variance to outputs of unit variance
            for start, width in zip(first, widths, strict=True):
                bound = math.sqrt(3 / (inputs * width))
                nn.init.uniform_(self.weight[start : start + width], -bound, bound)
        if causal:
            self.level_weight = nn.Parameter(torch.empty(channels, len(widths), 1).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Process whole spectrograms or chunks, of any number of frames."""
        gathered = F.pad(x, (0, 0, 0, 1))[:, :, self.index]  # (B, inputs, K, widest, N)
        over: tuple[int, ...] = (1, 3)
        counts = self.counts
        if not self.causal:
            over, counts = (1, 3, 4), counts * x.shape[-1]
        centred = (gathered - gathered.sum(over, keepdim=True) / counts) * self.filled
        variance = centred.square().sum(over, keepdim=True) / counts + self.eps
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, 1))[self.index]  # (K, widest, inputs, channels)
        normal = (centred * variance.rsqrt()).permute(2, 0, 4, 3, 1)  # (K, B, N, widest, inputs)
        products = normal.flatten(3).flatten(1, 2) @ weight.flatten(1, 2)  # (K, B N, channels)
        y = products.unflatten(1, normal.shape[1:3]).permute(1, 3, 0, 2) + self.bias
        return y + self.level_weight * 0.5 * variance.log10().squeeze(3) if self.causal else y


class RecurrentLayer(nn.Module):
    """An LSTM and a linear layer back to its inputs, over the second dimension of ``(batch, steps, channels)``."""

    def __init__(self, lstm: nn.LSTM | LSTM, channels: int, rnn_channels: int) -> None:
        super().__init__()
        self.lstm = lstm
        self.linear = nn.Linear(rnn_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lstm(x)
        output: Tensor = self.linear(y if isinstance(y, Tensor) else y[0])
        return output


class BandTimeBlock(nn.Module):
    """``(B, channels, K, N)`` to the same shape: along the frames of each band, then along the bands of each frame.

    Both are residual, with normalised input: over (channels, bands) of each frame if causal, otherwise over the file.
    """

    def __init__(self, channels: int, bands: int, rnn_channels: int, causal: bool) -> None:
        super().__init__()
        both = rnn_channels // 2
        time = LSTM(channels, rnn_channels if causal else both, bidirectional=not causal, causal=causal, streams=bands)
        self.time_norm = FrameLayerNorm(channels) if causal else GroupNorm(1, channels)
        self.time = RecurrentLayer(time, channels, rnn_channels)
        self.band_norm = FrameLayerNorm(channels) if causal else GroupNorm(1, channels)
        across = nn.LSTM(channels, both, batch_first=True, bidirectional=True)
        self.band = RecurrentLayer(across, channels, rnn_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + along_time(self.time, self.time_norm(x))
        return x + along_bands(self.band, self.band_norm(x))


class BandMlp(nn.Module):
    """``(B, channels, K, N) -> (B, 2, F, N)``: normalisation, a hidden layer with tanh, an output with GLU, per band.

    Normalised over the channels of a band, of one frame if causal, otherwise of the whole file; gain and shift are left
    to the hidden layer.

    Args:
        widths: of the bands, in bins.
        channels: of a band's features.
        hidden: units of the hidden layer of each band.
        causal: see above.
        scale: of the initial output.
        start: mean of the real part of the initial output.
        eps: added to the variance.
    """

    band_of_bin: Tensor
    bins_of_band: Tensor
    place_of_bin: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        hidden: int,
        causal: bool,
        scale: float,
        start: float,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.over, self.eps = (1,) if causal else (1, 3), eps
        band_of_bin = [band for band, width in enumerate(widths) for _ in range(width)]
        self.register_buffer("band_of_bin", torch.tensor(band_of_bin), persistent=False)
        widest, places = max(widths), [(band, place) for band, width in enumerate(widths) for place in range(width)]
        bins_of_band = torch.full((len(widths), widest), sum(widths))  # bin F, a zero, fills narrow bands
        for number, (band, place) in enumerate(places):
            bins_of_band[band, place] = number
        self.register_buffer("bins_of_band", bins_of_band, persistent=False)
        place_of_bin = torch.tensor([band * widest + place for band, place in places])
        self.register_buffer("place_of_bin", place_of_bin, persistent=False)
        self.hidden_weight = nn.Parameter(torch.empty(len(widths), channels, hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(len(widths), 1, 1, hidden))
        self.output_weight = nn.Parameter(torch.empty(sum(widths), hidden, 4))  # real, imaginary, and a gate for each
        self.output_bias = nn.Parameter(torch.zeros(4, sum(widths), 1))
        nn.init.uniform_(self.hidden_weight, -math.sqrt(3 / channels), math.sqrt(3 / channels))
        nn.init.uniform_(self.output_weight, -scale * math.sqrt(3 / hidden), scale * math.sqrt(3 / hidden))
        with torch.no_grad():
            self.output_bias[0] = 2 * start  # the gate, a sigmoid, starts at a half

    def forward(self, x: Tensor) -> Tensor:
        """Process whole spectrograms or chunks, of any number of frames."""
        centred = x - x.mean(self.over, keepdim=True)
        x = centred * (centred.square().mean(self.over, keepdim=True) + self.eps).rsqrt()
        batch, _, _, frames = x.shape
        h = x.permute(2, 0, 3, 1).flatten(1, 2) @ self.hidden_weight  # (K, B N, hidden)
        h = torch.tanh(h + self.hidden_bias.flatten(1, 2))
        if torch.compiler.is_exporting() and isinstance(frames, int) and frames <= _FEW:
            # one product for each band, of as many bins as the widest one has, in place of one for each bin
            weight = F.pad(self.output_weight, (0, 0, 0, 0, 0, 1))[self.bins_of_band]  # (K, widest, hidden, 4)
            y = (h @ weight.permute(0, 2, 1, 3).flatten(2)).unflatten(2, (-1, 4)).transpose(1, 2)
            y = y.flatten(0, 1).index_select(0, self.place_of_bin)  # (F, B N, 4)
        else:
            y = h[self.band_of_bin] @ self.output_weight
        y = y.unflatten(1, (batch, frames)).permute(1, 3, 0, 2) + self.output_bias
        return F.glu(y, dim=1)


class BSRNN(SpectralNetwork):
    """Generator ``(B, in_channels, T) -> (B, 1, T)`` for any T, on spectra that are split into bands.

    Each band's bins, of all sensors, become ``channels`` features. ``layers`` blocks follow, each an LSTM along time,
    the same for all bands, and an LSTM across the bands, which runs both ways and stays within its frame. Each band's
    features become its bins of a complex spectrum, whose meaning is set by ``head``.

    The two published sizes: N128 L6, about 11.4 M, is the defaults, 11.50 M. N64 L5, about 3.0 M, is ``channels=64,
    layers=5, rnn_channels=256, mlp_channels=64, causal=True``, 3.02 M: an LSTM that runs one way has as many outputs as
    one that runs both ways, hence twice the units of one direction. ``mlp_channels``, 2N and N, is derived from the
    published counts at this STFT and split; at 4N they would be 12.66 M and 3.56 M.

    The loudness that the normalisation of the input removes is restored in ``mapping`` and ``additive`` outputs: they
    are multiplied by the root mean square of all sensors, of the frame if causal, otherwise of the file. Unlike a
    band's own loudness this is not zero if a band is empty at the input.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: N, features of a band.
        layers: L, blocks of two LSTMs.
        rnn_channels: outputs of an LSTM, of both directions together; even.
        mlp_channels: hidden units of each band's output layers.
        band_widths: in Hz, lowest first, half the sample rate in total; None: :func:`speech_band_widths`.
        causal: the LSTM along time runs forward only and normalisation is frame by frame: the network streams.
            Otherwise it depends on the whole file.
        head: see :class:`bcfusion.nn.spectral.SpectralHead`; the papers' is ``mask``, which cannot fill a band in which
            the sensor has no signal.
        n_fft: of the STFT, in samples.
        hop_length: likewise.
        win_length: likewise.
        window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        skip_channel: the sensor that is masked or added to; -1 is the last (the air microphone, in fusion).
        init_output_scale: of the initial output weights. A mask starts around one: the untrained network returns about
            what this sensor recorded; with ``mapping``, little.
        frequency_norm: ``learnable``: the spectra of the sensors are scaled bin by bin before they are split; the
            output, with the loudness restored, before the head uses it. They start from the training set, see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`, that of a mask, which is shifted too, at 1 and 0. None:
            neither.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops, of the causal network only; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        delay: ``win_length - 1`` samples and additional look-ahead if causal, otherwise None.
        band_bins: number of bins per band.
        provides: ``mask``, the magnitude ``(B, F, N)`` of the mask, if the head is one.

    Raises:
        ConfigError: sizes that do not fit, bands that do not fill the spectrum or hold no bin, another ``head``.
    """

    provides: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        channels: int = 128,
        layers: int = 6,
        rnn_channels: int = 512,
        mlp_channels: int = 256,
        band_widths: Sequence[float] | None = None,
        causal: bool = False,
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
        require(
            self,
            at_least(1, channels=channels, layers=layers, mlp_channels=mlp_channels),
            at_least(2, rnn_channels=rnn_channels),
            (rnn_channels % 2 == 0, f"rnn_channels={rnn_channels} must be even, for two directions"),
            above(0, init_output_scale=init_output_scale),
        )
        ahead = 0 if causal else None
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
        widths = speech_band_widths(sample_rate) if band_widths is None else band_widths
        self.band_bins = bins_of_bands(widths, sample_rate, n_fft)
        self.head = SpectralHead(head)
        self.provides = ("mask",) if self.head.masks else ()
        self.only_masks = self.head.masks
        self.split = BandSplit(self.band_bins, 2 * self.signals, channels, causal)
        self.blocks = nn.Sequential(
            *(BandTimeBlock(channels, len(self.band_bins), rnn_channels, causal) for _ in range(layers))
        )
        self.output = BandMlp(
            self.band_bins, channels, mlp_channels, causal, scale=init_output_scale, start=float(self.head.masks)
        )
        self.frequency_in = self.frequency_affine(self.signals, self.stft.bins, parts=2)
        self.frequency_out = self.frequency_affine(1, self.stft.bins, parts=2, kind=self.head.output_kind)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return self.head.statistics(sensors, target, self.skip_channel)

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        x = self.frequency_in(torch.cat([real, imag], dim=1))
        y = self.output(self.blocks(self.split(x)))  # (B, 2, F, N)
        sensor = real[:, self.skip_channel], imag[:, self.skip_channel]
        if not self.head.masks:
            over = (1, 2) if self.causal else (1, 2, 3)
            y = y * (self.parts_in_time(x).square().mean(over, keepdim=True) + LEVEL_FLOOR).sqrt()
        y = self.frequency_out(y)
        output = y[:, 0], y[:, 1]
        return self.head(sensor, output), self.head.provided(output)
