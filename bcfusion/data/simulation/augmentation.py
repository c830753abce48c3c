"""Augmentation of training crops: what may change in a recording without changing what the network has to learn.

The draws are made here and not by audiomentations or torch-audiomentations (0.43.1 and 0.12.0, MIT, looked at in
2026): both draw from the process's global random state, so that a crop would depend on which worker made it and on what
was drawn before it, and a resumed run would not repeat; and both know one signal, where here sensors, target and noise
change together or one of them alone. What is left of them is a multiplication. Resampling, where a library matters, is
torchaudio's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from bcfusion.audio.level import SILENCE_LEVEL, active_level, amplitude
from bcfusion.data.loading.collate import Item
from bcfusion.data.simulation import checked_range
from bcfusion.errors import ConfigError

#: dB by which the level is raised at most: a crop of nothing but a room's hum stays quiet
LARGEST_BOOST = 20.0
#: samples, at the lower of the two rates, that the resampler hears to either side: 64 zero crossings and some
_RESAMPLER_REACH = 80


@dataclass(frozen=True)
class Drawn:
    """What was drawn for one crop. Without arguments: nothing is changed.

    Attributes:
        speed: how much faster all signals run.
        gain: factor on all signals, negative where they are inverted.
        body: further factor on single sensors, by name.
    """

    speed: Fraction = Fraction(1)
    gain: float = 1.0
    body: Mapping[str, float] = field(default_factory=dict)


class Augmentation:
    """Draws and makes the changes of a training crop; by default it changes nothing.

    Speed acts on what is read, before other sensors are simulated from it. Everything else acts on the finished crop:
    on all sensors, the target and the noise by one factor, which keeps the ratio of the sensors and what the network
    has to do; ``body_gain`` and ``body_polarity`` alone act on single sensors and not on the target, which teaches the
    network that neither tells anything.

    All numbers of a crop are drawn at once and in one order, needed or not, so that none depends on what else is
    switched on.

    Args:
        speed: factors, one of which is drawn, all equally likely, in whole hundredths within [0.5, 2]: resampling, so
            pitch and formants rise by it and the duration falls. Below 1 the signals end at ``speed`` times half the
            sample rate: nothing for a network that is to learn what lies there. None: as recorded.
        level: dB re full scale, to which the active level of the target is brought (see
            :func:`bcfusion.audio.level.active_level`); raised by 20 dB at most, and silence is left alone. None: as
            recorded.
        gain: lowest and highest gain in dB, on top of ``level``. None: none.
        polarity: share of the crops, in [0, 1], that are inverted.
        body_gain: lowest and highest gain in dB of each body sensor by itself. None: none.
        body_polarity: share of the crops, in [0, 1], in which a body sensor is inverted by itself.
        body_sensors: names of the sensors that the last two are for; those that a task has not do not matter.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        speed: Sequence[float] | None = None,
        level: float | None = None,
        gain: Sequence[float] | None = None,
        polarity: float = 0.0,
        body_gain: Sequence[float] | None = None,
        body_polarity: float = 0.0,
        body_sensors: Sequence[str] = ("body",),
    ) -> None:
        problems = []
        for name, share in (("polarity", polarity), ("body_polarity", body_polarity)):
            if not 0.0 <= share <= 1.0:
                problems.append(f"Augmentation: {name}={share!r} must lie between 0 and 1")
        if level is not None and not -100.0 <= level <= 0.0:
            problems.append(f"Augmentation: level={level!r} must be null or a number of dB within [-100, 0]")
        if isinstance(body_sensors, str):
            problems.append(f"Augmentation: body_sensors={body_sensors!r} must be a list of names, as in [body]")
        factors = [] if speed is None else _speeds(speed)
        if speed is not None and not factors:
            problems.append(
                f"Augmentation: speed={speed!r} must be null or factors in whole hundredths within [0.5, 2], "
                "as in [0.9,1.0,1.1]"
            )
        if problems:
            raise ConfigError(problems)
        self.speeds = tuple(factors) or (Fraction(1),)
        self.level = level
        self.gain = (0.0, 0.0) if gain is None else checked_range("Augmentation", "gain", gain, -100.0, 100.0)
        self.polarity = float(polarity)
        self.body_gain = (
            (0.0, 0.0) if body_gain is None else checked_range("Augmentation", "body_gain", body_gain, -100.0, 100.0)
        )
        self.body_polarity = float(body_polarity)
        self.body_sensors = tuple(str(name) for name in body_sensors)

    def problem(self, sensors: Sequence[str]) -> str | None:
        """What is wrong with it for a task with these sensors, or None."""
        meant = self.body_gain != (0.0, 0.0) or self.body_polarity
        if meant and not set(self.body_sensors) & set(sensors):
            return (
                f"data.augmentation.body_sensors: none of {', '.join(self.body_sensors) or 'no names'} is a sensor of "
                f"the task ({', '.join(sensors)}): name those that body_gain and body_polarity are for"
            )
        return None

    def draw(self, generator: torch.Generator) -> Drawn:
        """Draws the changes of one crop."""
        numbers = torch.rand(3 + 2 * len(self.body_sensors), generator=generator, dtype=torch.float64).tolist()
        speed, gain, polarity, *own = numbers
        return Drawn(
            speed=self.speeds[int(speed * len(self.speeds))],
            gain=_factor(self.gain, gain, polarity < self.polarity),
            body={
                name: _factor(self.body_gain, own[2 * place], own[2 * place + 1] < self.body_polarity)
                for place, name in enumerate(self.body_sensors)
            },
        )

    def apply(self, item: Item, drawn: Drawn, sensors: Sequence[str], sample_rate: int) -> None:
        """Changes a crop in place, all but its speed.

        Args:
            item: its ``inputs (S, T)``, ``target (1, T)`` and ``noise (1, T)`` are replaced.
            drawn: for this crop.
            sensors: names of the channels of ``inputs``.
            sample_rate: in Hz.
        """
        factor = drawn.gain
        if self.level is not None:
            present = active_level(item["target"], sample_rate)
            if present > SILENCE_LEVEL:
                factor *= min(amplitude(self.level) / present, amplitude(LARGEST_BOOST))
        each = torch.tensor([[factor * drawn.body.get(name, 1.0)] for name in sensors])
        if factor != 1.0:
            item["target"] = item["target"] * factor
            if "noise" in item:
                item["noise"] = item["noise"] * factor
        item["inputs"] = item["inputs"] * each


def sped(total: int, speed: Fraction) -> int:
    """Samples that ``total`` samples have when they run faster by ``speed``; at least one."""
    return max(1, math.floor(total / speed))


def source_span(start: int, length: int, total: int, speed: Fraction) -> tuple[int, int, int]:
    """Which samples to read in order to have some of a signal that runs faster by ``speed``.

    Args:
        start: first sample wanted. length: how many. total: samples of the signal as it is recorded.
        speed: how much faster it shall run.

    Returns:
        First sample to read and how many, with what the resampler hears on either side as far as there is some; and how
        many samples of the resampled stretch lie before the first that is wanted. The first sample read is one that the
        resampler's phases begin anew at, so that a stretch equals the same cut of the whole resampled signal.
    """
    reach = math.ceil(_RESAMPLER_REACH * max(1.0, float(speed)))
    period = max(0, (math.floor(start * speed) - reach) // speed.numerator)
    first = period * speed.numerator
    last = min(total, math.ceil((start + length) * speed) + reach)
    return first, last - first, start - period * speed.denominator


def _speeds(given: Sequence[float]) -> list[Fraction]:
    """The factors as fractions; empty where one of them is no such number."""
    try:
        hundredths = [100.0 * float(factor) for factor in given]
    except (TypeError, ValueError):
        return []
    # coarse steps keep the resampler's filter bank small: it has a filter for each hundredth
    if any(not 50.0 <= number <= 200.0 or abs(number - round(number)) > 1e-6 for number in hundredths):
        return []
    return [Fraction(round(number), 100) for number in hundredths]


def _factor(decibels: tuple[float, float], place: float, inverted: bool) -> float:
    low, high = decibels
    return amplitude(low + (high - low) * place) * (-1.0 if inverted else 1.0)
