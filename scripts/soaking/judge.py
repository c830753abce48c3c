"""Bounds of a long load, and whether samples keep them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from soaking.sampling import Sample

WARM_UP = 0.25  # of the time: caches fill, pools start, the allocator finds its size
PASSING = "loader worker"  # of these some come and go: each validation has its own
LEAST = 8  # samples of a process after that, below which nothing can be said about it


@dataclass(frozen=True)
class Bounds:
    """What may grow, and by how much, from the first to the last quarter of the time after warm-up.

    Attributes:
        memory: share of the resident set of each process.
        handles: open files and sockets of each process: one or two are open at one moment and not at another.
        threads: of each process.
        segments: shared mappings of each process.
        processes: their number; a validation has workers of its own, which read its files and end with it.
    """

    memory: float = 0.02
    handles: float = 2
    threads: float = 0
    segments: float = 0
    processes: float = 2


@dataclass(frozen=True)
class Verdict:
    """One figure and its bound; it holds up to and with the bound."""

    what: str
    value: float
    bound: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; a value that is no number keeps none."""
        return self.value <= self.bound


def growth(values: Sequence[float]) -> float:
    """Return by how much values rise from the median of their first quarter to that of their last."""
    quarter = max(1, len(values) // 4)
    return statistics.median(values[-quarter:]) - statistics.median(values[:quarter])


def relative_growth(values: Sequence[float]) -> float:
    """Return :func:`growth` as a share of the first quarter."""
    return growth(values) / statistics.median(values[: max(1, len(values) // 4)])


def judged(samples: Sequence[Sample], zombies: int, bounds: Bounds) -> list[Verdict]:
    """Return a verdict for each figure of each process that lives from the end of the warm-up to the last sample.

    Args:
        samples: of a process and its descendants, in the order of time.
        zombies: number of zombies that were seen.
        bounds: what may grow.

    Raises:
        ValueError: there are too few samples.
    """
    until = max((each.seconds for each in samples), default=0.0)
    late = [each for each in samples if each.seconds >= WARM_UP * until]
    moments = sorted({each.seconds for each in late})
    if len(moments) < LEAST:
        raise ValueError(f"{len(moments)} samplings after warm-up: {LEAST} are needed")
    verdicts = [Verdict("zombies", zombies, 0)]
    present = {each.process for each in late if each.seconds == moments[0]}
    last = {each.process for each in late if each.seconds == moments[-1]}
    changed = {each.process for each in late if each.role != PASSING} ^ (present & last)
    changed -= {each.process for each in late if each.role == PASSING}
    verdicts.append(Verdict(f"processes, beside each {PASSING}, that began or ended after warm-up", len(changed), 0))
    numbers = [sum(each.seconds == moment for each in late) for moment in moments]
    verdicts.append(Verdict("growth of the number of processes", growth(numbers), bounds.processes))
    of_each: dict[int, list[Sample]] = {process: [] for process in sorted(present & last)}
    for each in late:
        if each.process in of_each:
            of_each[each.process].append(each)
    figures: tuple[tuple[str, Callable[[Sample], float], Callable[[Sequence[float]], float], float, str], ...] = (
        ("memory", lambda each: each.megabytes, relative_growth, bounds.memory, "%"),
        ("handles", lambda each: each.handles, growth, bounds.handles, ""),
        ("threads", lambda each: each.threads, growth, bounds.threads, ""),
        ("shared mappings", lambda each: each.segments, growth, bounds.segments, ""),
    )
    for process, its in of_each.items():
        name = f"{its[0].role} {process}"
        for what, value, grown, bound, unit in figures:
            verdicts.append(Verdict(f"{name}: growth of {what}", grown([value(each) for each in its]), bound, unit))
    return verdicts
