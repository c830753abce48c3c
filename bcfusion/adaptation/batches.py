"""Training batches of recorded pairs, mixed with speech through a simulation of the same sensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from bcfusion.adaptation.pairs import Piece
from bcfusion.contracts import Batch, Row, Simulator
from bcfusion.data.corpora.speakers import wearer
from bcfusion.data.loading.augmentation import Augmentation
from bcfusion.data.loading.collate import collate
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.schedule import BatchSchedule
from bcfusion.data.loading.segments import TrainSegments
from bcfusion.data.simulation.estimation import Pair, calibrate
from bcfusion.data.simulation.transfer_function import TransferFunction
from bcfusion.errors import DataError

__all__ = ["Batches", "HeldReader", "calibrated"]

#: dB by which crops are louder or softer, all sensors alike
GAIN_DB = (-15.0, 5.0)
#: dB by which a body sensor alone is: how firmly it sits says nothing
BODY_GAIN_DB = (-10.0, 10.0)
#: standard deviation in dB of the random response of a body sensor, and the octaves over which it is smooth
EQUALISATION_DB, EQUALISATION_OCTAVES = 3.0, 0.7


@dataclass(frozen=True)
class HeldReader(SensorReader):
    """A reader that keeps decoded recordings in memory; speech for simulation is read again for each crop.

    Args:
        held: signals ``(1, T)`` of a row, by its id and the sensor; filled as they are read.
    """

    held: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def _file(self, row: Row, sensor: str, start: int, length: int) -> Tensor:
        if any(name not in row.paths for name in self.sensors):
            return super()._file(row, sensor, start, length)
        key = (row.id, sensor)
        if key not in self.held:
            self.held[key] = super()._file(row, sensor, 0, self.total(row))
        return self.held[key][:, start : start + length].clone()


class Batches:
    """The batches of an adaptation: batch ``n`` is a function of the seed and of ``n`` alone.

    Args:
        pieces: recorded pairs.
        reader: of the network's sensors; its simulators make those of ``speech``.
        speech: rows of air alone.
        share: of the crops of a batch that are made from ``speech``, in [0, 1).
        batch_size: crops of a batch.
        segment_seconds: length of a crop.
        body_sensors: names of the sensors that are augmented alone.
        seed: of crops and augmentation.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        reader: SensorReader,
        speech: Sequence[Row],
        share: float,
        batch_size: int,
        segment_seconds: float,
        body_sensors: Sequence[str],
        seed: int,
    ) -> None:
        simulated = min(round(share * batch_size), batch_size - 1) if speech else 0  # one is recorded at least
        self._sources: list[tuple[TrainSegments, BatchSchedule]] = []
        parts = (([piece.row for piece in pieces], batch_size - simulated), (speech, simulated))
        for place, (rows, count) in enumerate(parts):
            if count:
                augmentation = Augmentation(
                    gain=GAIN_DB,
                    polarity=0.5,
                    body_gain=BODY_GAIN_DB,
                    body_equalisation=EQUALISATION_DB,
                    body_equalisation_octaves=EQUALISATION_OCTAVES,
                    body_sensors=body_sensors,
                )
                segments = TrainSegments(rows, reader, segment_seconds, seed + place, augmentation=augmentation)
                self._sources.append((segments, BatchSchedule(len(segments), count, seed + place)))

    def batch(self, number: int) -> Batch:
        """Return batch ``number``, from 0."""
        return collate([segments[key] for segments, schedule in self._sources for key in schedule.batch(number)])

    def one_pass(self) -> Iterator[Batch]:
        """Yield batches that hold the recorded pairs once, for statistics."""
        segments, schedule = self._sources[0]
        for number in range(-(-len(segments) // schedule.batch_size)):
            yield collate([segments[key] for key in schedule.batch(number)])


def calibrated(pieces: Sequence[Piece], reader: SensorReader, sensor: str, folder: Path) -> Mapping[str, Simulator]:
    """Return a simulator of a sensor that was measured on some recordings, by the sensor's name.

    Args:
        pieces: the recordings; each wearer is one response, each recording of an unknown speaker too.
        reader: reads them.
        sensor: to simulate.
        folder: for the file of the calibration.

    Raises:
        DataError: none of the recordings can be measured.
    """
    wearers: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        wearers.setdefault(wearer(piece.row.speaker, piece.recording), []).append(piece)
    channel = list(reader.sensors).index(sensor)

    def read(piece: Piece) -> Pair:
        item = reader.read(piece.row, 0, reader.total(piece.row), ("calibrate", piece.row.id), training=False)
        body: np.ndarray = item["inputs"][channel].numpy()
        return Pair(piece.row.id, body, item["target"][0].numpy(), piece.row.lag, piece.row.polarity)

    try:
        calibration = calibrate(
            sensor, ((name, map(read, own)) for (_, name), own in wearers.items()), reader.sample_rate
        )
    except DataError as error:
        raise DataError(f"{sensor}: {error}, so nothing is simulated") from error
    file = folder / f"{sensor}.json"
    calibration.save(file)
    return {sensor: TransferFunction(str(file))}
