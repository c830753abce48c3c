"""Gains in auditory bands from the sensors' log levels: learned in minutes, from seconds of recordings.

The decomposition into few bands is that of Valin, "A Hybrid DSP/Deep Learning Approach to Real-Time Full-Band Speech
Enhancement" (MMSP 2018, "RNNoise"), whose gains only attenuate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.nn.bands import Bands, Scale, log_energy
from bcfusion.nn.conv import Conv1d
from bcfusion.nn.levels import LogLevels, Normalisation
from bcfusion.nn.recurrent import GRU, LSTM, Bidirectional, Cell
from bcfusion.nn.spectral import Complex, SpectralNetwork
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, require, within

#: dB per unit of the last layer
_UNIT = 10.0


class BandGain(SpectralNetwork):
    """Gains of bands for the sensors' own spectrum."""

    provides = ("band_levels",)

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
        bands: Scale = "mel",
        n_feature_bands: int = 80,
        n_bands: int = 40,
        normalisation: Normalisation = "utterance",
        normalise_deviation: bool = False,
        floor_db: float = 70.0,
        activity_db: float = 40.0,
        memory: float = 10.0,
        conv_channels: Sequence[int] = (),
        conv_kernel_size: int = 3,
        cell: Cell = "gru",
        hidden_size: int = 192,
        num_layers: int = 2,
        bidirectional: bool = True,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        max_gain: float = 60.0,
        init_output_scale: float = 0.01,
        skip_channel: int = -1,
    ) -> None:
        require(
            self,
            above(0, max_gain=max_gain),
            within(0, 0.99, input_dropout=input_dropout, dropout=dropout),
            at_least(1, conv_channels=conv_channels) if conv_channels else [],
        )
        causal = not bidirectional and normalisation != "utterance"
        super().__init__(
            sample_rate,
            in_channels,
            n_fft,
            hop_length,
            win_length,
            window,
            causal,
            0 if causal else None,
            skip_channel,
        )
        self.max_gain = max_gain
        self.feature_bands = Bands(sample_rate, n_fft, win_length, window, n_feature_bands, bands)
        self.bands = Bands(sample_rate, n_fft, win_length, window, n_bands, bands)
        self.levels = LogLevels(
            normalisation,
            sample_rate / hop_length,
            n_feature_bands,
            in_channels,
            floor_db,
            activity_db,
            memory,
            normalise_deviation,
        )
        sizes = [in_channels * n_feature_bands, *conv_channels]
        self.input_dropout = nn.Dropout(input_dropout)
        self.convolutions = nn.ModuleList(
            Conv1d(size, after, conv_kernel_size, causal=causal) for size, after in pairwise(sizes)
        )
        self.recurrent: Bidirectional | GRU | LSTM
        if bidirectional:
            self.recurrent = Bidirectional(cell, sizes[-1], hidden_size, num_layers, dropout)
        else:
            kind = GRU if cell == "gru" else LSTM
            self.recurrent = kind(sizes[-1], hidden_size, num_layers, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.outputs = {"gain": n_bands}
        if in_channels > 1:
            self.outputs["sensors"] = in_channels * n_bands
        self.head = nn.Linear(self.recurrent.output_size, sum(self.outputs.values()))
        with torch.no_grad():
            self.head.weight.mul_(init_output_scale)
            self.head.bias.zero_()
            if in_channels > 1:
                start = dict(zip(self.outputs, self.head.bias.split(list(self.outputs.values())), strict=True))
                start["sensors"].view(in_channels, n_bands)[skip_channel] = 4.0

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Map ``(B, in_channels, F, N)`` to the estimate's parts ``(B, F, N)`` and its log band energies."""
        energies = self.feature_bands.energies(real, imag)
        features, _ = self.levels(energies)
        output = self._outputs(features.flatten(1, 2), self._frames(energies))
        gain = self._decibels(output["gain"].to(real.dtype))
        factors = 10.0 ** (self.bands.to_bins(gain).unsqueeze(1) / 20.0)  # (B, 1, F, N)
        if "sensors" in output:
            weights = output["sensors"].to(real.dtype).unflatten(1, (self.in_channels, -1)).softmax(1)
            factors = factors * self.bands.to_bins(weights)
        estimate = (factors * real).sum(1), (factors * imag).sum(1)
        return estimate, {"band_levels": log_energy(self.bands.energies(*estimate))}

    def _frames(self, energies: Tensor) -> Tensor:
        """Return each item's number of frames ``(B,)`` up to its last one that is not digitally silent."""
        heard = (energies.detach() != 0).flatten(1, 2).any(1)  # a NaN is not silent
        return (heard * torch.arange(1, heard.shape[-1] + 1, device=heard.device)).amax(-1)

    def _outputs(self, features: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Return the outputs ``(B, n, N)`` of the last layer by name, from features ``(B, in_channels K, N)``."""
        own = (
            None if self.causal else (torch.arange(features.shape[-1], device=frames.device) < frames[:, None])[:, None]
        )
        x = features if own is None else features * own
        x = self.input_dropout(x)
        for layer in self.convolutions:
            x = F.gelu(layer(x))
            x = x if own is None else x * own
        x = x.transpose(1, 2)  # (B, N, C)
        x = self.recurrent(x, frames) if isinstance(self.recurrent, Bidirectional) else self.recurrent(x)
        y = self.head(self.dropout(x)).transpose(1, 2)
        return dict(zip(self.outputs, y.split(list(self.outputs.values()), dim=1), strict=True))

    def _decibels(self, output: Tensor) -> Tensor:
        return self.max_gain * torch.tanh(output * (_UNIT / self.max_gain))
