"""Attention fusion: for every bin, how far each sensor's complex spectrum can be trusted.

After Wang et al., "Attention-Based Fusion for Bone-Conducted and Air-Conducted Speech Enhancement in the Complex
Domain", ICASSP 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bcfusion.generators.branches import Branches
from bcfusion.nn.conv2d import Conv2d
from bcfusion.nn.frequency_norm import LEAST_OF_LOGARITHMS, FrequencyNorm, FrequencyNormalised
from bcfusion.nn.inner import Build, Inner, looking_ahead
from bcfusion.nn.network import WaveformNetwork, additional_lookahead, least_frame_of
from bcfusion.nn.norm import FrameLayerNorm
from bcfusion.nn.spectral import magnitude
from bcfusion.nn.stft import InverseStft, Stft, Window
from bcfusion.requirements import at_least, require


class Attention(nn.Module):
    """Weights ``(B, S, F, N)`` of S spectra from their log magnitudes, of the same shape.

    A softmax over the sensors and one further choice, silence, so that the weights of a bin sum to less than one if no
    sensor can be trusted. Initially nearly all of the weight is on the sensors, in equal shares. The scores go through
    ``frequency_out`` before the softmax.
    """

    def __init__(
        self,
        sensors: int,
        bins: int,
        channels: int,
        layers: int,
        kernel_size: tuple[int, int],
        frequency_out: nn.Module,
    ) -> None:
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
        self.frequency_out = frequency_out

    def forward(self, log_magnitude: Tensor) -> Tensor:
        h = self.norm(log_magnitude)
        for layer in self.hidden:
            h = nn.functional.elu(layer(h))
        scores = self.frequency_out(self.scores(h))
        silence = torch.zeros_like(scores[:, :1])
        return torch.cat([scores, silence], dim=1).softmax(1)[:, :-1]


class AttentionFusion(FrequencyNormalised, WaveformNetwork):
    """Sensors, or the outputs of a branch per sensor, weighted bin by bin and added; then optionally restored by a
    network.

    The attention sees the present and past frames. The network is causal if branches and inner network are; it is late
    by the overlap of the STFT plus their lookahead.

    In a YAML ``branch``, ``network`` and ``air_branch`` are each a ``_target_`` with ``_partial_: true``.

    Args:
        branch: builds the generator of one sensor before the fusion; None: the sensors themselves are fused.
        network: builds the generator of one channel after the fusion; None: none.
        air_branch: builds the generator of the last sensor, the air microphone; None: ``branch``.
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        channels: of the attention's convolutions.
        layers: number of these, including the one that computes the weights.
        kernel_size: (frequency, frames).
        frequency_norm: ``learnable``: the log magnitudes that the attention sees are scaled and shifted bin by bin,
            from the training set's statistics on, and so are its scores before the softmax, from 1 and 0 on; see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. None: neither.
        lookahead_ms: additional look-ahead of ``network``, or if there is none of the branches, in ms; 0: that of
            their own argument.

    Raises:
        ConfigError: neither a branch nor a network, or sizes that do not fit.
    """

    hears_all = False

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
        frequency_norm: FrequencyNorm = None,
        lookahead_ms: float = 0.0,
    ) -> None:
        require(
            self,
            (branch is not None or network is not None, "give a branch before the fusion, a network after it, or both"),
            (
                branch is not None or air_branch is None,
                "air_branch is the air microphone's in place of branch: give both",
            ),
            at_least(1, layers=layers),
        )
        of_branches = lookahead_ms if network is None else 0.0
        branches = None if branch is None else Branches(branch, air_branch, in_channels, sample_rate, of_branches)
        overlap, before = win_length - hop_length, 0 if branches is None else branches.lookahead
        built = None if network is None else looking_ahead(network, lookahead_ms)(in_channels=1)
        inner = None if built is None else Inner(built, sample_rate, late=before + overlap)
        parts = [part for part in (branches, inner) if part is not None]
        hop = math.lcm(hop_length, *(part.hop for part in parts))
        causal = all(part.causal for part in parts)
        delays = [part.delay for part in parts]
        delay = None if None in delays else overlap + hop_length - 1 + sum(d for d in delays if d is not None)
        lookahead = overlap + sum(part.lookahead for part in parts)
        super().__init__(sample_rate, in_channels, hop, causal, lookahead, delay)
        self.set_frequency_norm(frequency_norm)
        of_parts = [branches.least_frame] if branches is not None else []
        self.least_frame = max([*of_parts, *([] if built is None else [least_frame_of(built)])])
        self.late = before  # of the attention's input
        self.branches = branches
        self.network = inner
        self.stft = Stft(n_fft, hop_length, win_length, window, in_channels)
        self.istft = InverseStft(n_fft, hop_length, win_length, window)
        bins, kernel = self.stft.bins, (kernel_size[0], kernel_size[1])
        self.frequency_in = self.frequency_affine(in_channels, bins, least=LEAST_OF_LOGARITHMS)
        after = self.frequency_affine(in_channels, bins, kind="identity")
        self.attention = Attention(in_channels, bins, channels, layers, kernel, after)

    @property
    def ahead(self) -> int:
        return sum(additional_lookahead(part) for part in (self.branches, self.network) if part is not None)

    def body(self, inputs: Tensor) -> Tensor:
        signals = inputs if self.branches is None else self.branches(inputs)
        real, imag = self.stft(signals)  # (B, S, F, N) each
        levels = magnitude(real, imag, 1e-8).log()
        if self.observed is not None:
            self.measure({"frequency_in": levels}, self.stft)
        weights = self.attention(self.frequency_in(levels))
        fused = self.istft((weights * real).sum(1), (weights * imag).sum(1))
        return fused if self.network is None else self.network(fused)
