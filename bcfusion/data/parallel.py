"""Apply a function to many items with a bounded pool of threads or processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from bcfusion.errors import DataError

__all__ = ["in_batches"]

T = TypeVar("T")
R = TypeVar("R")

# Batches in progress per worker: many, so that a slow one does not hold up the others. Their results wait in memory, so
# they should be small.
_AHEAD = 16


def in_batches(
    work: Callable[[T], R], items: Sequence[T], size: int, workers: int, processes: bool
) -> Generator[list[R], None, None]:
    """Yield the results of ``work`` for all items, in their order, one batch at a time.

    Close the generator to end the workers early, also on an interrupt: use it with :func:`contextlib.closing`.

    Args:
        work: what to do with an item; with processes it must be picklable.
        items: what to work on.
        size: items that a worker gets at once.
        workers: threads, or processes, at the same time.
        processes: whether workers are processes; a single worker is a thread of this process in either case.

    Raises:
        DataError: a worker process was killed.
    """
    with _pool(workers, processes) as pool:
        in_progress: deque[Future[list[R]]] = deque()
        try:
            for begin in range(0, len(items), size):
                in_progress.append(pool.submit(_apply, work, items[begin : begin + size]))
                if len(in_progress) >= workers * _AHEAD:
                    yield in_progress.popleft().result()
            while in_progress:
                yield in_progress.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a worker process was killed, perhaps out of memory: use fewer --workers") from error
        finally:
            for future in in_progress:
                future.cancel()


def _apply(work: Callable[[T], R], batch: Sequence[T]) -> list[R]:
    return [work(item) for item in batch]


def _pool(workers: int, processes: bool) -> Executor:
    if not processes or workers == 1:
        return ThreadPoolExecutor(workers)
    # not forked: this process may hold threads of a numeric library
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_the_parent)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
