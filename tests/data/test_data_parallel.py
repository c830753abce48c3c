from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from functools import partial

import pytest

from bcfusion.data.parallel import in_batches
from bcfusion.errors import DataError


def kill_the_worker_at(fatal: int, item: int) -> int:
    if item == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_batches_and_in_the_order_of_the_items(workers: int) -> None:
    batches = list(in_batches(str, range(25), 10, workers, processes=False))
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert [text for batch in batches for text in batch] == list(map(str, range(25)))
    assert list(in_batches(str, [], 10, workers, processes=False)) == []


def test_items_ahead_of_the_reader_are_bounded() -> None:
    started: list[int] = []
    with closing(in_batches(started.append, range(1000), 2, 1, processes=False)) as batches:
        next(batches)
        assert len(started) <= 2 * (16 + 1)


def test_batches_not_yet_begun_are_dropped_when_the_reader_stops() -> None:
    first, go_on = threading.Event(), threading.Event()
    started: list[int] = []

    def work(item: int) -> None:
        started.append(item)
        if item > 0:
            first.set()
            go_on.wait(10)

    batches = in_batches(work, range(10), 1, 1, processes=False)
    next(batches)
    assert first.wait(10)
    threading.Timer(1.0, go_on.set).start()
    batches.close()
    assert started == [0, 1]


def test_a_killed_worker_process_is_reported() -> None:
    with pytest.raises(DataError, match="a worker process was killed"):
        list(in_batches(partial(kill_the_worker_at, 3), range(8), 2, 2, processes=True))


def test_an_error_of_the_work_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_batches(lambda item: 1 / item, [1, 0], 1, 2, processes=False))
