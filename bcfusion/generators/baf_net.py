"""BAF-Net: the body sensor is mapped, the air microphone masked, and the mask says how much of either to take.

Kim & Chung, "Modality-Specific Speech Enhancement and Noise-Adaptive Fusion for Acoustic and Body-Conduction Microphone
Framework", Interspeech 2025; BAFNet-plus (2026), its successor in public code, adds the softmax, the magnitudes and the
calibration.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion.nn.conv import Conv1d
from bcfusion.nn.conv2d import Conv2d
from bcfusion.nn.delay import Delay
from bcfusion.nn.inner import Build, Inner
from bcfusion.nn.network import additional_lookahead, least_frame_of
from bcfusion.nn.norm import BatchNorm2d
from bcfusion.nn.spectral import Complex, SpectralNetwork, magnitude
from bcfusion.nn.stft import Stft, Window
from bcfusion.requirements import above, at_least, require

_LARGEST_MASK = 10.0
_LEAST_POWER = 1e-8  # of a bin: its magnitude is about the quantisation noise of 16-bit audio
_NO_POWER = 1e-30  # keeps the gradient of a root finite at 0
_COMMON, _RELATIVE = 0.5, 1.0  # natural logarithms of the largest gains of the calibration


class FusionWeights(nn.Module):
    """Weights of body and air ``(B, 2, F, N)``, which sum to 1 in each bin, from features ``(B, features, F, N)``.

    Convolutions with batch normalisation and PReLU, a pointwise one for the scores, and a softmax. Initially the
    weights are nearly equal.
    """

    def __init__(self, features: int, bins: int, channels: int, layers: int, kernel_size: int) -> None:
        super().__init__()
        side = kernel_size // 2
        self.layers = nn.Sequential()
        for layer in range(layers):
            inputs = channels if layer else features
            conv = Conv2d(inputs, channels, (kernel_size, kernel_size), bins, padding=(side, side), causal=True)
            self.layers.extend([conv, BatchNorm2d(channels), nn.PReLU(channels)])
        self.scores = Conv2d(channels, 2, (1, 1), bins, causal=True)
        with torch.no_grad():
            self.scores.weight.mul_(0.1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.softmax(self.scores(self.layers(features)), dim=1)


class Calibration(nn.Module):
    """Gains of body and air ``(B, 2, N)``, one per frame, so that both are equally loud and as loud as the target.

    They come from the log energies of both, their difference, and mean and variance of the mask over the bins, by
    causal convolutions over frames. A common gain of at most e^0.5 is shared; a relative one of at most e raises one
    and lowers the other by half as much each. They apply to compressed magnitudes: with an exponent of 0.3 these are 14
    and 29 dB. Initially both are near 1.
    """

    def __init__(self, channels: int, layers: int = 2, kernel_size: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for layer in range(layers):
            conv = Conv1d(channels if layer else 5, channels, kernel_size, causal=True)
            self.layers.extend([conv, nn.PReLU(channels)])
        self.gains = Conv1d(channels, 2, 1, causal=True)
        with torch.no_grad():
            self.gains.weight.mul_(0.1)

    def forward(self, magnitudes: Tensor, mask: Tensor) -> Tensor:
        """Return the gains from magnitudes ``(B, 2, F, N)`` and the mask ``(B, F, N)``."""
        energies = (magnitudes.square().mean(2) + _LEAST_POWER).log()  # (B, 2, N)
        difference = energies[:, :1] - energies[:, 1:]
        mean = mask.mean(1, keepdim=True)
        variance = (mask - mean).square().mean(1, keepdim=True)
        h = self.layers(torch.cat([energies, difference, mean, variance], dim=1))
        common, relative = torch.tanh(self.gains(h)).chunk(2, dim=1)
        common, relative = _COMMON * common, 0.5 * _RELATIVE * relative
        return torch.cat([common - relative, common + relative], dim=1).exp()


class BafNet(SpectralNetwork):
    """``estimate = w_body body + w_air air`` in every bin, spectra with compressed magnitudes, ``w_body + w_air = 1``.

    One generator restores the body sensors, as a rule by mapping, one cleans the air microphone, as a rule by a mask.
    The weights come from the mask, which is taken from what the second one does to its input: the ratio of both
    magnitudes, at most 10. With a single sensor both generators restore it.

    Two causal generators on spectra of the same transform as this network's share it: they are called between it and
    its inverse, and their fusion adds no latency. Others are called on waveforms, and the fusion adds the overlap of
    its own frames. Either way the one that is less late waits for the other. The fusion itself sees present and past
    frames. It is causal if both generators are.

    The published network normalises both spectra by their energy over the file first, which is not causal; here and in
    BAFNet-plus they are added as they are, or after calibration. The mask compares magnitudes as they are, as that of
    BAF-Net; in BAFNet-plus it compares compressed ones. Number and kinds of the convolutions that compute the weights
    are those of BAFNet-plus, here causal; BAF-Net has three of them before the last, centred in time.

    Args:
        body_branch: builds the generator of the body sensors, all but the last (a ``_target_`` with ``_partial_:
            true``).
        air_branch: builds that of the last sensor, the air microphone.
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        channels: of the convolutions that compute the weights.
        layers: number of these.
        kernel_size: of these, in bins and in frames, odd.
        magnitudes: the weights are computed from the compressed magnitudes of both restored spectra too (BAFNet-plus);
            False: from the mask alone (BAF-Net).
        calibration_channels: of the convolutions that compute gains for both restored spectra, frame by frame, before
            they are added (BAFNet-plus: 16); 0: no gains.
        compression: exponent of the magnitudes with which the spectra are added; 1: as they are (BAF-Net).
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.

    Attributes:
        shares_transform: whether both generators are called between its transform and the inverse.
        provides: ``spectrum (B, F, N, 2)``, real and imaginary parts before the inverse transform, and ``weights (B, F,
            N, 2)`` of body and air.

    Raises:
        ConfigError: sizes that do not fit, or a generator of another sample rate.
    """

    provides = ("spectrum", "weights")

    hears_all = False

    def __init__(
        self,
        body_branch: Build,
        air_branch: Build,
        sample_rate: int = 16000,
        in_channels: int = 2,
        channels: int = 16,
        layers: int = 4,
        kernel_size: int = 7,
        magnitudes: bool = False,
        calibration_channels: int = 0,
        compression: float = 0.3,
        n_fft: int = 400,
        hop_length: int = 100,
        win_length: int = 400,
        window: Window = "hann",
    ) -> None:
        require(
            self,
            at_least(1, in_channels=in_channels, channels=channels, layers=layers, kernel_size=kernel_size),
            at_least(0, calibration_channels=calibration_channels),
            (kernel_size % 2 == 1, f"kernel_size={kernel_size} must be odd"),
            above(0, compression=compression),
            (compression <= 1, f"compression={compression} must be at most 1"),
        )
        body = Inner(body_branch(in_channels=max(in_channels - 1, 1)), sample_rate)
        air = Inner(air_branch(in_channels=1), sample_rate)
        pair = (body, air)
        transform = (n_fft, hop_length, win_length, window)
        shares = all(_is_between(part.network, transform) for part in pair)
        if shares:
            late = [cast("SpectralNetwork", part.network).late_frames for part in pair]
            before, hop = max(late) * hop_length, hop_length
        else:
            late = [part.lookahead for part in pair]
            before = -(-max(late) // hop_length) * hop_length  # so that its frames lie on those of the losses
            hop = math.lcm(hop_length, *(part.hop for part in pair))
        causal = all(part.causal for part in pair)
        super().__init__(sample_rate, in_channels, *transform, causal, late_frames=before // hop_length)
        self.shares_transform = shares
        self.hop = hop
        self.least_frame = max(least_frame_of(part.network) for part in pair)
        delays = [part.delay for part in pair]
        if causal:
            self.delay = self.lookahead + hop - 1
        else:
            self.delay = None if None in delays else win_length - 1 + max(delay or 0 for delay in delays)
        self.compression, self.magnitudes = compression, magnitudes
        self.sensors = slice(0, max(in_channels - 1, 1))  # of the body
        bins = self.stft.bins
        self.body_branch, self.air_branch = body, air
        if shares:
            for part in pair:
                cast("SpectralNetwork", part.network).leave_transform_to(self.stft)
            wanted = before // hop_length
            self.body_wait, self.air_wait = (Delay(wanted - frames, (2, bins)) for frames in late)
            self.noisy_wait = Delay(wanted, (2, bins))
        else:
            self.stft = Stft(*transform, channels=3)
            self.body_wait, self.air_wait = (Delay(before - samples) for samples in late)
            self.noisy_wait = Delay(before)
        self.weights = FusionWeights(3 if magnitudes else 1, bins, channels, layers, kernel_size)
        self.calibration = Calibration(calibration_channels) if calibration_channels else None

    @property
    def ahead(self) -> int:
        return max(map(additional_lookahead, (self.body_branch, self.air_branch)))  # late_frames only wait for them

    @property
    def maps_spectra(self) -> bool:
        return self.shares_transform

    def body(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Transform, restore both, fuse, transform back; or restore both first, if they have other transforms."""
        if self.shares_transform:
            return super().body(inputs)
        waveforms = (
            self.body_wait(self.body_branch(inputs[:, self.sensors])),
            self.air_wait(self.air_branch(inputs[:, -1:])),
            self.noisy_wait(inputs[:, -1:]),
        )
        (real, imag), provided = self.fused(torch.stack(self.stft(torch.cat(waveforms, dim=1)), dim=2))
        return {"estimate": self.istft(real, imag), **provided}

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        body_branch, air_branch = (
            cast("SpectralNetwork", part.network) for part in (self.body_branch, self.air_branch)
        )
        body, _ = body_branch.restored(real[:, self.sensors], imag[:, self.sensors])
        air, _ = air_branch.restored(real[:, -1:], imag[:, -1:])
        waited = (
            self.body_wait(torch.stack(body, dim=1)),
            self.air_wait(torch.stack(air, dim=1)),
            self.noisy_wait(torch.cat([real[:, -1:], imag[:, -1:]], dim=1)),
        )
        return self.fused(torch.stack(waited, dim=1))

    def fused(self, restored: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Return the spectrum of the estimate, parts ``(B, F, N)``, and what is provided, from spectra of body, air and
        noisy air ``(B, 3, 2, F, N)``."""
        body_air, noisy = restored[:, :2], restored[:, 2]
        size = (body_air.square().sum(2) + _LEAST_POWER).sqrt()  # (B, 2, F, N)
        mask = (size[:, 1] / magnitude(noisy[:, 0], noisy[:, 1], _LEAST_POWER)).clamp(max=_LARGEST_MASK)
        levels = size.pow(self.compression)
        spectra = body_air * size.pow(self.compression - 1).unsqueeze(2)
        if self.calibration is not None:
            gains = self.calibration(levels, mask)[:, :, None]
            levels, spectra = levels * gains, spectra * gains.unsqueeze(2)
        features = mask.unsqueeze(1)
        weights = self.weights(torch.cat([levels, features], dim=1) if self.magnitudes else features)
        added = (weights.unsqueeze(2) * spectra).sum(1)  # (B, 2, F, N)
        power = added.square().sum(1, keepdim=True) + _NO_POWER
        real, imag = (added * power.pow(0.5 * (1 / self.compression - 1))).unbind(1)
        provided = {"spectrum": torch.stack([real, imag], dim=-1), "weights": weights.permute(0, 2, 3, 1)}
        return (real, imag), provided


def _is_between(network: nn.Module, transform: tuple[int, int, int, Window]) -> bool:
    """Return whether a network maps one spectrum of this transform to another, frame by frame; one that looks ahead
    takes waveforms, which it delays itself."""
    if not isinstance(network, SpectralNetwork):
        return False
    stft = network.stft
    same = (stft.n_fft, stft.hop_length, stft.win_length, stft.window) == transform
    return same and network.causal and network.maps_spectra and not network.future
