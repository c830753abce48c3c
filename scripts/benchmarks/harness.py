"""What all rows share: two sides in turns, medians, agreement before anything is timed, verdicts."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEAST = 7  # timed turns, except in a rehearsal
WARM_UP = 2

#: one turn of a side: returns what it measured itself (a rate), or None: then its seconds are the measure
Act = Callable[[], float | None]


class Missing(Exception):
    """A peer is not installed, or something that the row needs is not there: the row has no number, and says why."""


class Disagreement(Exception):
    """Both sides do not compute the same: there is no ratio of their times."""


@dataclass(frozen=True)
class Wanted:
    """A limit of a ratio."""

    limit: float
    at_most: bool = True

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.limit:g}"

    def met_by(self, ratio: float) -> bool:
        return ratio <= self.limit if self.at_most else ratio >= self.limit


def at_most(limit: float) -> Wanted:
    return Wanted(limit)


def at_least(limit: float) -> Wanted:
    return Wanted(limit, at_most=False)


@dataclass(frozen=True)
class Row:
    """One row of the benchmark.

    Attributes:
        name: on the command line and in the table.
        what: is measured, in words.
        against: the other side, in words.
        function: ``module:function`` of ``benchmarks``, which takes a :class:`Setting` and ``arguments``.
        wanted: name of each figure to its limit; None: for information.
        arguments: of the function.
        threads: of PyTorch and of BLAS; None: as many as there are cores.
    """

    name: str
    what: str
    against: str
    function: str
    wanted: Mapping[str, Wanted | None]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None


@dataclass(frozen=True)
class Setting:
    """How rows are measured.

    Attributes:
        turns: timed turns of each side.
        seconds: after which no further turn begins, once there are seven; None: no limit.
        rehearsal: tiny sizes and few turns; the numbers mean nothing.
        threads: of this row.
        speech: folder of speech files; None: speech is made up.
        calibration: file of ``bcfusion calibrate``; None: rows with a measured sensor are left out.
    """

    turns: int = 9
    seconds: float | None = None
    rehearsal: bool = False
    threads: int = 1
    speech: str | None = None
    calibration: str | None = None


@dataclass(frozen=True)
class Turn:
    """One turn of one side: its measure, and the CPU seconds of this process and of those that ended in it."""

    measure: float
    cpu: float


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Side:
    """What one side needed."""

    name: str
    measure: Spread
    cpu: float | None = None


@dataclass(frozen=True)
class Figure:
    """A ratio, of ours to the other side; of a figure without another side, its value.

    Attributes:
        name: key of :attr:`Row.wanted`.
        unit: of the sides.
        ratio: median and quartiles of the ratios of the turns.
        ours: our side.
        other: the other side.
    """

    name: str
    unit: str
    ratio: Spread
    ours: Side
    other: Side | None = None


@dataclass
class Measured:
    """What the function of a row returns.

    Attributes:
        figures: in the order of the table.
        agreement: a line for each comparison that was made before anything was timed.
        notes: what a reader has to know of this measurement.
    """

    figures: list[Figure] = field(default_factory=list)
    agreement: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no turn was measured")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def cpu_seconds() -> float:
    """Return the CPU time of this process, and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def in_turns(
    sides: Mapping[str, Act], setting: Setting, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[Turn]]:
    """Let the sides take turns, A B A B ..., and return the turns of each after the warm-up."""
    warm_up, least = (1, setting.turns) if setting.rehearsal else (WARM_UP, LEAST)
    taken: dict[str, list[Turn]] = {name: [] for name in sides}
    began = clock()
    for number in range(warm_up + setting.turns):
        late = setting.seconds is not None and clock() - began > setting.seconds
        if late and number >= warm_up + least:
            break
        for name, act in sides.items():
            cpu, start = cpu_seconds(), clock()
            own = act()
            elapsed = clock() - start
            if number >= warm_up:
                taken[name].append(Turn(elapsed if own is None else own, cpu_seconds() - cpu))
    return taken


def per_unit(act: Callable[[], Any], units: float) -> Act:
    """Return an action whose measure is its seconds per unit."""

    def timed() -> float:
        began = time.perf_counter()
        act()
        return (time.perf_counter() - began) / units

    return timed


def compared(name: str, unit: str, ours: str, other: str, taken: Mapping[str, Sequence[Turn]]) -> Figure:
    """Return the figure of two sides that took turns: the ratio is the median over the turns, not of the medians."""
    pairs = list(zip(taken[ours], taken[other], strict=True))
    ratio = spread([one.measure / another.measure for one, another in pairs])
    return Figure(name, unit, ratio, side(ours, taken[ours]), side(other, taken[other]))


def alone(name: str, unit: str, ours: str, values: Sequence[float]) -> Figure:
    """Return a figure without another side."""
    found = spread(values)
    return Figure(name, unit, found, Side(ours, found))


def side(name: str, turns: Sequence[Turn]) -> Side:
    cpu = statistics.median(turn.cpu for turn in turns)
    return Side(name, spread([turn.measure for turn in turns]), cpu)


def agree(what: str, difference: float, tolerance: float) -> str:
    """Return a line on a comparison.

    Raises:
        Disagreement: the difference is above the tolerance, or no number.
    """
    if not difference <= tolerance:
        raise Disagreement(f"{what}: relative difference {difference:.1e}, tolerance {tolerance:.0e}")
    return f"{what}: relative difference {difference:.1e} (tolerance {tolerance:.0e})"


def verdict(wanted: Wanted | None, ratio: float, rehearsal: bool) -> str:
    """Return ``met``, ``missed``, or an empty text where nothing is wanted or the numbers mean nothing."""
    if wanted is None or rehearsal:
        return ""
    return "met" if wanted.met_by(ratio) else "missed"
