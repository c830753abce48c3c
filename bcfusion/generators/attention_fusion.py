"""Attention fusion: for every bin, how far each sensor's complex spectrum is to be trusted.

After Wang et al., "Attention-Based Fusion for Bone-Conducted and Air-Conducted Speech Enhancement in the Complex
Domain", ICASSP 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.branches import Branches, Build, Inner
from bcfusion.nn.conv2d import Conv2d
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.norm import FrameLayerNorm
from bcfusion.nn.spectral import magnitude
from bcfusion.nn.stft import InverseStft, Stft, Window


class Attention(nn.Module):
    """Weights ``(B, S, F, N)`` of S spectra from their log magnitudes, the same shape.

    A softmax over the sensors and a further choice, silence, so that the weights of a bin sum to less than one where
    none is to be trusted. It starts with nearly all the weight on the sensors, in equal shares.
    """

    def __init__(self, sensors: int, bins: int, channels: int, layers: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        below = (kernel_size[0] - 1) // 2
        padding = (below, kernel_size[0] - 1 - below)
        self.norm = FrameLayerNorm(sensors, eps=1e-5)
        self.hidden = nn.ModuleList(
            Conv2d(channels if depth else sensors, channels, kernel_size, bins, padding=padding, causal=True)
            for depth in range(layers - 1)
        )
        self.scores = Conv2d(channels if layers > 1 else sensors, sensors, (1, 1), bins, causal=True)
        assert self.scores.bias is not None
        nn.init.constant_(self.scores.bias, 3.0)

    def forward(self, log_magnitude: Tensor) -> Tensor:
        """Shape in, shape out; between 0 and 1."""
        h = self.norm(log_magnitude)
        for layer in self.hidden:
            h = nn.functional.elu(layer(h))
        scores = self.scores(h)
        silence = torch.zeros_like(scores[:, :1])
        return torch.cat([scores, silence], dim=1).softmax(1)[:, :-1]


class AttentionFusion(WaveformNetwork):
    """Sensors, or what a branch makes of each; weighed bin by bin and added; restored by a network behind.

    The attention sees the present and past frames. Causal if branches and network are; late by the STFT's overlap and
    by what these are late.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        branch: makes the generator of one sensor before the fusion; None: the sensors as they are.
        air_branch: makes that of the last sensor, the air microphone, where it is to be another one; None: ``branch``.
        network: makes the generator of one channel behind the fusion; None: none. All three are, in a YAML, a
            ``_target_`` with ``_partial_: true``.
        n_fft, hop_length, win_length, window: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        channels: of the attention's convolutions. layers: of these, the one to the weights included.
        kernel_size: (frequency, frames).

    Raises:
        ConfigError: neither a branch nor a network, or sizes that do not fit.
    """

    def __init__(
        self,
        branch: Build | None,
        network: Build | None,
        air_branch: Build | None = None,
        sample_rate: int = 16000,
        in_channels: int = 2,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "sqrt_hann",
        channels: int = 16,
        layers: int = 4,
        kernel_size: tuple[int, int] = (5, 3),
    ) -> None:
        if branch is None and network is None:
            raise ConfigError(["AttentionFusion: give a branch before the fusion, a network behind it, or both"])
        if layers < 1:
            raise ConfigError([f"AttentionFusion: layers={layers} must be at least 1"])
        branches = None if branch is None else Branches(branch, air_branch, in_channels, sample_rate)
        behind = None if network is None else Inner(network(in_channels=1), sample_rate)
        parts = [part for part in (branches, behind) if part is not None]
        overlap = win_length - hop_length
        hop = math.lcm(hop_length, *(part.hop for part in parts))
        causal = all(part.causal for part in parts)
        delays = [part.delay for part in parts]
        delay = None if None in delays else overlap + hop_length - 1 + sum(d for d in delays if d is not None)
        lookahead = overlap + sum(part.lookahead for part in parts)
        super().__init__(sample_rate, in_channels, hop, causal, lookahead, delay)
        self.branches = branches
        self.network = behind
        self.stft = Stft(n_fft, hop_length, win_length, window, in_channels)
        self.istft = InverseStft(n_fft, hop_length, win_length, window)
        self.attention = Attention(in_channels, self.stft.bins, channels, layers, (kernel_size[0], kernel_size[1]))

    def body(self, inputs: Tensor) -> Tensor:
        """``(B, in_channels, T)``, T a multiple of ``hop``, to ``(B, 1, T)``, late by ``lookahead``."""
        heard = inputs if self.branches is None else self.branches(inputs)
        real, imag = self.stft(heard)  # (B, S, F, N) each
        weights = self.attention(magnitude(real, imag, 1e-8).log())
        fused = self.istft((weights * real).sum(1), (weights * imag).sum(1))
        return fused if self.network is None else self.network(fused)
