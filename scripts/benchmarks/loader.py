"""How fast training data are read: segments a second of the training loader, and of soundfile alone as the limit.

The files are converted once, in a temporary folder, to WAV, FLAC and Opus, and the FLAC files are packed into shards.
Then random segments of each are read: by the loader of `bcfusion train` and, as the limit, by soundfile alone, which
opens the file, seeks, and reads the same samples, with as many processes as the loader has workers (one if it has
none). Everything is in the page cache: disks and networks are not measured.

Before anything is timed, the first batch of our loader is compared with what soundfile reads.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from bcfusion.data.loading.loaders import StepLoader
from benchmarks.harness import Act, Disagreement, Figure, Measured, Missing, Setting, compared, in_turns
from benchmarks.loader_peers import PEERS
from benchmarks.segments import Plan, Source, Span, convert, read, source
from benchmarks.sounds import origin, speech

WARM_UP = 4  # batches per worker before the clock starts, by then the prefetched ones are used up


def loaded(batches: Iterable[Any], batch: int, workers: int, seconds: float) -> float:
    """Return the segments per second of a loader, measured once its prefetched batches are used up.

    Raises:
        Disagreement: the loader ends, or its batches have another size.
    """
    start, count = math.inf, 0
    for number, got in enumerate(batches):
        size = len(got["target"] if isinstance(got, dict) else got)
        if size != batch:
            raise Disagreement(f"a batch of {size} segments instead of {batch}")
        now = time.perf_counter()
        if number == WARM_UP * max(1, workers):
            start = now
        elif now > start:
            count += size
            if now - start >= seconds:
                return count / (now - start)
    raise Disagreement("the loader ended too early")


def limit(spans: Sequence[Span], processes: int, seconds: float) -> float:
    """Return the segments per second of soundfile alone, in all processes together."""
    if processes == 1:
        return alone(spans, seconds)
    context = multiprocessing.get_context("fork")  # as PyTorch's loader starts its workers
    results = context.SimpleQueue()
    barrier = context.Barrier(processes)
    readers = [
        context.Process(target=together, args=(spans[number::processes], seconds, barrier, results))
        for number in range(processes)
    ]
    for reader in readers:
        reader.start()
    rates = [results.get() for _ in readers]
    for reader in readers:
        reader.join()
    return sum(rates)


def together(spans: Sequence[Span], seconds: float, barrier: Barrier, results: SimpleQueue[float]) -> None:
    """Measure one of several processes that start at the same time."""
    barrier.wait()
    results.put(alone(spans, seconds))


def alone(spans: Sequence[Span], seconds: float) -> float:
    start = time.perf_counter()
    for count, wanted in enumerate(itertools.cycle(spans), start=1):
        read(wanted)
        if (taken := time.perf_counter() - start) >= seconds:
            return count / taken
    raise Disagreement("there are no segments")


# ---------------------------------------------------------------- rows


def loader(setting: dict[str, Any], kind: str, simulated: str = "", peers: Sequence[str] = ()) -> Measured:
    """Measure our loader against soundfile alone, with no workers and with two; and against other libraries."""
    how = Setting(**setting)
    plan = Plan(0.25, 2, 0.05) if how.rehearsal else Plan()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sounds = speech(how.speech, folder / "sounds", 3 if how.rehearsal else 300, plan.seconds)
        roots = convert(sounds, folder)
        mine = source(kind, simulated, roots, plan, how)
        result = Measured(agreement=["the samples of the first batch are those that soundfile reads"])
        result.notes = [
            f"{len(sounds)} files of {origin(how.speech)}, segments of {plan.seconds:g} s, batches of {plan.batch}, "
            f"turns of {plan.measured:g} s, in the page cache"
        ]
        for workers in (0, 2):
            raw = limited(mine, workers, plan)
            result.figures.append(rates(f"{workers} workers", mine, workers, {"soundfile": raw}, plan, how))
        for peer in peers:
            try:
                other = PEERS[peer](folder, mine, plan)
            except Missing as error:
                result.notes.append(f"{peer}: {error}")
                continue
            act = delivering(other, 0, plan)
            result.figures.append(rates(f"against {peer}", mine, 0, {f"{other.name}, soundfile": act}, plan, how))
    return result


def rates(name: str, mine: Source, workers: int, other: Mapping[str, Act], plan: Plan, how: Setting) -> Figure:
    """Let our loader and another side take turns."""
    taken = in_turns({"ours": delivering(mine, workers, plan), **other}, how)
    return compared(name, "segments/s", "ours", *other, taken)


def delivering(source: Source, workers: int, plan: Plan) -> Act:
    """Return one turn of a loader: its rate."""

    def act() -> float:
        batches = source.loader(workers)
        try:
            return loaded(batches, plan.batch, workers, plan.measured)
        finally:
            if isinstance(batches, StepLoader):
                batches.close()

    return act


def limited(source: Source, workers: int, plan: Plan) -> Act:
    """Return one turn of soundfile alone: its rate, in as many processes."""
    return lambda: limit(source.spans, max(1, workers), plan.measured)
