"""The two views of a corpus: random crops for training, whole files for evaluation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from bcfusion import audio
from bcfusion.audio import AudioFormatError, UnreadableAudio
from bcfusion.contracts import UNKNOWN_SPEAKER, Row, Simulator
from bcfusion.data.loading.collate import Item, Pending
from bcfusion.data.loading.seeding import generator_for, stable_seed
from bcfusion.data.simulation import models_body, simulate
from bcfusion.data.simulation.augmentation import Augmentation, Drawn, source_span, sped
from bcfusion.errors import DataError

AIR = "air"  #: the sensor whose signal is the target
BODY = "body"  #: the sensor that a row's ``lag``, ``polarity`` and ``gain`` speak of
# A duration in seconds, of another file or after rounding, may reach a little behind the last sample of this one.
_SLACK_SECONDS = 0.05
_ATTEMPTS = 8


@dataclass(frozen=True)
class SensorReader:
    """Reads or simulates the sensors of one row, all at the same position.

    A sensor that the row has a file for is read from it, else it is made from air by its simulator. ``body`` is read
    ``lag`` later, times ``polarity``, and amplified by ``gain``.

    Args:
        sensors: in the order of the network's inputs.
        simulators: by sensor; those of recorded sensors are not used.
        sample_rate: of the signals, in Hz.
        resample: whether files of another rate are resampled (else refused).
        deferred: sensors whose simulation in training is left to the device, see
            :mod:`bcfusion.data.simulation.device_simulation`. In the place of such a sensor stands a constant of 1, so
            that whatever scales or silences the sensor does it to this one, and the item holds ``air`` and ``pending``.
    """

    sensors: Sequence[str]
    simulators: Mapping[str, Simulator] = field(default_factory=dict)
    sample_rate: int = 16000
    resample: bool = True
    deferred: frozenset[str] = frozenset()

    def total(self, row: Row) -> int:
        """Samples of a row at ``sample_rate``."""
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
            seed: names this item, in training the run's seed first; each simulator draws from a generator of its own,
                seeded by it and the sensor's name, so that one sensor's randomness does not depend on which others
                stand beside it. What models the wearer is seeded by :func:`body_seed`.
            training: handed on to the simulators.
            speed: how much faster the recorded signals run, by resampling, before others are simulated from them;
                ``start`` and ``length`` count samples of the result.

        Raises:
            AudioFormatError: a file has several channels of which the row names none, or not the one that it names, or
                another rate while ``resample`` is off.
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
            if training and sensor in self.deferred:
                inputs.append(torch.ones_like(air))
                worn = models_body(self.simulators[sensor])
                body = stable_seed(*body_seed(row, sensor, seed, training)) if worn else None
                pending.append((place, length, stable_seed(*seed, sensor), body))
                continue
            made = self._simulate(row, sensor, air.clone(), seed, training)
            for name, signal in made.items():
                if signal.shape != air.shape:
                    raise DataError(
                        f"the simulator of {sensor!r} returned a {name} of shape {tuple(signal.shape)} for air of "
                        f"shape {tuple(air.shape)} ({row.id})"
                    )
            inputs.append(made["signal"].to(torch.float32))
            noise = made.get("noise", noise)
            target = made.get("target", target).to(torch.float32)
        together = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        item = Item(inputs=together, target=target, length=length, id=row.id, unreadable=[])
        if noise is not None:
            item["noise"] = noise.to(torch.float32)
        if training and self.deferred:
            item["air"], item["pending"] = air, pending
        return item

    def _simulate(
        self, row: Row, sensor: str, air: Tensor, seed: tuple[int | str, ...], training: bool
    ) -> dict[str, Tensor]:
        simulator = self.simulators[sensor]
        body = generator_for(*body_seed(row, sensor, seed, training)) if models_body(simulator) else None
        return simulate(simulator, air, self.sample_rate, generator_for(*seed, sensor), training, body)

    def _recorded(self, row: Row, sensor: str, start: int, length: int, speed: Fraction) -> Tensor:
        if speed == 1:
            return self._file(row, sensor, start, length)
        first, frames, before = source_span(start, length, self.total(row), speed)
        heard = self._file(row, sensor, first, frames)
        # a fresh tensor: a view would keep what was read around the crop, and go to the trainer with it
        return audio.resample(heard, speed.numerator, speed.denominator)[:, before : before + length].clone()

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
    """What seeds the part of a simulation that models the wearer: sensor and speaker, in training the run's seed too.

    Utterances of unknown speakers count as each of another speaker: as one, a whole corpus without names would be
    heard through one head.

    Args:
        row: the utterance.
        sensor: its name.
        seed: names the item; in training its first part is the run's seed.
        training: whether it is for training. In evaluation a speaker has one body in all runs.
    """
    wearer = ("utterance", row.id) if row.speaker == UNKNOWN_SPEAKER else ("speaker", row.speaker)
    return (*(seed[:1] if training else ()), BODY, sensor, *wearer)


class TrainSegments(Dataset[Item]):
    """Random crops of a fixed length, each a function of ``(seed, epoch, index)`` alone.

    An epoch visits a row ``max(1, round(duration / segment_seconds))`` times, so that long files count in proportion;
    each visit draws its own position. A clip shorter than the segment is taken whole and padded with zeros behind;
    ``length`` is what it has.

    A file that cannot be read, is truncated or holds NaN is replaced by another row, drawn from the same three numbers,
    and stands in the item's ``unreadable``.

    Args:
        rows: at least one.
        reader: reads and simulates the sensors.
        segment_seconds: length of a crop.
        seed: of the run.
        sensor_dropout: share of the crops, 0 to 1, in which one sensor, any of them, is silent: a fusion network learns
            to do without it. A single sensor is never taken away.
        augmentation: changes the crops, by draws that are seeded by ``(seed, epoch, index)`` as well; None: nothing is
            changed.

    Raises:
        DataError: there are no rows; or, on access, eight rows in succession cannot be read.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        reader: SensorReader,
        segment_seconds: float,
        seed: int,
        sensor_dropout: float = 0.0,
        augmentation: Augmentation | None = None,
    ) -> None:
        if not rows:
            raise DataError("no utterances to train on")
        self.rows = list(rows)
        self.reader = reader
        self.seed = seed
        self.sensor_dropout = sensor_dropout
        self.augmentation = augmentation
        self.segment_seconds = segment_seconds
        self.segment = max(1, round(segment_seconds * reader.sample_rate))
        self._visits_up_to = list(accumulate(map(self.visits, self.rows)))

    def __len__(self) -> int:
        """Items of an epoch: visits to all rows together."""
        return self._visits_up_to[-1]

    def visits(self, row: Row) -> int:
        """How often an epoch visits a row."""
        return max(1, round(row.duration / self.segment_seconds))

    def row_of(self, index: int) -> int:
        """Which row the item ``index`` of an epoch is a crop of."""
        return bisect_right(self._visits_up_to, index)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        position = self.row_of(index)
        unreadable: list[str] = []
        problem = ""
        for attempt in range(_ATTEMPTS):
            generator = generator_for(self.seed, "crop", epoch, index, attempt)
            if attempt:
                position = self.row_of(int(torch.randint(len(self), (1,), generator=generator)))
            try:
                item = self.crop(self.rows[position], generator, epoch, index, attempt)
            except UnreadableAudio as error:
                problem = str(error)
                unreadable.append(error.path)
                continue
            item["unreadable"] = unreadable
            return item
        raise DataError(f"{_ATTEMPTS} utterances in succession cannot be read; the last: {problem}")

    def crop(self, row: Row, generator: torch.Generator, epoch: int, index: int, attempt: int = 0) -> Item:
        """One crop of a row, augmented and padded to the length of a segment.

        Args:
            row: any, not only one of those of this view.
            generator: draws the place.
            epoch, index, attempt: name everything else that is drawn.

        Raises:
            UnreadableAudio: a file of the row cannot be read.
        """
        drawn = self._drawn(epoch, index)
        total = sped(self.reader.total(row), drawn.speed)
        length = min(total, self.segment)
        start = int(torch.randint(total - length + 1, (1,), generator=generator))
        seed = (self.seed, "simulate", epoch, index, attempt)
        item = self.reader.read(row, start, length, seed, training=True, speed=drawn.speed)
        if self.augmentation is not None:
            self.augmentation.apply(item, drawn, self.reader.sensors, self.reader.sample_rate)
        self._drop_sensor(item["inputs"], epoch, index)
        if length < self.segment:
            behind = (0, self.segment - length)
            item["inputs"], item["target"] = pad(item["inputs"], behind), pad(item["target"], behind)
            if "noise" in item:
                item["noise"] = pad(item["noise"], behind)
            if "air" in item:
                item["air"] = pad(item["air"], behind)
        return item

    def _drawn(self, epoch: int, index: int) -> Drawn:
        if self.augmentation is None:
            return Drawn()
        return self.augmentation.draw(generator_for(self.seed, "augment", epoch, index))

    def _drop_sensor(self, inputs: Tensor, epoch: int, index: int) -> None:
        sensors = inputs.shape[0]
        if sensors > 1 and self.sensor_dropout:
            generator = generator_for(self.seed, "sensor_dropout", epoch, index)
            if float(torch.rand((), generator=generator)) < self.sensor_dropout:
                inputs[int(torch.randint(sensors, (1,), generator=generator))] = 0


class EvalItems(Dataset[Item]):
    """Whole utterances, the same bytes on every run: simulators draw from a generator seeded by the row's id.

    Args:
        rows: the utterances, in the order of access.
        reader: reads and simulates the sensors.
    """

    def __init__(self, rows: Sequence[Row], reader: SensorReader) -> None:
        self.rows = list(rows)
        self.reader = reader

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        return self.reader.read(row, 0, self.reader.total(row), ("evaluation", row.id), training=False)
