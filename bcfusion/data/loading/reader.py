"""The sensors of one utterance, read from files or simulated, as one item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.audio import AudioFormatError
from bcfusion.audio.level import amplitude
from bcfusion.contracts import Draw, Row, Simulator
from bcfusion.data.corpora.speakers import wearer
from bcfusion.data.loading.collate import Item, Pending
from bcfusion.data.seeding import seeded, stable_seed
from bcfusion.data.simulation import takes_a_draw
from bcfusion.errors import DataError
from bcfusion.requirements import check_rates, require

AIR = "air"  #: the sensor whose signal is the target
BODY = "body"  #: the sensor to which a row's ``lag``, ``polarity`` and ``gain`` apply
# A duration in seconds, of another file or rounded, may extend slightly past the last sample of this one.
_SLACK_SECONDS = 0.05


@dataclass(frozen=True)
class SensorReader:
    """Reads or simulates the sensors of one row, all at the same position.

    A sensor is read from its file if the row has one, else made from air by its simulator. ``body`` is read ``lag``
    later, multiplied by ``polarity``, and amplified by ``gain``.

    Args:
        sensors: in the order of the network's inputs.
        simulators: by sensor; those of recorded sensors are not used.
        sample_rate: of the signals, in Hz.
        resample: whether files of another rate are resampled (else they are refused).
        deferred: sensors whose simulation in training is left to the device, see
            :mod:`bcfusion.data.simulation.device_simulation`. Such a sensor is replaced by a constant of 1, so that
            everything that scales or silences the sensor also acts on the constant, and the item holds ``air`` and
            ``pending``.
        evaluation_gain: dB by which ``body`` is amplified in evaluation, recorded or simulated, after everything else:
            how a network copes with a sensor that is louder or quieter than the others expect. Nothing is clipped.

    Raises:
        ConfigError: a simulator is not called as ``simulator(air, draw)``, or refuses the sample rate.
    """

    sensors: Sequence[str]
    simulators: Mapping[str, Simulator] = field(default_factory=dict)
    sample_rate: int = 16000
    resample: bool = True
    deferred: frozenset[str] = frozenset()
    evaluation_gain: float = 0.0

    def __post_init__(self) -> None:
        require("degradation", *(takes_a_draw(sensor, simulator) for sensor, simulator in self.simulators.items()))
        check_rates("degradation", self.simulators, self.sample_rate)

    def total(self, row: Row) -> int:
        """Return the samples of a row at ``sample_rate``."""
        return max(1, round(row.duration * self.sample_rate))

    def read(
        self,
        row: Row,
        start: int,
        length: int,
        seed: tuple[int | str, ...],
        training: bool,
        speed: Fraction = Fraction(1),
    ) -> Item:
        """Make the item of ``length`` samples that begins ``start`` samples into the row.

        Args:
            row: the utterance.
            start: at ``sample_rate``, counted from the row's offset.
            length: at ``sample_rate``.
            seed: identifies this item, in training the run's seed first. Each simulator draws from a generator seeded
                by it and the sensor's name, so that the randomness of a sensor does not depend on the other sensors.
                What models the wearer is seeded by :func:`body_seed`.
            training: passed to the simulators.
            speed: how much faster the recorded signals run, by resampling, before others are simulated from them;
                ``start`` and ``length`` count samples of the result.

        Raises:
            AudioFormatError: a file has several channels of which the row names none, or lacks the one that it names,
                or has another rate while ``resample`` is off.
            UnreadableAudio: a file cannot be read.
            DataError: a sensor has neither file nor simulator, or its simulator returns another shape.
        """
        air = self._recorded(row, AIR, start, length, speed)
        target = air
        inputs: list[Tensor] = []
        noise: Tensor | None = None
        pending: list[Pending] = []
        for place, sensor in enumerate(self.sensors):
            if sensor in row.paths:
                inputs.append(air if sensor == AIR else self._recorded(row, sensor, start, length, speed))
                continue
            if sensor not in self.simulators:
                raise DataError(f"{row.id}: no file for sensor {sensor!r} and no simulator for it")
            own, body = stable_seed(*seed, sensor), stable_seed(*body_seed(row, sensor, seed, training))
            if training and sensor in self.deferred:
                inputs.append(torch.ones_like(air))
                pending.append((place, length, own, body, None))
                continue
            draw = Draw(self.sample_rate, seeded(own), seeded(body), training)
            made = self.simulators[sensor](air.clone(), draw)
            for name, signal in made.items():
                if signal.shape != air.shape:
                    raise DataError(
                        f"the simulator of {sensor!r} returned a {name} of shape {tuple(signal.shape)} for air of "
                        f"shape {tuple(air.shape)} ({row.id})"
                    )
            inputs.append(made["signal"].to(torch.float32))
            noise = made.get("noise", noise)
            target = made.get("target", target).to(torch.float32)
        if not training and self.evaluation_gain and BODY in self.sensors:
            place = self.sensors.index(BODY)
            inputs[place] = inputs[place] * amplitude(self.evaluation_gain)
        together = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        item = Item(inputs=together, target=target, length=length, id=row.id, unreadable=[])
        if noise is not None:
            item["noise"] = noise.to(torch.float32)
        if training and self.deferred:
            item["air"], item["pending"] = air, pending
        return item

    def _recorded(self, row: Row, sensor: str, start: int, length: int, speed: Fraction) -> Tensor:
        if speed == 1:
            return self._file(row, sensor, start, length)
        rates = speed.numerator, speed.denominator
        first, last, skip = audio.RateChange(*rates).window(start, start + length, self.total(row))
        read = self._file(row, sensor, first, last - first)
        # a new tensor: a view would keep what was read around the crop, and send it to the trainer too
        return audio.resample(read, *rates)[:, skip : skip + length].clone()

    def _file(self, row: Row, sensor: str, start: int, length: int) -> Tensor:
        begin = round(row.offset * self.sample_rate) + start
        slack = round(_SLACK_SECONDS * self.sample_rate)
        if sensor == BODY:
            shift = round(row.lag * self.sample_rate)
            begin += shift
            slack += abs(shift)
        path = row.paths[sensor]
        samples = audio.read_span(path, begin, length, self.sample_rate, self.resample, slack)
        channel = row.channels.get(sensor)
        if channel is None and samples.shape[0] != 1:
            raise AudioFormatError(f"{path} has {samples.shape[0]} channels, sensor {sensor!r} is one: split or mix it")
        if channel is not None and channel >= samples.shape[0]:
            raise AudioFormatError(
                f"{path} has {samples.shape[0]} channel(s), but sensor {sensor!r} is channel {channel}, counted from 0"
            )
        signal = torch.from_numpy(samples[channel or 0][None])
        if sensor != BODY or (row.polarity > 0 and row.gain == 0):
            return signal
        return signal * (row.polarity * 10 ** (row.gain / 20))


def body_seed(row: Row, sensor: str, seed: tuple[int | str, ...], training: bool) -> tuple[int | str, ...]:
    """Return what seeds the part of a simulation that models the wearer: sensor and speaker, in training the run too.

    Args:
        row: the utterance.
        sensor: its name.
        seed: identifies the item; in training its first part is the run's seed.
        training: whether it is for training. In evaluation a speaker has the same body in all runs.
    """
    return (*(seed[:1] if training else ()), BODY, sensor, *wearer(row.speaker, row.id))
