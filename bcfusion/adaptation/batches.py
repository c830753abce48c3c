"""Training batches of recorded pairs, mixed with speech through a simulation of the same sensor."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bcfusion.adaptation.pairs import Piece
from bcfusion.contracts import UNKNOWN_SPEAKER, Batch, Row, Simulator
from bcfusion.data.loading.augmentation import Augmentation, Drawn
from bcfusion.data.loading.collate import Item, collate
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.schedule import BatchSchedule
from bcfusion.data.loading.segments import TrainSegments
from bcfusion.data.seeding import generator_for
from bcfusion.data.simulation.calibration import Calibration, Response
from bcfusion.data.simulation.estimation import Pair, grid, measure
from bcfusion.data.simulation.measured import smooth_curve
from bcfusion.data.simulation.transfer_function import TransferFunction
from bcfusion.errors import DataError

__all__ = ["Batches", "HeldReader", "calibrated"]

logger = logging.getLogger(__name__)

#: dB by which crops are louder or softer, all sensors alike
GAIN_DB = (-15.0, 5.0)
#: dB by which a body sensor alone is: how firmly it sits says nothing
BODY_GAIN_DB = (-10.0, 10.0)
#: standard deviation in dB of the random response of a body sensor, and the octaves over which it is smooth
EQUALISATION_DB, EQUALISATION_OCTAVES = 3.0, 0.7
_BINS = 257


@dataclass(frozen=True)
class HeldReader(SensorReader):
    """A reader that decodes recorded sensors once and then keeps them in memory; speech to simulate from is read anew.

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


class Equalised(Augmentation):
    """Augmentation that also gives each body sensor a random response, smooth over frequency, in every crop."""

    def __init__(self, sensors: Sequence[str], seed: int) -> None:
        super().__init__(gain=GAIN_DB, polarity=0.5, body_gain=BODY_GAIN_DB, body_sensors=list(sensors))
        self._seed = seed

    def apply(self, item: Item, drawn: Drawn, sensors: Sequence[str], sample_rate: int) -> None:
        """Change a crop in place; see :class:`~bcfusion.data.loading.augmentation.Augmentation`."""
        super().apply(item, drawn, sensors, sample_rate)
        chosen = [place for place, sensor in enumerate(sensors) if sensor in self.body_sensors]
        length = item["inputs"].shape[-1]
        for place in chosen:
            generator = generator_for(self._seed, "equalise", item["id"], place, repr(drawn.body), repr(drawn.gain))
            curve = EQUALISATION_DB * smooth_curve(_BINS, sample_rate, EQUALISATION_OCTAVES, generator)
            spectrum = torch.fft.rfft(item["inputs"][place])
            fine = torch.nn.functional.interpolate(curve[None, None], spectrum.shape[-1], mode="linear")[0, 0]
            item["inputs"][place] = torch.fft.irfft(spectrum * 10.0 ** (fine / 20.0), n=length)


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
        simulated = round(share * batch_size) if speech else 0
        self._sources: list[tuple[TrainSegments, BatchSchedule]] = []
        parts = (("pairs", [piece.row for piece in pieces], batch_size - simulated), ("speech", speech, simulated))
        for place, (_, rows, count) in enumerate(parts):
            if count:
                augmentation = Equalised(body_sensors, seed + place)
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
    wearers: dict[str, list[Piece]] = {}
    for piece in pieces:
        known = piece.row.speaker != UNKNOWN_SPEAKER
        wearers.setdefault(piece.row.speaker if known else piece.recording, []).append(piece)
    channel = list(reader.sensors).index(sensor)

    def read(piece: Piece) -> Pair:
        item = reader.read(piece.row, 0, reader.total(piece.row), ("calibrate", piece.row.id), training=False)
        body: np.ndarray = item["inputs"][channel].numpy()
        return Pair(piece.row.id, body, item["target"][0].numpy(), piece.row.lag, piece.row.polarity)

    responses: list[Response] = []
    for wearer, recorded in wearers.items():
        try:
            responses.append(measure(wearer, map(read, recorded), reader.sample_rate))
        except DataError as error:
            logger.warning("not calibrated on %s: %s", wearer, error)
    if not responses:
        raise DataError(
            f"{sensor}: none of {len(pieces)} recordings can be measured, so nothing is simulated; see above"
        )
    file = folder / f"{sensor}.json"
    Calibration(sensor, reader.sample_rate, grid(reader.sample_rate), tuple(responses)).save(file)
    return {sensor: TransferFunction(str(file))}
