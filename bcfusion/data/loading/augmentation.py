"""Augmentation of training crops: changes to a recording that do not change what the network has to learn.

audiomentations and torch-audiomentations (0.43.1 and 0.12.0, MIT, examined in 2026) are not used: both draw from the
process's global random state, so a crop would depend on which worker made it and on what was drawn before it, and a
resumed run would not repeat; and both handle one signal, whereas here sensors, target and noise change together or one
of them alone. What would remain of them is a multiplication. Resampling, for which a library matters, is torchaudio's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from bcfusion.audio.level import SILENCE_LEVEL, active_level, amplitude
from bcfusion.data.loading.collate import Item
from bcfusion.data.loading.reader import BODY
from bcfusion.data.loading.sensor_changes import NOISE_RANGE, WIDEST_BAND, SensorChanges
from bcfusion.data.simulation import pair
from bcfusion.requirements import above, ascending, at_least, require, within

#: largest increase of the level in dB: a crop of nothing but room hum stays quiet
LARGEST_BOOST = 20.0


@dataclass(frozen=True)
class Drawn:
    """What was drawn for one crop; the defaults change nothing.

    Attributes:
        speed: how much faster all signals run.
        gain: factor on all signals, negative where they are inverted.
        body: additional factor on single sensors, by name.
        seeds: of the other changes of single sensors, by name.
    """

    speed: Fraction = Fraction(1)
    gain: float = 1.0
    body: Mapping[str, float] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)


class Augmentation:
    """Draws the changes of a training crop and applies them; by default nothing is changed.

    Speed acts on what is read, before other sensors are simulated from it. Everything else acts on the finished crop:
    sensors, target and noise are multiplied by one factor, which keeps the ratio of the sensors and the task of the
    network; only what begins with ``body_`` acts on single sensors and not on the target, which teaches the network
    that it carries no information.

    All numbers of a crop, or the seeds of those that are many, are drawn at once and in one order, needed or not, so
    that none depends on what else is enabled.

    Args:
        speed: factors in whole hundredths within [0.5, 2], one of which is drawn, all equally likely. It is applied by
            resampling, so a factor above 1 raises pitch and formants and shortens the signal. With a factor below 1 the
            spectrum ends at ``speed`` times half the sample rate, so avoid those if the network has to learn the band
            above. None: as recorded.
        level: dB re full scale, to which the active level of the target is brought (see
            :func:`bcfusion.audio.level.active_level`); it is raised by at most 20 dB, and silence stays as it is. None:
            as recorded.
        gain: lowest and highest gain in dB, on top of ``level``. None: none.
        polarity: share of the crops, in [0, 1], that are inverted.
        body_gain: lowest and highest gain in dB of each body sensor alone. None: none.
        body_polarity: share of the crops, in [0, 1], in which a body sensor alone is inverted.
        body_equalisation: standard deviation in dB of a random smooth response of each body sensor alone, as of another
            wearer or fit; see :class:`~bcfusion.data.loading.sensor_changes.SensorChanges`. None: none.
        body_equalisation_octaves: how smooth that response is.
        body_band_mask: share of the crops, in [0, 1], in which a random band of a body sensor alone is attenuated by
            40 dB.
        body_band_octaves: least and largest width of that band.
        body_noise: least and largest distance in dB of stationary noise below the active level of the body sensor to
            which it is added. None: none.
        body_sensors: names of the sensors to which all that begins with ``body_`` applies; names that the task lacks
            are ignored.

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
        body_sensors: Sequence[str] = (BODY,),
        body_equalisation: float | None = None,
        body_equalisation_octaves: float = 0.5,
        body_band_mask: float = 0.0,
        body_band_octaves: Sequence[float] = (0.5, 1.5),
        body_noise: Sequence[float] | None = None,
    ) -> None:
        factors = [] if speed is None else _speeds(speed)
        require(
            self,
            (
                speed is None or factors,
                f"speed={speed!r} must be null or factors in whole hundredths within [0.5, 2], as in [0.9,1.0,1.1]",
            ),
            [] if level is None else within(-100, 0, level=level),
            [] if gain is None else ascending(-100, 100, gain=gain),
            [] if body_gain is None else ascending(-100, 100, body_gain=body_gain),
            within(0, 1, polarity=polarity, body_polarity=body_polarity, body_band_mask=body_band_mask),
            [] if body_equalisation is None else at_least(0, body_equalisation=body_equalisation),
            above(0, body_equalisation_octaves=body_equalisation_octaves),
            ascending(0, WIDEST_BAND, body_band_octaves=body_band_octaves),
            [] if body_noise is None else ascending(*NOISE_RANGE, body_noise=body_noise),
            (not isinstance(body_sensors, str), f"body_sensors={body_sensors!r} must be a list of names, as in [body]"),
        )
        self.speeds = tuple(factors) or (Fraction(1),)
        self.level = level
        self.gain = pair((0.0, 0.0) if gain is None else gain)
        self.polarity = float(polarity)
        self.body_gain = pair((0.0, 0.0) if body_gain is None else body_gain)
        self.body_polarity = float(body_polarity)
        self.body_sensors = tuple(str(name) for name in body_sensors)
        self.changes = SensorChanges(
            body_equalisation or 0.0, body_equalisation_octaves, body_band_mask, body_band_octaves, body_noise
        )

    def problem(self, sensors: Sequence[str]) -> str | None:
        """Return what is wrong with it for a task with these sensors, or None.

        The default name is right for every task: one without a body sensor has nothing to change. Another name that
        the task lacks is a mistake.
        """
        meant = self.body_gain != (0.0, 0.0) or self.body_polarity or self.changes
        if meant and self.body_sensors != (BODY,) and not set(self.body_sensors) & set(sensors):
            return (
                f"augmentation.body_sensors={list(self.body_sensors)} must name the sensors to which body_gain, "
                f"body_polarity and the like apply, one or more of {', '.join(sensors)}"
            )
        return None

    def draw(self, generator: torch.Generator) -> Drawn:
        """Draw the changes of one crop."""
        numbers = torch.rand(3 + 2 * len(self.body_sensors), generator=generator, dtype=torch.float64).tolist()
        speed, gain, polarity, *own = numbers
        seeds = torch.randint(2**62, (len(self.body_sensors),), generator=generator).tolist()
        return Drawn(
            speed=self.speeds[int(speed * len(self.speeds))],
            gain=_factor(self.gain, gain, polarity < self.polarity),
            body={
                name: _factor(self.body_gain, own[2 * place], own[2 * place + 1] < self.body_polarity)
                for place, name in enumerate(self.body_sensors)
            },
            seeds=dict(zip(self.body_sensors, seeds, strict=True)),
        )

    def apply(self, item: Item, drawn: Drawn, sensors: Sequence[str], sample_rate: int) -> None:
        """Change a crop in place, except for its speed.

        Args:
            item: its ``inputs (S, T)``, ``target (1, T)`` and ``noise (1, T)`` are replaced. Of sensors that are still
                to be simulated, ``pending`` is given the seed of :attr:`changes`, which are then made afterwards.
            drawn: the changes of this crop.
            sensors: names of the channels of ``inputs``.
            sample_rate: in Hz.
        """
        factor = drawn.gain
        if self.level is not None:
            present = active_level(item["target"], sample_rate)
            if present > SILENCE_LEVEL:
                factor *= min(amplitude(self.level) / present, amplitude(LARGEST_BOOST))
        each = torch.tensor([[factor * drawn.body.get(name, 1.0)] for name in sensors])
        if self.changes:
            self._change(item, drawn.seeds, sensors, sample_rate)
        if factor != 1.0:
            item["target"] = item["target"] * factor
            if "noise" in item:
                item["noise"] = item["noise"] * factor
        item["inputs"] = item["inputs"] * each

    def _change(self, item: Item, seeds: Mapping[str, int], sensors: Sequence[str], sample_rate: int) -> None:
        later = {place for place, *_ in item.get("pending", ())}
        if later:
            item["pending"] = [
                (place, length, own, body, seeds.get(sensors[place])) for place, length, own, body, _ in item["pending"]
            ]
        for place, name in enumerate(sensors):
            if name in seeds and place not in later:
                changed = self.changes(item["inputs"][None, place : place + 1], [seeds[name]], sample_rate)
                item["inputs"] = torch.cat([item["inputs"][:place], changed[0], item["inputs"][place + 1 :]])


def sped(total: int, speed: Fraction) -> int:
    """Return the length of ``total`` samples after a change of speed; at least one."""
    return max(1, math.floor(total / speed))


def _speeds(given: Sequence[float]) -> list[Fraction]:
    """Return the factors as fractions, or an empty list if one of them is not valid."""
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
