"""What simulators of a measured sensor share: its calibration, how its response varies, and its noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d

from bcfusion.contracts import Draw
from bcfusion.data.simulation import Batched, choice, uniform
from bcfusion.data.simulation.bands import TINY
from bcfusion.data.simulation.calibration import Calibration
from bcfusion.data.simulation.following import Following, of_speech
from bcfusion.data.simulation.frames import FRAME_SECONDS
from bcfusion.data.simulation.sensor_noise import NoiseDraw, draw_noise, sensor_noise
from bcfusion.errors import DataError
from bcfusion.requirements import Rule, at_least, one_of, require

#: what the response may follow from frame to frame
Follow = Literal["spectrum", "level", "none"]
#: without the short-time model, standard deviations of the smoothing of the frame-to-frame variation, in seconds and
#: octaves. On eight real throat recordings the deviations of two frames 16 / 32 / 64 ms apart have a correlation of
#: 0.75 / 0.5 / 0.15, those of neighbouring octaves of 0.6.
WANDER_SECONDS = 0.02
WANDER_OCTAVES = 0.5
#: dB about its mean to which the level of air is limited before it changes the response
LEVEL_RANGE = 20.0
#: octaves of the smoothing of air's level over frequency, the same as when calibrating
LEVEL_OCTAVES = 1.0 / 6.0


class Curves(NamedTuple):
    """A sensor's curves ``(..., F)`` in dB: response, deviation over frames, slope over level, density of noise.

    See :class:`~bcfusion.data.simulation.calibration.Response`; ``deviation`` is the residual deviation if the response
    follows the level.
    """

    response: Tensor
    deviation: Tensor
    slope: Tensor
    noise: Tensor


class MeasuredSensor(Batched):
    """Simulates a sensor that was measured; subclasses define how its response is drawn and applied.

    The sensor's own noise has the measured spectrum and the same level relative to the active speech of each item as in
    the recordings; in pauses its level swings as measured, since a wearer breathes and moves. Noise is not returned as
    ``noise``, which is for room noise.

    Args:
        calibration: file that ``bcfusion calibrate`` wrote.
        wander: share of the measured deviation with which the response changes from frame to frame.
        follow: what the response follows from frame to frame: air's whole short-time ``spectrum``, by the measured
            model; the ``level`` of air in the same band, by the measured slope; or ``none``. Only the deviation that is
            left is drawn. A calibration without the model, of version 1 or of very little speech, follows the level.
        noise: whether the sensor's own noise is added.
        rules: of the arguments of a subclass, for :func:`bcfusion.requirements.require`.

    Raises:
        ConfigError: the file is missing or damaged, or an argument is out of range.
    """

    full_band = True  #: see :class:`bcfusion.contracts.Simulator`; a subclass that empties a band sets False

    def __init__(self, calibration: str, wander: float, follow: Follow, noise: bool, *rules: Rule) -> None:
        problem = ""
        try:
            self.calibration = Calibration.load(calibration)
        except DataError as error:
            problem = str(error)
        require(
            self, at_least(0, wander=wander), one_of(get_args(Follow), follow=follow), (not problem, problem), *rules
        )
        self.wander = float(wander)
        model = self.calibration.short_time
        self.follow: Follow = "level" if follow == "spectrum" and model is None else follow
        self._following = Following(model) if self.follow == "spectrum" and model is not None else None
        self.noise = noise
        self._swing = float(np.mean([response.noise_swing_db for response in self.calibration.responses]))
        self._wearers: dict[int, Curves] = {}

    @abstractmethod
    def curves(self, draw: Draw) -> Curves:
        """Draw the sensor of one utterance: curves ``(F,)`` over the :meth:`bins`."""

    @abstractmethod
    def bins(self, sample_rate: int) -> int:
        """Return F, the number of equidistant frequencies from 0 to half the sample rate at which gains are given."""

    @abstractmethod
    def frames(self, length: int, sample_rate: int) -> tuple[int, int]:
        """Return the number of frames of a signal, and the samples from one frame to the next."""

    @abstractmethod
    def apply(self, air: Tensor, sample_rate: int, curves: Curves, wandering: Tensor) -> Tensor:
        """Filter a batch.

        Args:
            air: ``(B, 1, T)``.
            sample_rate: in Hz.
            curves: ``(B, F)`` each.
            wandering: drawn variation of the response, for :meth:`short_time_gain`.

        Returns:
            ``(B, 1, T)``.
        """

    def batch(self, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Simulate ``air (B, 1, T)`` on its device; see :meth:`bcfusion.contracts.BatchSimulator.batch`."""
        air = air.to(torch.float32)
        sample_rate = draws[0].sample_rate
        count, hop = self.frames(air.shape[-1], sample_rate)
        drawn, wandering, noises = [], [], []
        for draw in draws:
            drawn.append(self.curves(draw))
            wandering.append(self._wandering(count, hop, sample_rate, drawn[-1].deviation, draw.generator))
            if self.noise:  # drawn last, so that nothing else changes without it
                noises.append(draw_noise(air.shape[-1], sample_rate, draw.generator))
        curves = Curves(*(torch.stack(parts).to(air.device) for parts in zip(*drawn, strict=True)))
        signal = self.apply(air, sample_rate, curves, torch.stack(wandering).to(air.device))
        if self.noise:
            noise = NoiseDraw(*(torch.stack(parts).to(air.device) for parts in zip(*noises, strict=True)))
            signal = signal + sensor_noise(noise, air, sample_rate, curves.noise, self._swing)
        return {"signal": signal}

    def wearers(self, sample_rate: int) -> Curves:
        """Return the curves of all measured wearers, ``(wearers, F)`` each, over the :meth:`bins`."""
        if sample_rate not in self._wearers:
            # a response that changes as measured makes speech incoherent by itself: nothing but its power is needed
            response = "response_db" if self._following is None else "ratio_db"
            names = (
                response,
                "deviation_db" if self.follow == "none" else "residual_db",
                "slope",
                "noise_db",
            )
            at = np.linspace(0.0, sample_rate / 2.0, self.bins(sample_rate))
            read = [torch.from_numpy(self.calibration.curves(name, at)).float() for name in names]
            self._wearers[sample_rate] = Curves(*read)
        return self._wearers[sample_rate]

    def short_time_gain(self, power: Tensor, curves: Curves, wandering: Tensor, sample_rate: int) -> Tensor:
        """Return the gain of each frame in dB, ``(B, frames, F)``, whose speech-power-weighted mean is the response.

        Args:
            power: of air, ``(B, frames, F)``.
            curves: ``(B, F)`` each.
            wandering: drawn variation of the response, in dB, ``(B, frames, F)``; with the short-time model in its
                bands.
            sample_rate: in Hz.
        """
        gain = curves.response[:, None]
        if self.follow == "none":
            return gain + wandering
        if self._following is not None:
            return gain + self._following.change(power, wandering, sample_rate)
        gain, speech = gain + wandering, of_speech(power)
        power = power @ octave_means(power.shape[-1], sample_rate, LEVEL_OCTAVES).to(power.device).T
        mean = (power * speech).sum(dim=1, keepdim=True) / speech.sum(dim=1, keepdim=True).clamp_min(1.0)
        above = 10.0 * torch.log10((power + TINY) / (mean + TINY))
        follows = speech * curves.slope[:, None] * above.clamp(-LEVEL_RANGE, LEVEL_RANGE)
        weight = power * speech + TINY
        raised = (weight * 10.0 ** (follows / 10.0)).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
        return gain + follows - 10.0 * torch.log10(raised)

    def _wandering(
        self, count: int, hop: int, sample_rate: int, deviation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw ``(frames, F)``, or bands of the model, in dB, smooth in time and frequency, whose mean power is 1."""
        if self._following is not None:
            return self.wander * self._following.draw(count, hop / sample_rate, generator)
        if not self.wander:
            return torch.zeros(count, len(deviation))
        spread = self.wander * deviation
        frames = WANDER_SECONDS * sample_rate / hop
        reach = math.ceil(4.0 * frames)
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / frames) ** 2)
        white = torch.randn(count + 2 * reach, len(deviation), generator=generator)
        slow = conv1d(white.T[:, None], (kernel / kernel.norm())[None, None])[:, 0].T
        smooth = slow @ unit_rows(len(deviation), sample_rate, WANDER_OCTAVES).T
        # the mean of 10^(x/10) is above 1 for a Gaussian x of mean 0
        return spread * smooth - math.log(10.0) / 20.0 * spread.square()


def mixed(wearers: Curves, body: torch.Generator) -> Curves:
    """Draw the curves of a wearer between two of those measured, ``(F,)`` each, interpolated in dB."""
    count = len(wearers.response)
    first, second = choice(count, body), choice(count, body)
    weight = uniform(0.0, 1.0, body)
    return Curves(*(torch.lerp(curve[first], curve[second], weight) for curve in wearers))


def around(wearers: Curves, spread: float, body: torch.Generator) -> Curves:
    """Draw the curves of a wearer from a Gaussian, ``(F,)`` each: response and noise together, the rest is the mean.

    A sum of the differences from the mean, each times a standard normal number, has the covariance of the wearers.

    Args:
        wearers: curves of all those measured, ``(wearers, F)`` each.
        spread: share of their deviation.
        body: generator of the speaker.
    """
    count = len(wearers.response)
    normal = torch.randn(count, generator=body) * spread / math.sqrt(max(count - 1, 1))
    mean = Curves(*(curve.mean(dim=0) for curve in wearers))
    response, noise = (
        centre + normal @ (curve - centre)
        for curve, centre in ((wearers.response, mean.response), (wearers.noise, mean.noise))
    )
    return mean._replace(response=response, noise=noise)


def smooth_curve(bins: int, sample_rate: int, octaves: float, generator: torch.Generator) -> Tensor:
    """Draw a curve ``(F,)`` over frequency, of mean 0 and deviation 1 at each, smooth over the given octaves."""
    return unit_rows(bins, sample_rate, octaves) @ torch.randn(bins, generator=generator)


@lru_cache(maxsize=16)
def octave_means(bins: int, sample_rate: int, octaves: float) -> Tensor:
    """Return the matrix ``(F, F)``, with rows of sum 1, that averages a curve over frequency.

    Args:
        bins: F, the number of equidistant frequencies from 0 to half the sample rate.
        sample_rate: in Hz.
        octaves: standard deviation of the Gaussian averaged over; at least one bin.
    """
    at = torch.linspace(0.0, sample_rate / 2.0, bins, dtype=torch.float64)
    width = (at * (2.0**octaves - 1.0)).clamp_min(float(at[1]))[:, None]
    kernel = torch.exp(-0.5 * ((at - at[:, None]) / width) ** 2)
    return (kernel / kernel.sum(dim=1, keepdim=True)).to(torch.float32)


@lru_cache(maxsize=16)
def unit_rows(bins: int, sample_rate: int, octaves: float) -> Tensor:
    """Return :func:`octave_means` with rows of norm 1, which keep the variance of white noise."""
    means = octave_means(bins, sample_rate, octaves)
    return means / means.norm(dim=1, keepdim=True)


def even_frame(sample_rate: int) -> int:
    """Return the samples of a frame of 32 ms, rounded to a multiple of four."""
    return 4 * round(FRAME_SECONDS * sample_rate / 4)
