"""The two views of a corpus: random crops for training, whole files for evaluation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from bcfusion import audio
from bcfusion.audio import AudioFormatError, UnreadableAudio
from bcfusion.contracts import Row, Simulator
from bcfusion.data.collate import Item
from bcfusion.data.seeding import generator_for
from bcfusion.errors import DataError

AIR = "air"  #: the sensor whose signal is the target
BODY = "body"  #: the sensor that a row's ``lag`` and ``polarity`` speak of
# A duration in seconds, of another file or after rounding, may reach a little behind the last sample of this one.
_SLACK_SECONDS = 0.05
_ATTEMPTS = 8


@dataclass(frozen=True)
class SensorReader:
    """Reads or simulates the sensors of one row, all at the same position.

    A sensor that the row has a file for is read from it, else it is made from air by its simulator. ``body`` is read
    ``lag`` later and times ``polarity``.

    Args:
        sensors: in the order of the network's inputs.
        simulators: by sensor; those of recorded sensors are not used.
        sample_rate: of the signals, in Hz.
        resample: whether files of another rate are resampled (else refused).
    """

    sensors: Sequence[str]
    simulators: Mapping[str, Simulator] = field(default_factory=dict)
    sample_rate: int = 16000
    resample: bool = True

    def total(self, row: Row) -> int:
        """Samples of a row at ``sample_rate``."""
        return max(1, round(row.duration * self.sample_rate))

    def read(self, row: Row, start: int, length: int, seed: tuple[int | str, ...], training: bool) -> Item:
        """Make the item of ``length`` samples that begins ``start`` samples into the row.

        Args:
            row: the utterance.
            start: at ``sample_rate``, counted from the row's offset.
            length: at ``sample_rate``.
            seed: names this item; each simulator draws from a generator of its own, seeded by it and the sensor's name,
                so that one sensor's randomness does not depend on which others stand beside it.
            training: handed on to the simulators.

        Raises:
            AudioFormatError: a file has several channels, or another rate while ``resample`` is off.
            UnreadableAudio: a file cannot be read.
            DataError: a sensor has neither file nor simulator, or its simulator returns another shape.
        """
        target = self._file(row, AIR, start, length)
        inputs: list[Tensor] = []
        noise: Tensor | None = None
        for sensor in self.sensors:
            if sensor in row.paths:
                inputs.append(target if sensor == AIR else self._file(row, sensor, start, length))
                continue
            if sensor not in self.simulators:
                raise DataError(f"{row.id}: no file for sensor {sensor!r} and no simulator for it")
            made = self.simulators[sensor](target.clone(), self.sample_rate, generator_for(*seed, sensor), training)
            signal = made["signal"]
            if signal.shape != target.shape:
                raise DataError(
                    f"the simulator of {sensor!r} returned a signal of shape {tuple(signal.shape)} for air of shape "
                    f"{tuple(target.shape)} ({row.id})"
                )
            inputs.append(signal.to(torch.float32))
            noise = made.get("noise", noise)
        item = Item(inputs=torch.cat(inputs), target=target, length=length, id=row.id, unreadable=[])
        if noise is not None:
            item["noise"] = noise.to(torch.float32)
        return item

    def _file(self, row: Row, sensor: str, start: int, length: int) -> Tensor:
        begin = round(row.offset * self.sample_rate) + start
        slack = round(_SLACK_SECONDS * self.sample_rate)
        if sensor == BODY:
            shift = round(row.lag * self.sample_rate)
            begin += shift
            slack += abs(shift)
        path = row.paths[sensor]
        samples = audio.read_span(path, begin, length, self.sample_rate, self.resample, slack)
        if samples.shape[0] != 1:
            raise AudioFormatError(f"{path} has {samples.shape[0]} channels, sensor {sensor!r} is one: split or mix it")
        signal = torch.from_numpy(samples)
        return -signal if sensor == BODY and row.polarity < 0 else signal


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

    Raises:
        DataError: there are no rows; or, on access, eight rows in succession cannot be read.
    """

    def __init__(
        self, rows: Sequence[Row], reader: SensorReader, segment_seconds: float, seed: int, sensor_dropout: float = 0.0
    ) -> None:
        if not rows:
            raise DataError("no utterances to train on")
        self.rows = list(rows)
        self.reader = reader
        self.seed = seed
        self.sensor_dropout = sensor_dropout
        self.segment = max(1, round(segment_seconds * reader.sample_rate))
        self._visits_up_to = list(accumulate(max(1, round(row.duration / segment_seconds)) for row in self.rows))

    def __len__(self) -> int:
        """Items of an epoch: visits to all rows together."""
        return self._visits_up_to[-1]

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
            row = self.rows[position]
            total = self.reader.total(row)
            length = min(total, self.segment)
            start = int(torch.randint(total - length + 1, (1,), generator=generator))
            seed = (self.seed, "simulate", epoch, index, attempt)
            try:
                item = self.reader.read(row, start, length, seed, training=True)
            except UnreadableAudio as error:
                problem = str(error)
                unreadable.append(error.path)
                continue
            item["unreadable"] = unreadable
            self._drop_sensor(item["inputs"], epoch, index)
            if length < self.segment:
                behind = (0, self.segment - length)
                item["inputs"], item["target"] = pad(item["inputs"], behind), pad(item["target"], behind)
                if "noise" in item:
                    item["noise"] = pad(item["noise"], behind)
            return item
        raise DataError(f"{_ATTEMPTS} utterances in succession cannot be read; the last: {problem}")

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
