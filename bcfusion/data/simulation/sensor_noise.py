"""The noise of a measured sensor, whose level swings while its wearer is silent, breathes and moves."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, interpolate, max_pool1d

from bcfusion.audio.level import SILENCE_LEVEL, active_level
from bcfusion.data.simulation.air_noise import NOMINAL_LEVEL
from bcfusion.data.simulation.fir import causal_filter, minimum_phase
from bcfusion.data.simulation.frames import ACTIVE_RANGE, NEAR_SPEECH, OVERLAP

#: seconds, standard deviation of the smoothing of the level in pauses. On 16 real throat recordings that level has a
#: correlation of 0.5 with itself 64 ms later, and of 0.3 after 128 ms.
SWING_SECONDS = 0.05
#: seconds from one value of the level to the next
STEP = 0.008


class NoiseDraw(NamedTuple):
    """Drawn for an item: white noise ``(1, T)``, and the course of its level in pauses ``(1, frames)``."""

    white: Tensor
    level: Tensor


def draw_noise(length: int, sample_rate: int, generator: torch.Generator) -> NoiseDraw:
    """Draw white noise of variance 1, and a smooth level of deviation 1 with a value each 8 ms.

    Args:
        length: T, in samples.
        sample_rate: in Hz.
        generator: of the utterance.
    """
    noise = torch.randn(1, length, generator=generator)
    width = SWING_SECONDS / STEP
    reach = math.ceil(3.0 * width)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    count = -(-length // _hop(sample_rate))
    white = torch.randn(count + 2 * reach, generator=generator)
    return NoiseDraw(noise, (white.unfold(0, len(kernel), 1) @ (kernel / kernel.norm()))[None])


def sensor_noise(drawn: NoiseDraw, air: Tensor, sample_rate: int, density: Tensor, swing: float) -> Tensor:
    """Return the noise of a batch ``(B, 1, T)``; an item without speech counts as having the nominal -26 dB.

    Args:
        drawn: stacked, ``(B, 1, T)`` and ``(B, 1, frames)``.
        air: ``(B, 1, T)``.
        sample_rate: in Hz.
        density: of the noise, in dB per Hz, relative to the power of active speech, ``(B, F)``.
        swing: standard deviation of its level over time in pauses, in dB.
    """
    levels = [active_level(item, sample_rate) for item in air.cpu()]
    speech = torch.tensor([level if level > SILENCE_LEVEL else NOMINAL_LEVEL for level in levels])
    # white noise of variance 1 has the density 2 / sample_rate
    magnitude = 10.0 ** (density / 20.0) * math.sqrt(sample_rate / 2.0) * speech.to(density)[:, None]
    noise = causal_filter(drawn.white, minimum_phase(magnitude, (density.shape[-1] - 1) // 2))
    if not swing:
        return noise
    course = swing * drawn.level * _pauses(air, sample_rate, drawn.level.shape[-1])
    return noise * 10.0 ** (interpolate(course, size=air.shape[-1], mode="linear") / 20.0)


def _pauses(air: Tensor, sample_rate: int, count: int) -> Tensor:
    """Return 1 where air is in a pause, 0 in speech, up to 64 ms around it and in silence, ``(B, 1, frames)``."""
    hop = _hop(sample_rate)
    power = avg_pool1d(air.square(), hop, hop, ceil_mode=True)[..., :count]
    # frames of 32 ms, as when calibrating
    energy = avg_pool1d(power, 2 * (OVERLAP // 2) + 1, 1, OVERLAP // 2)
    speech = (energy >= energy.amax(dim=-1, keepdim=True) * 10.0 ** (-ACTIVE_RANGE / 10.0)).to(air.dtype)
    return 1.0 - max_pool1d(speech, 2 * NEAR_SPEECH + 1, 1, NEAR_SPEECH)


def _hop(sample_rate: int) -> int:
    return round(STEP * sample_rate)
