"""The short-time model at work: changes of a simulated sensor's response that follow the spectrum of air, and draws."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bcfusion.data.simulation.bands import TINY, band_levels, band_matrices, frame_levels
from bcfusion.data.simulation.frames import ACTIVE_RANGE
from bcfusion.data.simulation.short_time import ShortTime

#: dB to which the changes that follow from air are limited; the model is linear, air may be unlike that measured
FOLLOWS_LIMIT = 30.0
#: share of the drawn deviation that is left after frames that overlap have been added
KEPT = 0.93
#: share of the frames of air that count as noise alone; power of the noise over the quantile of that share; dB by
#: which it is at least below the speech; dB by which it is reduced at most
QUIET_SHARE, QUIET_FACTOR = 0.1, 4.0
NOISE_BELOW, MOST_REDUCTION = 25.0, 20.0


def of_speech(power: Tensor) -> Tensor:
    """Return 1 for frames of speech, else 0, ``(B, frames, 1)``: those at most 35 dB below the loudest.

    Args:
        power: of air, ``(B, frames, F)``.
    """
    energy = power.sum(dim=-1, keepdim=True)
    return (energy > energy.amax(dim=1, keepdim=True) * 10.0 ** (-ACTIVE_RANGE / 10.0)).to(power.dtype)


def _without_noise(bands: Tensor, speech: Tensor) -> Tensor:
    """Return the gain in dB that takes the noise of the room, and of the air microphone, out of ``(B, frames, bands)``.

    A body sensor does not hear it. The noise is what air is at most in its quietest frames, but below the speech.
    """
    count = bands.shape[1]
    place = int(QUIET_SHARE * (count - 1))
    quiet = bands.sort(dim=1).values[:, place : place + 1]  # torch's kthvalue is not deterministic on a GPU
    mean = (bands * speech).sum(dim=1, keepdim=True) / speech.sum(dim=1, keepdim=True).clamp_min(1.0)
    noise = torch.minimum(QUIET_FACTOR * quiet, mean * 10.0 ** (-NOISE_BELOW / 10.0))
    return 10.0 * torch.log10((1.0 - noise / (bands + TINY)).clamp_min(10.0 ** (-MOST_REDUCTION / 10.0)))


class Following:
    """Applies a :class:`~bcfusion.data.simulation.short_time.ShortTime` in a simulator.

    Args:
        model: the measured model.
    """

    def __init__(self, model: ShortTime) -> None:
        self.centres = tuple(model.centres.tolist())
        self.weights = torch.from_numpy(model.weights).float()
        values, vectors = np.linalg.eigh(model.correlation)
        root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
        self.root = torch.from_numpy(model.deviation_db[:, None] * root).float()
        self.decay = torch.from_numpy(model.decay).float()
        self.model = model

    def change(self, power: Tensor, residual: Tensor, sample_rate: int) -> Tensor:
        """Return the change of the gain in dB ``(B, frames, F)``; the long-term spectrum of the speech is unchanged.

        Args:
            power: of air, ``(B, frames, F)``, F equidistant frequencies from 0 to half the sample rate.
            residual: drawn by :meth:`draw`, ``(B, frames, bands)``.
            sample_rate: in Hz.
        """
        to_bands, over_frequency = (
            matrix.to(power) for matrix in band_matrices(self.centres, power.shape[-1], sample_rate)
        )
        bands, speech = power @ to_bands, of_speech(power)
        follows = band_levels(bands, speech) @ self.weights.to(power).T
        larger = torch.exp(-self.decay.to(power) * frame_levels(bands, speech))
        change = follows.clamp(-FOLLOWS_LIMIT, FOLLOWS_LIMIT) + larger * residual
        change = change + _without_noise(bands, speech) * (1.0 - speech)
        weight = bands * speech + TINY
        raised = (weight * 10.0 ** (change / 10.0)).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
        return (change - 10.0 * torch.log10(raised)) @ over_frequency

    def draw(self, count: int, seconds: float, generator: torch.Generator) -> Tensor:
        """Draw residuals ``(frames, bands)`` in dB of frames of the mean level, correlated over time and bands.

        Args:
            count: frames.
            seconds: from frame to frame.
            generator: of the utterance.
        """
        kernel = self._kernel(seconds)
        white = torch.randn(count + len(kernel) - 1, len(self.centres), generator=generator)
        slow = torch.einsum("tbk,k->tb", white.unfold(0, len(kernel), 1), kernel)
        return slow @ self.root.T / KEPT

    def _kernel(self, seconds: float) -> Tensor:
        """Return the symmetric filter of norm 1 that gives white noise the measured memory."""
        end = (len(self.model.memory) - 1) * self.model.step
        lags = max(1, math.ceil(end / seconds))
        at = seconds * np.arange(lags + 1)
        memory = np.interp(at, self.model.step * np.arange(len(self.model.memory)), self.model.memory, right=0.0)
        fade = np.linspace(0.0, 2.0, lags + 1).clip(1.0) - 1.0  # over the second half: its spectrum has no ripples
        memory = memory * np.cos(0.5 * np.pi * fade) ** 2
        power = np.fft.rfft(np.concatenate([memory, memory[:0:-1]])).real.clip(0.0)
        kernel = np.fft.fftshift(np.fft.irfft(np.sqrt(power), n=2 * lags + 1))
        return torch.from_numpy(kernel / np.linalg.norm(kernel)).float()
