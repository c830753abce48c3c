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

__all__ = ["Codes", "Columns", "RowSource", "RowTable", "chosen", "columns_of", "joined", "present", "slim", "tabled"]


class Codes:
    """Numbers values in the order in which they first occur."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def of(self, values: Sequence[Any]) -> NDArray[np.int32]:
        """Return the number of each value. Values must be hashable, and those that are equal must be the same."""
        for value in dict.fromkeys(values):
            self.numbers.setdefault(value, len(self.numbers))
        return np.fromiter(map(self.numbers.__getitem__, values), np.int32, len(values))


def present(numbers: NDArray[Any], count: int) -> list[int]:
    """Return which of the numbers below ``count`` occur, in order; without sorting them all."""
    found = np.zeros(count, bool)
    found[numbers] = True
    places: list[int] = np.flatnonzero(found).tolist()
    return places


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
        taken: dict[str, Any] = {name: _taken(getattr(self, name), places) for name in _ARRAYS}
        return replace(self, **taken)

    def __len__(self) -> int:
        return len(self.duration)

    def speaker_names(self) -> list[str]:
        """Return the names of the speakers of these rows, sorted, ``unknown`` too."""
        return sorted(self.speakers[number] for number in present(self.speaker, len(self.speakers)))

    def with_sensor(self, sensor: str) -> NDArray[np.bool_]:
        """Return which rows have a file of a sensor."""
        return np.array([sensor in each for each in self.sensor_sets], bool)[self.sensors]


_ARRAYS = ("speaker", "sensors", "sample_rate", "duration", "weight", "bandwidth")


def slim(column: NDArray[Any]) -> NDArray[Any]:
    """Return a column that takes no memory if all its values are equal; such a one cannot be written to."""
    if not len(column) or (not (column[0] == column).all() and not (column != column).all()):
        return column
    return np.broadcast_to(column[0].copy(), len(column))


def _taken(column: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    if column.strides == (0,):
        return np.broadcast_to(column[0], int(np.count_nonzero(places)) if places.dtype == bool else len(places))
    return column[places]


def joined(parts: Sequence[Columns], distinct: bool) -> Columns:
    """Return the columns of several parts, one after the other.

    Args:
        parts: at least one.
        distinct: whether no two rows of them have the same id.
    """
    speakers, sets = Codes(), Codes()
    arrays = {name: [getattr(part, name) for part in parts] for name in _ARRAYS}
    arrays["speaker"] = [_renumbered(part.speaker, part.speakers, speakers) for part in parts]
    arrays["sensors"] = [_renumbered(part.sensors, part.sensor_sets, sets) for part in parts]
    together: dict[str, Any] = {name: slim(np.concatenate(own)) for name, own in arrays.items()}
    return Columns(**together, speakers=tuple(speakers.numbers), sensor_sets=tuple(sets.numbers), distinct=distinct)


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
        places: of its rows in the source; None: all of them.
        weights: of its rows, if they are not those of the source.
    """

    def __init__(
        self,
        source: RowSource,
        columns: Columns,
        places: NDArray[Any] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.source = source
        self.columns = columns if weights is None else replace(columns, weight=weights)
        self.places = np.arange(len(columns), dtype=np.int32) if places is None else places
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
        if places.dtype == bool and places.all():
            return self
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


class _Kept:
    """Rows that exist already."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def row(self, place: int) -> Row:
        return self.rows[place]


def tabled(rows: Sequence[Row]) -> RowTable:
    """Return rows as a table, so that their columns are collected once."""
    return rows if isinstance(rows, RowTable) else RowTable(_Kept(rows), columns_of(rows))


def chosen(rows: Sequence[Row], places: NDArray[Any]) -> Sequence[Row]:
    """Return some rows, by an array of their numbers or of a truth value for each row; of a table a table."""
    if isinstance(rows, RowTable):
        return rows.at(places)
    return [rows[place] for place in (np.flatnonzero(places) if places.dtype == bool else places).tolist()]
