"""The two views of a corpus: random crops for training, whole files for evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import Row
from bcfusion.data.corpora.table import Columns, RowTable, columns_of
from bcfusion.data.loading.augmentation import Augmentation, Drawn, sped
from bcfusion.data.loading.collate import Item
from bcfusion.data.loading.reader import AIR, SensorReader
from bcfusion.data.seeding import generator_for
from bcfusion.errors import DataError

ATTEMPTS = 8  #: unreadable utterances in succession that end a run


class TrainSegments(Dataset[Item]):
    """Random crops of a fixed length, each a function of ``(seed, epoch, index)`` alone.

    An epoch visits a row ``max(1, round(duration / segment_seconds))`` times, so that long files count in proportion,
    times the row's weight: fractions of a visit add up from row to row, so that many rows together are visited as often
    as their weights say, and each at least once. Each visit draws its own position. A clip shorter than the segment is
    used whole and padded with zeros at its end; ``length`` is its own.

    A file that cannot be read, is truncated or holds NaN is replaced by another row, drawn from the same three numbers,
    and listed in the item's ``unreadable``.

    Args:
        rows: at least one.
        reader: reads and simulates the sensors.
        segment_seconds: length of a crop.
        seed: of the run.
        sensor_dropout: share of the crops, 0 to 1, in which one sensor, any of them, is silent, so that a fusion
            network learns to work without it. A single sensor is never silenced.
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
        self.rows = rows if isinstance(rows, RowTable) else list(rows)
        self.reader = reader
        self.seed = seed
        self.sensor_dropout = sensor_dropout
        self.augmentation = augmentation
        self.segment_seconds = segment_seconds
        self.segment = max(1, round(segment_seconds * reader.sample_rate))
        columns = columns_of(rows)
        self._visits_up_to = np.cumsum(_whole_visits(natural_visits(columns, segment_seconds) * columns.weight))

    def __len__(self) -> int:
        """Return the items of an epoch: the visits to all rows."""
        return int(self._visits_up_to[-1])

    def visits(self, row: Row) -> int:
        """Return how often an epoch visits a row alone, without the fractions of others."""
        return max(1, round(float(natural_visits(row, self.segment_seconds)) * row.weight))

    def row_of(self, index: int) -> int:
        """Return the row of which item ``index`` of an epoch is a crop."""
        return int(np.searchsorted(self._visits_up_to, index, side="right"))

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        position = self.row_of(index)
        unreadable: list[str] = []
        problem = ""
        for attempt in range(ATTEMPTS):
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
        raise DataError(f"{ATTEMPTS} utterances in succession cannot be read; the last: {problem}")

    def crop(self, row: Row, generator: torch.Generator, epoch: int, index: int, attempt: int = 0) -> Item:
        """Return one crop of a row, augmented and padded to the length of a segment.

        Args:
            row: any row, not only one of this view.
            generator: draws the position.
            epoch: with ``index`` and ``attempt``, seeds everything else that is drawn.
            index: see ``epoch``.
            attempt: see ``epoch``.

        Raises:
            UnreadableAudio: a file of the row cannot be read.
        """
        drawn = self._drawn(epoch, index)
        total = sped(self.reader.total(row), drawn.speed)
        length = min(total, self.segment)
        start = int(torch.randint(total - length + 1, (1,), generator=generator))
        seed = (self.seed, "simulate", epoch, index, attempt)
        item = self.reader.read(row, start, length, seed, training=True, speed=drawn.speed)
        item["origin"] = self._origin(row, float(start * drawn.speed))
        if self.augmentation is not None:
            self.augmentation.apply(item, drawn, self.reader.sensors, self.reader.sample_rate)
        self._drop_sensor(item["inputs"], epoch, index)
        if length < self.segment:
            after = (0, self.segment - length)
            item["inputs"], item["target"] = pad(item["inputs"], after), pad(item["target"], after)
            if "noise" in item:
                item["noise"] = pad(item["noise"], after)
            if "air" in item:
                item["air"] = pad(item["air"], after)
        return item

    def _drawn(self, epoch: int, index: int) -> Drawn:
        if self.augmentation is None:
            return Drawn()
        return self.augmentation.draw(generator_for(self.seed, "augment", epoch, index))

    def _origin(self, row: Row, start: float) -> str:
        """Return the files of a crop, and the second at which it begins ``start`` samples into the row."""
        files = dict.fromkeys(str(row.paths[name]) for name in (AIR, *self.reader.sensors) if name in row.paths)
        return f"{', '.join(files)} from {row.offset + start / self.reader.sample_rate:.4f} s"

    def _drop_sensor(self, inputs: Tensor, epoch: int, index: int) -> None:
        sensors = inputs.shape[0]
        if sensors > 1 and self.sensor_dropout:
            generator = generator_for(self.seed, "sensor_dropout", epoch, index)
            if float(torch.rand((), generator=generator)) < self.sensor_dropout:
                inputs[int(torch.randint(sensors, (1,), generator=generator))] = 0


def natural_visits(rows: Row | Columns, segment_seconds: float) -> NDArray[np.float64]:
    """Return how often an epoch visits a row of weight 1, or each of many rows."""
    return np.maximum(1.0, np.rint(rows.duration / segment_seconds))


def _whole_visits(visits: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return whole visits to each row, at least one, for visits whose fractions add up from row to row."""
    whole = np.rint(np.cumsum(visits)).astype(np.int64)
    return np.maximum(1, np.diff(whole, prepend=0))


class EvalItems(Dataset[Item]):
    """Whole utterances, the same bytes in every run: simulators draw from a generator seeded by the row's id.

    Args:
        rows: the utterances, in the order of access.
        reader: reads and simulates the sensors.
    """

    def __init__(self, rows: Sequence[Row], reader: SensorReader) -> None:
        self.rows = rows if isinstance(rows, RowTable) else list(rows)
        self.reader = reader

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        return self.reader.read(row, 0, self.reader.total(row), ("evaluation", row.id), training=False)
