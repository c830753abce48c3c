"""What simulators of a measured sensor share: its calibration, how its response wanders, and its noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d

from bcfusion.audio.level import SILENCE_LEVEL, active_level
from bcfusion.data.simulation import Batched, choice, uniform
from bcfusion.data.simulation.air_noise import NOMINAL_LEVEL
from bcfusion.data.simulation.calibration import Calibration
from bcfusion.data.simulation.estimation import ACTIVE_RANGE, FRAME_SECONDS
from bcfusion.data.simulation.fir import causal_filter, minimum_phase
from bcfusion.errors import BcfusionError, ConfigError

#: seconds and octaves, standard deviations of the smoothing of what wanders. On eight real throat recordings the
#: deviation of a frame and of another 16 / 32 / 64 ms later correlate by 0.75 / 0.5 / 0.15, those of neighbouring
#: octaves by 0.6.
WANDER_SECONDS = 0.02
WANDER_OCTAVES = 0.5
#: dB about its mean within which the level of air moves the response
LEVEL_RANGE = 20.0
#: octaves of the smoothing of air's level over frequency, as calibrations measure it
LEVEL_OCTAVES = 1.0 / 6.0
TINY = 1e-20


class Curves(NamedTuple):
    """A sensor's curves ``(..., F)``: response, deviation from frame to frame, slope over level, noise density, in dB.

    As in :class:`~bcfusion.data.simulation.calibration.Response`; ``deviation`` is the residual one where the response
    follows the level.
    """

    response: Tensor
    deviation: Tensor
    slope: Tensor
    noise: Tensor


class MeasuredSensor(Batched):
    """Simulates a sensor that was measured; the classes beneath it say how its response is drawn and applied.

    The sensor's own noise has the measured spectrum and lies below the active speech of each item as far as it did in
    the recordings; below an item without speech as if that had the nominal -26 dB. It is no ``noise`` of a room.

    Args:
        calibration: file that ``bcfusion calibrate`` wrote.
        wander: share of the measured deviation with which the response changes from frame to frame.
        follow_level: whether the response falls where air is loud, by the measured slope, and only what that does not
            explain is drawn.
        noise: whether the sensor's own noise is added.

    Raises:
        ConfigError: the file is missing or damaged, or ``wander`` out of range.
    """

    models_body = True

    def __init__(self, calibration: str, wander: float, follow_level: bool, noise: bool) -> None:
        owner = type(self).__name__
        problems = []
        if not 0.0 <= wander < math.inf:
            problems.append(f"{owner}: wander={wander!r} must be 0 or more, 1 for what was measured")
        try:
            self.calibration = Calibration.load(calibration)
        except BcfusionError as error:
            problems.append(f"{owner}: {error}")
        if problems:
            raise ConfigError(problems)
        self.wander = float(wander)
        self.follow_level = follow_level
        self.noise = noise
        self._wearers: dict[int, Curves] = {}

    @abstractmethod
    def draw(self, sample_rate: int, body: torch.Generator, generator: torch.Generator, training: bool) -> Curves:
        """The sensor of one utterance, ``(F,)`` curves over the :meth:`bins`."""

    @abstractmethod
    def bins(self, sample_rate: int) -> int:
        """F, at how many equidistant frequencies from 0 to half the sample rate gains are given."""

    @abstractmethod
    def frames(self, length: int, sample_rate: int) -> tuple[int, int]:
        """How many frames a signal has, and how many samples lie between them."""

    @abstractmethod
    def apply(self, air: Tensor, sample_rate: int, curves: Curves, wandering: Tensor) -> Tensor:
        """Filter: air ``(B, 1, T)``, curves ``(B, F)``, ``wandering (B, frames, F)`` in dB; gives ``(B, 1, T)``."""

    def batch(
        self,
        air: Tensor,
        sample_rate: int,
        generators: Sequence[torch.Generator],
        training: bool,
        bodies: Sequence[torch.Generator] | None = None,
    ) -> dict[str, Tensor]:
        """Clean speech ``air (B, 1, T)`` on its device; see :class:`bcfusion.contracts.BatchSimulator`."""
        air = air.to(torch.float32)
        count, hop = self.frames(air.shape[-1], sample_rate)
        drawn, wandering, white = [], [], []
        for generator, body in zip(generators, bodies or generators, strict=True):
            curves = self.draw(sample_rate, body, generator, training)
            drawn.append(curves)
            wandering.append(self._wandering(count, hop, sample_rate, curves.deviation, generator))
            if self.noise:  # drawn last: without it nothing else changes
                white.append(torch.randn(1, air.shape[-1], generator=generator))
        curves = Curves(*(torch.stack(parts).to(air.device) for parts in zip(*drawn, strict=True)))
        signal = self.apply(air, sample_rate, curves, torch.stack(wandering).to(air.device))
        if self.noise:
            signal = signal + self._noise(torch.stack(white).to(air.device), air, sample_rate, curves.noise)
        return {"signal": signal}

    def wearers(self, sample_rate: int) -> Curves:
        """Of all who were measured, ``(wearers, F)`` each, over the :meth:`bins`."""
        if sample_rate not in self._wearers:
            names = ("response_db", "residual_db" if self.follow_level else "deviation_db", "slope", "noise_db")
            at = np.linspace(0.0, sample_rate / 2.0, self.bins(sample_rate))
            read = [torch.from_numpy(self.calibration.curves(name, at)).float() for name in names]
            self._wearers[sample_rate] = Curves(*read)
        return self._wearers[sample_rate]

    def short_time_gain(self, power: Tensor, curves: Curves, wandering: Tensor, sample_rate: int) -> Tensor:
        """Gain in dB of each frame, ``(B, frames, F)``, whose mean over the power of speech is the response.

        Args:
            power: ``(B, frames, F)`` of air.
            curves: ``(B, F)``.
            wandering: ``(B, frames, F)``, drawn, in dB.
            sample_rate: in Hz.
        """
        gain = curves.response[:, None] + wandering
        if not self.follow_level:
            return gain
        power = power @ octave_means(power.shape[-1], sample_rate, LEVEL_OCTAVES).to(power.device).T
        energy = power.sum(dim=-1, keepdim=True)
        top = energy.amax(dim=1, keepdim=True)
        speech = (energy > top * 10.0 ** (-ACTIVE_RANGE / 10.0)).to(power.dtype)
        mean = (power * speech).sum(dim=1, keepdim=True) / speech.sum(dim=1, keepdim=True).clamp_min(1.0)
        above = 10.0 * torch.log10((power + TINY) / (mean + TINY))
        follows = speech * curves.slope[:, None] * above.clamp(-LEVEL_RANGE, LEVEL_RANGE)
        weight = power * speech + TINY
        raised = (weight * 10.0 ** (follows / 10.0)).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
        return gain + follows - 10.0 * torch.log10(raised)

    def _wandering(
        self, count: int, hop: int, sample_rate: int, deviation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """``(frames, F)`` in dB, of the deviation given, smooth in time and frequency; 1 in the mean of the power."""
        if not self.wander:
            return torch.zeros(count, len(deviation))
        spread = self.wander * deviation
        frames = WANDER_SECONDS * sample_rate / hop
        reach = math.ceil(4.0 * frames)
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / frames) ** 2)
        white = torch.randn(count + 2 * reach, len(deviation), generator=generator)
        slow = conv1d(white.T[:, None], (kernel / kernel.norm())[None, None])[:, 0].T
        smooth = slow @ unit_rows(len(deviation), sample_rate, WANDER_OCTAVES).T
        # the mean of 10^(x/10) over a Gaussian x dB is above 1
        return spread * smooth - math.log(10.0) / 20.0 * spread.square()

    def _noise(self, white: Tensor, air: Tensor, sample_rate: int, density: Tensor) -> Tensor:
        levels = [active_level(item, sample_rate) for item in air.cpu()]
        heard = torch.tensor([level if level > SILENCE_LEVEL else NOMINAL_LEVEL for level in levels])
        # white noise of variance 1 has the density 2 / sample_rate
        magnitude = 10.0 ** (density / 20.0) * math.sqrt(sample_rate / 2.0) * heard.to(density)[:, None]
        return causal_filter(white, minimum_phase(magnitude, (density.shape[-1] - 1) // 2))


def mixed(wearers: Curves, body: torch.Generator) -> Curves:
    """The curves of a wearer between two of those who were measured, ``(F,)`` each, interpolated in dB."""
    count = len(wearers.response)
    first, second = choice(count, body), choice(count, body)
    weight = uniform(0.0, 1.0, body)
    return Curves(*(torch.lerp(curve[first], curve[second], weight) for curve in wearers))


def smooth_curve(bins: int, sample_rate: int, octaves: float, generator: torch.Generator) -> Tensor:
    """A random curve ``(F,)`` over frequency, of mean 0 and deviation 1 at each, smooth over so many octaves."""
    return unit_rows(bins, sample_rate, octaves) @ torch.randn(bins, generator=generator)


@lru_cache(maxsize=16)
def octave_means(bins: int, sample_rate: int, octaves: float) -> Tensor:
    """Means over a Gaussian of so many octaves to either side, and at least of a bin.

    ``(F, F)``, rows of sum 1, over ``bins`` equidistant frequencies from 0 to half the sample rate.
    """
    at = torch.linspace(0.0, sample_rate / 2.0, bins, dtype=torch.float64)
    width = (at * (2.0**octaves - 1.0)).clamp_min(float(at[1]))[:, None]
    kernel = torch.exp(-0.5 * ((at - at[:, None]) / width) ** 2)
    return (kernel / kernel.sum(dim=1, keepdim=True)).to(torch.float32)


@lru_cache(maxsize=16)
def unit_rows(bins: int, sample_rate: int, octaves: float) -> Tensor:
    """:func:`octave_means` with rows of norm 1: white noise of variance 1 keeps its variance."""
    means = octave_means(bins, sample_rate, octaves)
    return means / means.norm(dim=1, keepdim=True)


def even_frame(sample_rate: int) -> int:
    """Samples of a frame of 32 ms, a multiple of four."""
    return 4 * round(FRAME_SECONDS * sample_rate / 4)
