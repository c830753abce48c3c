"""Score many utterances in worker processes while the network is busy with the next ones.

PESQ holds Python's interpreter lock, so threads would not help. The workers import this module, so NumPy is imported
where it is used: see :mod:`bcfusion.evaluation.workers`.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

from bcfusion.contracts import ItemMetric, Metric, Skip
from bcfusion.errors import ConfigError
from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.evaluation.workers import start_workers
from bcfusion.requirements import at_least, check_rates, require
from bcfusion.system import cores as usable_cores

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Aside", "Scorer", "available_workers"]

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

WORKER_DIED = "scoring process died"  #: reason for which an utterance is skipped


@dataclass
class _Job:
    """One utterance to score: the signal of every system against the same target."""

    id: str
    signals: dict[str, np.ndarray]
    target: np.ndarray
    sample_rate: int
    info: dict[str, str]


def available_workers(*, with_network: bool) -> int:
    """Return how many processes score on the cores that this process may use.

    Args:
        with_network: whether a network computes at the same time, which then keeps half of the cores.
    """
    cores = usable_cores()
    return min(max(cores // 2, 1), 8) if with_network else min(cores, 16)


class Scorer:
    """Score utterances asynchronously in worker processes; one scorer serves any number of validations.

    The workers start with the first utterance and stay until :meth:`close`. An utterance on which a worker dies (out of
    memory, a crash in a metric's C code) is tried again alone in a fresh worker and, if that dies too, is skipped. If
    no worker can be started at all, scoring continues in this process, with a warning.

    Args:
        metrics: configuration key to metric; picklable, and defined in an importable module.
        sample_rate: of all signals, in Hz.
        workers: number of processes; 0: score in this process, synchronously; None: as many as leave half of the cores
            to a network, see :func:`available_workers`.
        backlog: number of unfinished utterances from which on :meth:`submit` waits; None: four per process.

    Raises:
        ConfigError: ``workers`` is negative, ``backlog`` is below 1, a metric refuses the sample rate, two metrics give
            a value of the same name, or a metric cannot be sent to a worker.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        sample_rate: int,
        workers: int | None = None,
        backlog: int | None = None,
    ) -> None:
        if workers is None:
            workers = available_workers(with_network=True)
        require(self, at_least(0, workers=workers), at_least(1, backlog=1 if backlog is None else backlog))
        check_rates("metrics", metrics, sample_rate)
        self._metrics = dict(metrics)
        self._sample_rate = sample_rate
        self._workers = workers
        self._backlog = backlog
        self._higher_is_better = _directions(self._metrics)
        self._pickled = _pickle(self._metrics) if workers else b""
        self._executor: ProcessPoolExecutor | None = None
        self._pending: dict[Future[list[ItemScore]], tuple[int, _Job]] = {}
        self._rows: dict[int, list[ItemScore]] = {}  # by position, filled as workers finish
        self._submitted = 0
        self._collected = 0

    @property
    def higher_is_better(self) -> dict[str, bool | None]:
        """Direction of each value of the metrics; None for information only."""
        return dict(self._higher_is_better)

    def submit(
        self,
        item_id: str,
        signals: Mapping[str, np.ndarray],
        target: np.ndarray,
        info: Mapping[str, str] | None = None,
    ) -> None:
        """Have every system's signal scored against the target; wait only if the workers are far behind.

        Args:
            item_id: of the utterance.
            signals: system name to ``(T,)``, copied.
            target: ``(T,)``, copied.
            info: further columns of the CSV, such as the speaker.

        Raises:
            ValueError: an array is not one-dimensional.
        """
        import numpy as np

        for name, array in {**signals, "target": target}.items():
            if array.ndim != 1:
                raise ValueError(f"{item_id}: {name} must be (T,), not {array.shape}")
        # copied because the executor pickles later, from its own thread, when the caller may have reused the memory
        copies = {system: np.array(array) for system, array in signals.items()}
        job = _Job(item_id, copies, np.array(target), self._sample_rate, dict(info or {}))
        position = self._submitted
        self._submitted += 1
        while len(self._pending) >= (self._backlog or 4 * max(self._workers, 1)):
            self._take_finished()
        self._dispatch(position, job)

    def collect(self, count: int | None = None) -> Scores:
        """Wait for utterances that were submitted and not collected, and return them in the order of submission.

        Args:
            count: the first so many of them; None: all.

        Raises:
            ValueError: ``count`` is negative, or larger than the number of these utterances.
        """
        waiting = self._submitted - self._collected
        if count is not None and not 0 <= count <= waiting:
            raise ValueError(f"count={count} must be 0 to {waiting}, the number of utterances that are not collected")
        last = self._submitted if count is None else self._collected + count
        while any(position < last for position, _ in self._pending.values()):
            self._take_finished()
        rows = [row for position in range(self._collected, last) for row in self._rows.pop(position)]
        self._collected = last
        if count is None:
            self.reset()
        return Scores(rows, dict(self._higher_is_better))

    def aside(self, call: Callable[[], Value]) -> Aside[Value]:
        """Have something else computed in a worker, after the utterances that wait for one.

        Args:
            call: picklable, from an importable module, and of no effect but its value, since it may be called twice.
        """
        future = None
        if self._workers:
            with suppress(BrokenExecutor, OSError):  # the next utterance deals with it
                future = self._running().submit(call)
        return Aside(call, future)

    def reset(self) -> None:
        """Forget everything submitted since the last :meth:`collect`, as after an interrupted validation."""
        self._pending = {}  # not cancelled: a pool that breaks later fails on cancelled futures (Python 3.11)
        self._rows = {}
        self._submitted = self._collected = 0

    def close(self) -> None:
        """Forget what was not collected and end the workers. A later :meth:`submit` starts them again."""
        self.reset()
        self._stop_workers()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _dispatch(self, position: int, job: _Job) -> None:
        if self._workers == 0:
            self._rows[position] = _score(self._metrics, job)
            return
        try:
            self._pending[self._running().submit(_score_pickled, self._pickled, job)] = (position, job)
        except BrokenExecutor:
            self._recover({position: job})
        except OSError as error:  # no further process, file descriptor or semaphore
            self._recover({})
            self._give_up_workers(error)
            self._rows[position] = _score(self._metrics, job)

    def _take_finished(self) -> None:
        """Wait for at least one pending utterance and move the finished ones to the rows."""
        lost = self._move(wait(self._pending, return_when=FIRST_COMPLETED).done)
        if lost:
            self._recover(lost)

    def _move(self, done: set[Future[list[ItemScore]]]) -> dict[int, _Job]:
        """Move finished utterances from pending to the rows; return those whose worker died."""
        lost = {}
        for future in done:
            position, job = self._pending.pop(future)
            try:
                self._rows[position] = future.result()
            except BrokenExecutor:
                lost[position] = job
        return lost

    def _recover(self, lost: dict[int, _Job]) -> None:
        """Score what was in a broken pool again, one at a time, to find which utterance broke it."""
        lost = lost | self._move(wait(self._pending).done)  # a broken pool fails all its futures at once
        self._stop_workers()
        if lost:
            logger.warning("a scoring process died; scoring %d utterances again, one at a time", len(lost))
        for position in sorted(lost):
            self._rows[position] = self._score_alone(lost[position])

    def _score_alone(self, job: _Job) -> list[ItemScore]:
        try:
            if self._workers:
                self._running().submit(_ready).result()
        except (BrokenExecutor, OSError) as error:  # a worker dies without any audio
            self._give_up_workers(error)
        if self._workers == 0:
            return _score(self._metrics, job)
        try:
            return self._running().submit(_score_pickled, self._pickled, job).result()
        except BrokenExecutor:
            self._stop_workers()
            logger.warning("%s: the scoring process died again; the utterance is skipped", job.id)
            names = self._higher_is_better
            return [ItemScore.unscored(job.id, system, names, WORKER_DIED, job.info) for system in job.signals]

    def _give_up_workers(self, error: Exception) -> None:
        logger.warning("no scoring process can be started (%s); scoring in the main process from now on", error)
        self._stop_workers()
        self._workers = 0

    def _running(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = start_workers(self._workers)
        return self._executor

    def _stop_workers(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


class Aside(Generic[Value]):
    """What :meth:`Scorer.aside` has begun.

    Args:
        call: computes the value.
        future: of the worker that computes it; None: :meth:`result` computes it.
    """

    def __init__(self, call: Callable[[], Value], future: Future[Value] | None) -> None:
        self._call = call
        self._future = future

    def done(self) -> bool:
        """Return whether :meth:`result` need not wait for a worker."""
        return self._future is None or self._future.done()

    def result(self) -> Value:
        """Return the value; computed in this process if the worker died or was ended. What ``call`` raises passes."""
        if self._future is not None:
            with suppress(BrokenExecutor, CancelledError):
                return self._future.result()
        return self._call()


def _ready() -> None:
    """Do nothing, to show that a worker is alive."""


@lru_cache(maxsize=1)
def _load(pickled: bytes) -> dict[str, Metric]:
    """Unpickle the metrics once per worker, so that what they load lazily is loaded once."""
    return pickle.loads(pickled)  # nosec B301 # made by the process that started this one


def _score_pickled(pickled: bytes, job: _Job) -> list[ItemScore]:
    return _score(_load(pickled), job)


def _score(metrics: Mapping[str, Metric], job: _Job) -> list[ItemScore]:
    """Score every system of one utterance; whatever a metric raises becomes a reason to skip the value."""
    rows = []
    for system, estimate in job.signals.items():
        row = ItemScore(job.id, system, {}, {}, job.info)
        for metric in metrics.values():
            reason = "non-finite score"
            try:
                if isinstance(metric, ItemMetric):
                    values = metric.score_item(job.id, estimate, job.target, job.sample_rate)
                else:
                    values = metric.score(estimate, job.target, job.sample_rate)
            except Skip as skip:
                values, reason = {}, str(skip)
            except Exception as error:  # a user's own metric may raise anything, and hours of training are at stake
                values, reason = {}, f"{type(error).__name__}: {error}"
            for name in metric.names:
                row.values[name] = float(values.get(name, math.nan))
                if not math.isfinite(row.values[name]):
                    row.values[name], row.skipped[name] = math.nan, reason
        rows.append(row)
    return rows


def _directions(metrics: Mapping[str, Metric]) -> dict[str, bool | None]:
    """Return the value names of all metrics with their directions; refuse two of the same name."""
    owner: dict[str, str] = {}
    directions: dict[str, bool | None] = {}
    for key, metric in metrics.items():
        for name in metric.names:
            if name in owner:
                raise ConfigError(
                    [f"metrics.{key}: metrics.{owner[name]} gives a value {name!r} too; remove one of them"]
                )
            owner[name] = key
            directions[name] = metric.higher_is_better[name]
    return directions


def _pickle(metrics: dict[str, Metric]) -> bytes:
    """Pickle the metrics; name the one that cannot be pickled."""
    for key, metric in metrics.items():
        problem = "is defined in the main script" if type(metric).__module__ == "__main__" else ""
        try:
            pickle.dumps(metric)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            problem = f"cannot be pickled ({error})"
        if problem:
            raise ConfigError([f"metrics.{key}: {problem}; use a class of an importable module with plain arguments"])
    return pickle.dumps(metrics)
