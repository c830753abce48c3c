"""Rows of a corpus that are made when they are asked for.

A million rows are a million objects, which take long to make, and which the processes of a loader copy as they touch
them. A :class:`RowTable` holds the columns that checks and samplers need as arrays, and makes a row from its source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from bcfusion.contracts import Row

__all__ = ["Codes", "Columns", "RowSource", "RowTable", "chosen", "columns_of", "joined"]


class Codes:
    """Numbers values in the order in which they first occur."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def of(self, values: Sequence[Any]) -> NDArray[np.int32]:
        """Return the number of each value. Values must be hashable, and those that are equal must be the same."""
        for value in dict.fromkeys(values):
            self.numbers.setdefault(value, len(self.numbers))
        return np.fromiter(map(self.numbers.__getitem__, values), np.int32, len(values))


@dataclass(frozen=True)
class Columns:
    """What checks and samplers need of many rows: arrays with an entry for each row.

    Attributes:
        speaker: number of the row's speaker in ``speakers``.
        speakers: their names.
        sensors: number of the set of sensors that a row has files of, in ``sensor_sets``.
        sensor_sets: the sets.
        sample_rate: Hz.
        duration: seconds.
        weight: see :class:`~bcfusion.contracts.Row`.
        bandwidth: Hz; NaN: not measured.
        distinct: whether no two rows have the same id.
    """

    speaker: NDArray[np.int32]
    speakers: tuple[str, ...]
    sensors: NDArray[np.int32]
    sensor_sets: tuple[frozenset[str], ...]
    sample_rate: NDArray[np.int64]
    duration: NDArray[np.float64]
    weight: NDArray[np.float64]
    bandwidth: NDArray[np.float64]
    distinct: bool

    def at(self, places: NDArray[Any]) -> Columns:
        """Return the columns of the rows at some places."""
        return replace(
            self,
            speaker=self.speaker[places],
            sensors=self.sensors[places],
            sample_rate=self.sample_rate[places],
            duration=self.duration[places],
            weight=self.weight[places],
            bandwidth=self.bandwidth[places],
        )

    def __len__(self) -> int:
        return len(self.duration)

    def speaker_names(self) -> list[str]:
        """Return the names of the speakers of these rows, sorted, ``unknown`` too."""
        return sorted(self.speakers[number] for number in np.unique(self.speaker))

    def with_sensor(self, sensor: str) -> NDArray[np.bool_]:
        """Return which rows have a file of a sensor."""
        return np.array([sensor in each for each in self.sensor_sets], bool)[self.sensors]


def joined(parts: Sequence[Columns], distinct: bool) -> Columns:
    """Return the columns of several parts, one after the other.

    Args:
        parts: at least one.
        distinct: whether no two rows of them have the same id.
    """
    speakers, sets = Codes(), Codes()
    return Columns(
        speaker=np.concatenate([_renumbered(part.speaker, part.speakers, speakers) for part in parts]),
        speakers=tuple(speakers.numbers),
        sensors=np.concatenate([_renumbered(part.sensors, part.sensor_sets, sets) for part in parts]),
        sensor_sets=tuple(sets.numbers),
        sample_rate=np.concatenate([part.sample_rate for part in parts]),
        duration=np.concatenate([part.duration for part in parts]),
        weight=np.concatenate([part.weight for part in parts]),
        bandwidth=np.concatenate([part.bandwidth for part in parts]),
        distinct=distinct,
    )


def _renumbered(numbers: NDArray[np.int32], values: Sequence[Any], codes: Codes) -> NDArray[np.int32]:
    return codes.of(values)[numbers] if len(values) else numbers


class RowSource(Protocol):
    """Makes the rows of a table."""

    def row(self, place: int) -> Row:
        """Return the row at a place of the source."""
        ...


class RowTable(Sequence[Row]):
    """Rows that are made when they are asked for, each time anew.

    Args:
        source: makes them.
        columns: of the rows of this table.
        places: of its rows in the source.
        weights: of its rows, if they are not those of the source.
    """

    def __init__(
        self,
        source: RowSource,
        columns: Columns,
        places: NDArray[Any],
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.source = source
        self.columns = columns if weights is None else replace(columns, weight=weights)
        self.places = places
        self.weights = weights

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> RowTable: ...

    def __getitem__(self, index: int | slice) -> Row | RowTable:
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        row = self.source.row(int(self.places[index]))
        return row if self.weights is None else replace(row, weight=float(self.weights[index]))

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (RowTable, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list

    def at(self, places: NDArray[Any]) -> RowTable:
        """Return the table of some of its rows, by an array of their numbers or of a truth value for each row."""
        weights = None if self.weights is None else self.weights[places]
        return RowTable(self.source, self.columns.at(places), self.places[places], weights)


def columns_of(rows: Sequence[Row]) -> Columns:
    """Return the columns of rows, which a table has and which are collected from other rows."""
    if isinstance(rows, RowTable):
        return rows.columns
    speakers, sets = Codes(), Codes()
    return Columns(
        speaker=speakers.of([row.speaker for row in rows]),
        speakers=tuple(speakers.numbers),
        sensors=sets.of([frozenset(row.paths) for row in rows]),
        sensor_sets=tuple(sets.numbers),
        sample_rate=np.array([row.sample_rate for row in rows], np.int64),
        duration=np.array([row.duration for row in rows], np.float64),
        weight=np.array([row.weight for row in rows], np.float64),
        bandwidth=np.array([math.nan if row.bandwidth is None else row.bandwidth for row in rows], np.float64),
        distinct=len({row.id for row in rows}) == len(rows),
    )


def chosen(rows: Sequence[Row], places: NDArray[Any]) -> Sequence[Row]:
    """Return some rows, by an array of their numbers or of a truth value for each row; of a table a table."""
    if isinstance(rows, RowTable):
        return rows.at(places)
    return [rows[place] for place in (np.flatnonzero(places) if places.dtype == bool else places).tolist()]
