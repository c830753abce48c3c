"""Errors between spectra: absolute and squared, of magnitudes, power-law compressed, and their logarithm."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from bcfusion.losses.generator_stft import GeneratorStft
from bcfusion.losses.stft import ComplexSpectrogram, mean_over_frames, power
from bcfusion.losses.valid import valid_samples
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, require


class _SpectrumLoss(nn.Module, ABC):
    """Mean over an item's frames and bins, then over items, of the value of :meth:`_error` for each bin."""

    def __init__(self, n_fft: int = 512, hop_length: int = 100, win_length: int = 400) -> None:
        super().__init__()
        self.stft = ComplexSpectrogram(n_fft, hop_length, win_length)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            estimate, target, _ = valid_samples(estimate, target, lengths)
            return mean_over_frames(self._error(estimate, target), self.stft.frames(lengths)).mean()

    @abstractmethod
    def _error(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Return the error of each bin ``(B, N, F)`` from two signals ``(B, T)``."""


class ComplexMseLoss(_SpectrumLoss):
    """Mean of :math:`|S - E|^2`: the squared error of the real part plus that of the imaginary part.

    Tan and Wang 2020, "Learning complex spectral mapping with gated convolutional recurrent networks". By Parseval's
    theorem it is about the squared error of the waveform times the window's energy, 150 for 400 samples of a Hann
    window: it gives a network that works on spectra a loss at their scale, and complements a magnitude loss.

    Args:
        n_fft: points of the STFT.
        hop_length: samples between frames.
        win_length: samples of the Hann window.

    Raises:
        ConfigError: an impossible STFT.
    """

    def _error(self, estimate: Tensor, target: Tensor) -> Tensor:
        return power(self.stft(estimate - target))  # linear: the spectrum of the error is the error of the spectra


class ComplexL1Loss(_SpectrumLoss):
    r"""Mean of :math:`|\Re(S - E)| + |\Im(S - E)|`, the absolute errors of both parts of the spectrum.

    Luo and Yu 2023, "Music source separation with band-split RNN", which adds the absolute error of the waveform
    (:class:`bcfusion.losses.waveform.L1Loss`). Unlike a squared error it does not forget the faint bands altogether.

    The arguments are those of :class:`ComplexMseLoss`.

    Raises:
        ConfigError: an impossible STFT.
    """

    def _error(self, estimate: Tensor, target: Tensor) -> Tensor:
        error = self.stft(estimate - target)
        return error.real.abs() + error.imag.abs()


class MagnitudeMseLoss(_SpectrumLoss):
    """Mean of :math:`(|S| - |E|)^2`, the squared error of magnitudes; phase does not count.

    The arguments are those of :class:`ComplexMseLoss`.

    Raises:
        ConfigError: an impossible STFT.
    """

    def _error(self, estimate: Tensor, target: Tensor) -> Tensor:
        # The gradient of a complex abs is 0 at 0, whereas that of the root of a sum of squares is not a number.
        return (self.stft(estimate).abs() - self.stft(target).abs()).square()


class CompressedSpectrumLoss(_SpectrumLoss):
    r"""Squared errors of power-law compressed spectra.

    Braun and Tashev 2021, "A consolidated view of loss functions for supervised deep learning-based speech
    enhancement"; GTCRN, Rong et al. 2024, with a hundred times the weights. The mean of :math:`w_m (|S|^c - |E|^c)^2 +
    w_c |\,|S|^c e^{j \angle S} - |E|^c e^{j \angle E}\,|^2`. Compression brings loud and faint bins closer together, as
    hearing does: with c = 0.3, 40 dB become 12 dB.

    A compressed magnitude is :math:`(|X|^2 + \epsilon)^{c/2}`, and a compressed spectrum X times :math:`(|X|^2 +
    \epsilon)^{(c-1)/2}`, whose slope at an empty bin is :math:`\epsilon^{(c-1)/2}`, 631 with the defaults; without the
    floor it would be infinite.

    Args:
        n_fft: points of the STFT.
        hop_length: samples between frames.
        win_length: samples of the Hann window.
        compression: c, above 0 and up to 1, which is no compression.
        magnitude_weight: of the error of compressed magnitudes; 0 leaves it out.
        complex_weight: of the error of compressed spectra with their phases; 0 leaves it out.
        floor: power added to each bin, of a signal in [-1, 1] and a window that is not normalised; 1e-8 is about the
            quantisation noise of 16-bit audio.

    Raises:
        ConfigError: an impossible STFT, ``compression`` or ``floor`` out of range, a weight below 0, or both weights 0.
    """

    def __init__(
        self,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        compression: float = 0.3,
        magnitude_weight: float = 0.7,
        complex_weight: float = 0.3,
        floor: float = 1e-8,
    ) -> None:
        require(
            self,
            (0.0 < compression <= 1.0, f"compression={compression} must be above 0 and at most 1"),
            at_least(0, magnitude_weight=magnitude_weight, complex_weight=complex_weight),
            (magnitude_weight or complex_weight, "magnitude_weight and complex_weight must not both be 0"),
            above(0, floor=floor),
        )
        super().__init__(n_fft, hop_length, win_length)
        self.compression = compression
        self.magnitude_weight = magnitude_weight
        self.complex_weight = complex_weight
        self.floor = floor

    def _error(self, estimate: Tensor, target: Tensor) -> Tensor:
        estimate_spectrum, target_spectrum = self.stft(estimate), self.stft(target)
        estimate_power = power(estimate_spectrum) + self.floor
        target_power = power(target_spectrum) + self.floor
        estimate_gain, target_gain = (p.pow((self.compression - 1.0) / 2.0) for p in (estimate_power, target_power))
        error = torch.zeros_like(target_power)
        if self.magnitude_weight:
            difference = estimate_gain * estimate_power.sqrt() - target_gain * target_power.sqrt()
            error = error + self.magnitude_weight * difference.square()
        if self.complex_weight:
            error = error + self.complex_weight * power(
                estimate_gain * estimate_spectrum - target_gain * target_spectrum
            )
        return error


class LogSpectrumMseLoss(nn.Module):
    r"""Logarithm of the squared errors of real part, imaginary part and magnitude, per item, then averaged over items.

    Le et al. 2021, "DPCRN: Dual-path convolution recurrent network for single channel speech enhancement", which adds
    the negative SNR (:class:`bcfusion.losses.waveform.SnrLoss`). With the mean m of :math:`|S - E|^2 + (|S| - |E|)^2`
    over an item's frames and bins it is :math:`\ln(1 + m / \epsilon)`: the paper's :math:`\ln(m + \epsilon)` without a
    constant, so that a perfect estimate costs 0. Public code takes the logarithm of the mean over the batch.

    Args:
        n_fft: of the generator's STFT, see :class:`~bcfusion.losses.generator_stft.GeneratorStft`.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        eps: added to m; it bounds the gradient of a nearly perfect estimate.

    Raises:
        ConfigError: an impossible STFT, or ``eps`` is not above 0.
    """

    def __init__(
        self,
        n_fft: int = 400,
        hop_length: int = 200,
        win_length: int = 400,
        window: Window = "sine",
        eps: float = 1e-8,
    ) -> None:
        require(self, above(0, eps=eps))
        super().__init__()
        self.stft = GeneratorStft(n_fft, hop_length, win_length, window)
        self.eps = eps

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a float32 scalar from ``estimate (B, 1, T)``, ``target (B, 1, T)`` and ``lengths (B,)``.

        Raises:
            ValueError: other shapes.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            estimate, target, _ = valid_samples(estimate, target, lengths)
            of_estimate, of_target = self.stft(estimate), self.stft(target)
            error = power(of_estimate - of_target) + (of_estimate.abs() - of_target.abs()).square()
            return (mean_over_frames(error, self.stft.frames(lengths)) / self.eps).log1p().mean()
