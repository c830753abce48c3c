"""Where a path lies: the waveform, or the compressed complex spectrum of a network that works on spectra."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from bcfusion.nn.frequency_norm import FrequencyAffine
from bcfusion.nn.inner import Inner
from bcfusion.nn.network import estimate_of
from bcfusion.nn.spectral import SpectralNetwork, compressed, expanded
from bcfusion.requirements import above, require

_UNMEASURED = "has frequency_norm, which measures sensors and target, not what is between them: set it to null"


def _scales(network: nn.Module) -> bool:
    return any(isinstance(part, FrequencyAffine) for part in network.modules())


class WaveformDomain(nn.Module):
    """Signals ``(B, C, T)`` as they are. Each pass of the network is late by its look-ahead.

    Args:
        network: a generator without trained scales per bin.
        sample_rate: required of it, in Hz.

    Attributes:
        hop: samples that a pass takes at a time.
        step: samples of one place of a signal here: 1.
        shape: of a channel, between channel and time.
        late: places by which one pass is late.
        lookahead: samples by which transforms are late: none.
        reach: samples by which one pass looks further ahead than its own frame; None: it may depend on all.
        once: layers of the network that run once, outside its passes.
    """

    once: tuple[str, ...] = ()
    step = 1
    shape: tuple[int, ...] = ()
    lookahead = 0

    def __init__(self, network: nn.Module, sample_rate: int) -> None:
        require("domain=waveform", (not _scales(network), f"{type(network).__name__} {_UNMEASURED}"))
        super().__init__()
        inner = Inner(network, sample_rate)
        self.hop, self.late, self.causal = inner.hop, inner.lookahead, inner.causal
        self.reach = inner.delay
        self.inner = inner

    @property
    def network(self) -> nn.Module:
        return self.inner.network

    def analysis(self, waveforms: Tensor) -> Tensor:
        """Return ``(B, C, T)``."""
        return waveforms

    def synthesis(self, signal: Tensor) -> Tensor:
        """Return the waveform ``(B, 1, T)`` of one signal ``(B, 1, T)``."""
        return signal

    def noise(self, values: Tensor) -> Tensor:
        """Return the noise of a path from standard normal ``values (B, 1, T)``: themselves."""
        return values

    def run(self, channels: Tensor, aligned: bool) -> Tensor:
        """Pass ``(B, C, T)`` through the network: ``(B, 1, T)``, late by :attr:`late` unless ``aligned``."""
        return estimate_of(self.network(channels)) if aligned else self.inner(channels)

    def places(self, samples: Tensor) -> Tensor:
        """Return how many places so many samples have."""
        return samples


class SpectralDomain(nn.Module):
    r"""Complex spectra ``(B, C, 2, F, N)``, real and imaginary part, compressed: :math:`s |X|^p e^{i \angle X}`.

    The network's own transform is used once, however many passes there are: they add no delay.

    Args:
        network: a :class:`bcfusion.nn.spectral.SpectralNetwork`, which is called between its transforms.
        sample_rate: required of it, in Hz.
        signals: number of sensors, with additional look-ahead twice as many, which are all that is transformed.
        exponent: p.
        scale: s.

    Attributes:
        The same as of :class:`WaveformDomain`; a place is a frame.

    Raises:
        ConfigError: a network with another or no transform, or with trained scales per bin; numbers not above 0.
    """

    once: tuple[str, ...] = ("stft", "istft")
    late = 0
    deviation: Tensor

    def __init__(self, network: nn.Module, sample_rate: int, signals: int, exponent: float, scale: float) -> None:
        name = type(network).__name__
        plain = isinstance(network, SpectralNetwork) and network.maps_spectra
        spectral = cast("SpectralNetwork", network)
        ahead = network.late_frames if isinstance(network, SpectralNetwork) else 0
        require(
            "domain=spectrum",
            (plain, f"{name} does not map one complex spectrum to another: take domain=waveform"),
            (not ahead, f"{name} looks {ahead} frames ahead, which each step would add: take domain=waveform"),
            (not _scales(network), f"{name} {_UNMEASURED}"),
            (
                not plain or spectral.sample_rate == sample_rate,
                f"{name} works at {spectral.sample_rate} Hz, the path at {sample_rate} Hz",
            ),
            above(0, exponent=exponent, scale=scale),
        )
        super().__init__()
        self.network = spectral
        self.exponent, self.scale = exponent, scale
        spectral.stft.channels = signals  # the other channels of the network are made of spectra
        stft = spectral.stft
        deviation = torch.full((2, stft.bins, 1), 0.5**0.5)
        deviation[:, : spectral.lowest_bin] = 0.0
        deviation[1, 0] = 0.0
        if stft.n_fft % 2 == 0:
            deviation[1, -1] = 0.0
        self.register_buffer("deviation", deviation, persistent=False)
        self.hop = self.step = stft.hop_length
        self.shape = (2, stft.bins)
        self.causal, self.lookahead = spectral.causal, spectral.lookahead
        self.reach = None if spectral.delay is None else spectral.delay - spectral.lookahead

    def analysis(self, waveforms: Tensor) -> Tensor:
        """Return ``(B, C, 2, F, N)`` of ``(B, C, T)``, C being that of the sensors."""
        real, imag = self.network.stft(waveforms)
        return torch.stack(compressed(real, imag, self.exponent, self.scale), dim=2)

    def synthesis(self, signal: Tensor) -> Tensor:
        """Return the waveform ``(B, 1, T)`` of one signal ``(B, 1, 2, F, N)``."""
        spectrum = expanded(signal[:, 0, 0], signal[:, 0, 1], self.exponent, self.scale)
        waveform: Tensor = self.network.istft(*spectrum)
        return waveform

    def noise(self, values: Tensor) -> Tensor:
        """Return the noise of a path from standard normal ``values (B, 1, 2, F, N)``.

        It is complex with :math:`E |z|^2 = 1`, half of it in each part, as in the publications. There is none in what
        no network can take away: imaginary parts of bins that are real in the spectrum of a signal, and bins that this
        network does not make.
        """
        return values * self.deviation

    def run(self, channels: Tensor, aligned: bool) -> Tensor:
        """Pass ``(B, C, 2, F, N)`` through the network: ``(B, 1, 2, F, N)``, which is always aligned."""
        (real, imag), _ = self.network.spectrum(channels[:, :, 0], channels[:, :, 1])
        return torch.stack([real, imag], dim=1)[:, None]

    def places(self, samples: Tensor) -> Tensor:
        """Return how many frames are centred within so many samples, or before them."""
        stft = self.network.stft
        return (samples + stft.win_length // 2 - 1) // stft.hop_length


Domain = WaveformDomain | SpectralDomain
