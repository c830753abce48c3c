"""Gains in auditory bands from the sensors' log energies: learned in minutes, from seconds of recordings.

The decomposition into few bands is that of Valin, "A Hybrid DSP/Deep Learning Approach to Real-Time Full-Band Speech
Enhancement" (MMSP 2018, "RNNoise"), whose gains only attenuate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.bands import Bands, Scale, log_energy
from bcfusion.nn.conv import Conv1d
from bcfusion.nn.excitation import FoldedSpectrum, NoiseSpectrum
from bcfusion.nn.frequency_norm import LEAST_OF_LOGARITHMS, FrequencyNorm
from bcfusion.nn.levels import LogLevels, Normalisation
from bcfusion.nn.recurrent import GRU, LSTM, Bidirectional, Cell
from bcfusion.nn.spectral import Complex, SpectralNetwork, magnitude
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, one_of, require, within

Excitation = Literal["none", "noise", "folding"]

#: dB per unit of the last layer
_UNIT = 10.0
#: initial outputs of the last layer for the weight of the sensor that fusion starts from, and for that of the noise
_FIRST_SENSOR, _FIRST_NOISE = 4.0, -7.0
#: initial gain of a folded band, relative to the bound downwards
_FIRST_FOLDED = -0.5
#: power of a bin, far below any signal, at which the gradient of a root stays finite
_SILENCE = 1e-20


class BandGain(SpectralNetwork):
    r"""Log energies of bands to one gain per band for the sensor's own spectrum, ``(B, in_channels, T) -> (B, 1, T)``.

    The log energies of ``n_feature_bands`` bands of each sensor, made independent of level and colour by
    :class:`bcfusion.nn.levels.LogLevels`, go through optional convolutions over time, recurrent layers and a linear
    layer. Its outputs become gains in ``n_bands`` bands, in dB, bounded by ``max_gain``, and are interpolated to the
    bins by weights that sum to one (:class:`bcfusion.nn.bands.Bands`). The untrained gains are 0 dB, to within a few
    hundredths: the network returns its input.

    - Several sensors are added as complex spectra, in every band with weights that sum to one and start near the sensor
      ``skip_channel``, before the gain.
    - ``residual_frequency``: up to there a linear layer also gives complex numbers in units of the sensor's own
      magnitude, which are added to its spectrum. They change the phase, too.
    - ``excitation=noise``: noise with the energy that the sensor has in each band, plus that of the floor of the log
      energies, with the same gain, in place of a share of the sensor's spectrum. The share of each
      band is an output too and starts at 0.001. It fills bands in which the sensor holds nothing to amplify.
    - ``excitation=folding``: copies of the band below ``cutoff_frequency`` above it
      (:class:`bcfusion.nn.excitation.FoldedSpectrum`), with gains of their own that start at half of
      ``-max_gain``, are added. With ``sensor_gains=False`` the sensor's own spectrum is kept as it is.

    Frames after the last one that is not digitally silent do not count: zeros after a recording change nothing. With
    ``bidirectional=False`` and a normalisation other than ``utterance`` the network is causal. With the defaults
    468,008 parameters.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        bands: ``mel`` or ``erb``: the scale that is divided into bands.
        n_feature_bands: bands whose log energies the network sees.
        n_bands: bands that have a gain.
        normalisation: of the log energies, see :class:`bcfusion.nn.levels.LogLevels`: ``utterance``, ``running`` or
            ``none``.
        normalise_deviation: also divide them by their deviation.
        floor_db: of the log energies, likewise.
        activity_db: likewise.
        memory: of ``running``, in seconds.
        conv_channels: of each convolution over time; empty: none.
        conv_kernel_size: of these, in frames.
        cell: of the recurrent layers, ``gru`` or ``lstm``.
        hidden_size: of each direction of each recurrent layer.
        num_layers: recurrent layers.
        bidirectional: whether they run in both directions.
        input_dropout: share of the log energies, in training.
        dropout: share of the outputs of each recurrent layer, in training.
        max_gain: bound of each gain, up and down, in dB.
        residual_frequency: in Hz, see above; None: no residual.
        excitation: ``none``, ``noise`` or ``folding``.
        cutoff_frequency: of ``folding``, in Hz: where the sensor's band ends.
        sensor_gains: whether the sensor's own spectrum has gains; False only with ``folding``.
        init_output_scale: factor on the initial weights of the last layer.
        skip_channel: the sensor that fusion starts from; -1 is the last (the air microphone).
        frequency_norm: ``learnable``: the normalised log energies are scaled and shifted band by band, from the
            training set's statistics on, and so are the outputs of the last layer, before gains are bounded, from 1 and
            0 on; see :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. None: neither.
        lookahead_ms: additional look-ahead in ms, 0 to 200, rounded up to whole hops, of the causal network only; see
            :class:`bcfusion.nn.network.WaveformNetwork`.

    Attributes:
        outputs: size of each output of the last layer, by name.
        only_masks: whether an empty band of the sensor stays empty.
        provides: ``band_levels (B, n_bands, N)``, natural logarithms of the energies of the estimate's bands before the
            inverse STFT, for :class:`bcfusion.losses.log_bands.GeneratorLogBandsLoss`.

    Raises:
        ConfigError: an argument is out of range, a ``cutoff_frequency`` that the STFT cannot fold, or see
            :class:`bcfusion.nn.spectral.SpectralNetwork`.
    """

    provides = ("band_levels",)
    amplifies = True  #: its gains raise what little a real sensor holds in a band

    hears_all = False  # each channel is taken relative to its own level: a constant is none

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 512,
        hop_length: int = 256,
        win_length: int = 512,
        window: Window = "hann",
        bands: Scale = "mel",
        n_feature_bands: int = 80,
        n_bands: int = 40,
        normalisation: Normalisation = "utterance",
        normalise_deviation: bool = False,
        floor_db: float = 70.0,
        activity_db: float = 60.0,
        memory: float = 10.0,
        conv_channels: Sequence[int] = (),
        conv_kernel_size: int = 3,
        cell: Cell = "gru",
        hidden_size: int = 128,
        num_layers: int = 2,
        bidirectional: bool = True,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        max_gain: float = 60.0,
        residual_frequency: float | None = None,
        excitation: Excitation = "none",
        cutoff_frequency: float = 4000.0,
        sensor_gains: bool = True,
        init_output_scale: float = 0.01,
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self,
            above(0, max_gain=max_gain, init_output_scale=init_output_scale),
            within(0, 0.99, input_dropout=input_dropout, dropout=dropout),
            at_least(1, conv_channels=conv_channels) if conv_channels else [],
            one_of(get_args(Cell), cell=cell),
            one_of(get_args(Excitation), excitation=excitation),
            [] if residual_frequency is None else within(0, sample_rate / 2, residual_frequency=residual_frequency),
            (
                sensor_gains or excitation == "folding",
                f"sensor_gains=False leaves nothing to learn with {excitation=}: set excitation='folding'",
            ),
        )
        causal = not bidirectional and normalisation != "utterance"
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
        self.max_gain, self.excitation = max_gain, excitation
        self.only_masks = excitation == "none"
        self.feature_bands = Bands(sample_rate, n_fft, win_length, window, n_feature_bands, bands)
        self.bands = Bands(sample_rate, n_fft, win_length, window, n_bands, bands)
        frame_rate, statistics = sample_rate / hop_length, (floor_db, activity_db, memory, normalise_deviation)
        self.levels = LogLevels(normalisation, frame_rate, n_feature_bands, self.signals, *statistics)
        if excitation == "noise":
            self.noise = NoiseSpectrum(n_fft, hop_length, win_length, window)
        elif excitation == "folding":
            self.folded = FoldedSpectrum(sample_rate, n_fft, hop_length, cutoff_frequency, self.bands)

        self.input_dropout, self.dropout = nn.Dropout(input_dropout), nn.Dropout(dropout)
        sizes = [self.signals * n_feature_bands, *conv_channels]
        self.convolutions = nn.ModuleList(
            Conv1d(before, after, conv_kernel_size, causal=causal) for before, after in pairwise(sizes)
        )
        self.recurrent: Bidirectional | GRU | LSTM
        if bidirectional:
            self.recurrent = Bidirectional(cell, sizes[-1], hidden_size, num_layers, dropout)
        else:
            kind = GRU if cell == "gru" else LSTM
            self.recurrent = kind(sizes[-1], hidden_size, num_layers, dropout=dropout)

        self.residual_bins = 0 if residual_frequency is None else int(residual_frequency * n_fft / sample_rate) + 1
        sizes_by_name = {
            "gain": n_bands * sensor_gains,
            "sensors": n_bands * in_channels * (in_channels > 1),
            "noise": n_bands * (excitation == "noise"),
            "folded": n_bands * (excitation == "folding"),
            "residual": 2 * self.residual_bins,
        }
        self.outputs = {name: size for name, size in sizes_by_name.items() if size}
        self.head = nn.Linear(self.recurrent.output_size, sum(self.outputs.values()))
        self.frequency_in = self.frequency_affine(self.signals, n_feature_bands, least=LEAST_OF_LOGARITHMS)
        self.frequency_out = self.frequency_affine(1, self.head.out_features, kind="identity")
        self._start(init_output_scale)

    @torch.no_grad()
    def _start(self, scale: float) -> None:
        """Let the untrained network return the sensor ``skip_channel``."""
        self.head.weight.mul_(scale)
        self.head.bias.zero_()
        first = self._split(self.head.bias, 0)
        if "sensors" in first:
            first["sensors"].view(self.in_channels, -1)[self.skip_channel] = _FIRST_SENSOR
        if "noise" in first:
            first["noise"].fill_(_FIRST_NOISE)
        if "folded" in first:
            first["folded"].fill_(math.atanh(_FIRST_FOLDED) * self.max_gain / _UNIT)

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        return {"frequency_in": self.levels(self.feature_bands.energies(*sensors))[0]}

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Map ``(B, signals, F, N)`` to the estimate's parts ``(B, F, N)`` and its log band energies."""
        energies = self.feature_bands.energies(real, imag)
        features, floor = self.levels(energies)
        features = self.frequency_in(features).flatten(1, 2)
        output = {name: y.to(real.dtype) for name, y in self._outputs(features, energies).items()}
        sensor, floor = self._fused(self.in_time(real), self.in_time(imag), self.in_time(floor), output)
        estimate = sensor
        if "gain" in output:
            gain = self._factor(output["gain"])
            estimate = gain * sensor[0], gain * sensor[1]
            if "noise" in output:
                estimate = self._with_noise(estimate, sensor, floor, gain, output["noise"])
        if "residual" in output:
            own = magnitude(*sensor, eps=_SILENCE)
            above_it = (0, 0, 0, self.stft.bins - self.residual_bins)
            changes = [own * F.pad(part, above_it) for part in output["residual"].chunk(2, dim=1)]
            estimate = estimate[0] + changes[0], estimate[1] + changes[1]
        if "folded" in output:
            gain, copies = self._factor(output["folded"]), self.folded(*sensor)
            estimate = estimate[0] + gain * copies[0], estimate[1] + gain * copies[1]
        return estimate, {"band_levels": log_energy(self.bands.energies(*estimate))}

    def _fused(self, real: Tensor, imag: Tensor, floor: Tensor, output: dict[str, Tensor]) -> tuple[Complex, Tensor]:
        """Return the weighted sum of the sensors, ``(B, F, N)``, and its floor ``(B, 1 or n_bands, N)``."""
        if "sensors" not in output:
            return (real[:, 0], imag[:, 0]), floor[:, 0]
        weights = output["sensors"].unflatten(1, (self.in_channels, -1)).softmax(1)
        of_bins = self.bands.to_bins(weights)
        return ((of_bins * real).sum(1), (of_bins * imag).sum(1)), (weights * floor).sum(1)

    def _with_noise(self, estimate: Complex, sensor: Complex, floor: Tensor, gain: Tensor, output: Tensor) -> Complex:
        """Return the estimate's parts with a share of the noise, whose energy is that of the sensor or of the floor."""
        share = self.bands.to_bins(output.sigmoid())
        # the floor is one of the feature bands, which are narrower
        energy = self.bands.energies(*sensor) + floor
        level = self.bands.full_scale * (self.bands.densities(energy) + _SILENCE).sqrt()
        noise = self.noise(level)
        real, imag = ((1 - share) * e + share * gain * level * n for e, n in zip(estimate, noise, strict=True))
        return real, imag

    def _outputs(self, features: Tensor, energies: Tensor) -> dict[str, Tensor]:
        """Return the outputs ``(B, size, N)`` of the last layer, from features ``(B, signals K, N)``."""
        x = self.input_dropout(features)
        own, frames = None, None
        if not self.causal:  # frames after an item's last one must not reach it through the backward direction
            frames = self._frames(energies)
            own = (torch.arange(x.shape[-1], device=x.device) < frames[:, None])[:, None]
            x = torch.where(own, x, 0.0)
        for layer in self.convolutions:
            x = F.gelu(layer(x))
            x = x if own is None else torch.where(own, x, 0.0)
        x = x.transpose(1, 2)  # (B, N, C)
        x = self.recurrent(x, frames) if isinstance(self.recurrent, Bidirectional) else self.recurrent(x)
        output = self.head(self.dropout(x)).transpose(1, 2)
        return self._split(self.frequency_out(output.unsqueeze(1)).squeeze(1), 1)

    def _frames(self, energies: Tensor) -> Tensor:
        """Return each item's number of frames ``(B,)`` up to its last one that is not digitally silent."""
        heard = (energies.detach() != 0).flatten(1, 2).any(1)  # a NaN is not silent
        return (heard * torch.arange(1, heard.shape[-1] + 1, device=heard.device)).amax(-1)

    def _split(self, values: Tensor, dim: int) -> dict[str, Tensor]:
        return dict(zip(self.outputs, values.split(list(self.outputs.values()), dim), strict=True))

    def _factor(self, output: Tensor) -> Tensor:
        """Return factors ``(B, F, N)`` on the bins from the outputs ``(B, n_bands, N)`` for a gain."""
        decibels = self.max_gain * torch.tanh(output * (_UNIT / self.max_gain))
        return 10.0 ** (self.bands.to_bins(decibels) / 20.0)
