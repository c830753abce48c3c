"""An endless, resumable stream of training batches, and the loop over whole files for evaluation."""

from __future__ import annotations

import atexit
import logging
import signal
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from bcfusion import system
from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import Batch
from bcfusion.data.loading.collate import Filled, collate, fill
from bcfusion.data.loading.memory import BatchMemory
from bcfusion.data.loading.schedule import BatchSchedule
from bcfusion.data.loading.segments import EvalItems, TrainSegments
from bcfusion.data.seeding import generator_for
from bcfusion.errors import BcfusionError, DataError
from bcfusion.run.processes import end_with_parent, kill_all
from bcfusion.system import held_back

logger = logging.getLogger(__name__)


def automatic_workers() -> int:
    """Return the number of reader processes for this machine: none on one or two cores, else all but one, at most 8."""
    cores = system.cores()  # those this process may use: on a cluster a share of the machine
    return 0 if cores <= 2 else min(8, cores - 1)


class UnreadableTally:
    """Reports and counts the files that could not be read, and stops the run above a share of the corpus.

    Args:
        n_rows: utterances of the corpus' split.
        max_share: share of them, in [0, 1], that may be unreadable.
        split: for the message.

    Attributes:
        paths: of the files, with the reasons.
    """

    def __init__(self, n_rows: int, max_share: float, split: str) -> None:
        self.n_rows = n_rows
        self.max_share = max_share
        self.split = split
        self.paths: dict[str, str] = {}

    def add(self, path: str, reason: str = "cannot be read") -> None:
        """Count a file, once however often it is added.

        Raises:
            DataError: there are too many now.
        """
        if path in self.paths:
            return
        self.paths[path] = reason
        logger.warning("left out of %s (%d so far): %s: %s", self.split, len(self.paths), path, reason)
        self._check(path)

    def join(self, others: Iterable[Mapping[str, str]]) -> None:
        """Count the files of other processes, which have reported them, too.

        Args:
            others: :attr:`paths` of each process, in the same order on all.

        Raises:
            DataError: there are too many now; then on all processes.
        """
        before = len(self.paths)
        for paths in others:
            self.paths.update({path: reason for path, reason in paths.items() if path not in self.paths})
        if len(self.paths) > before:
            self._check(max(self.paths))

    def _check(self, path: str) -> None:
        if len(self.paths) > self.max_share * self.n_rows:
            reason = self.paths[path]
            raise DataError(
                f"{len(self.paths)} unreadable files among the {self.n_rows} utterances of {self.split}, more than the "
                f"share of {self.max_share:g} that data.max_unreadable_share allows; the last: {path}: {reason}"
            )


class TrainLoader(ABC):
    """The batches of a training run without end, in passes, for Lightning or a plain loop.

    One ``for`` over the loader is one pass: the batches from ``position`` up to the next multiple of
    ``batches_per_pass``. The worker processes live from the first batch across all passes. There is no ``len``: when a
    run resumes in the middle of a pass, that pass is shorter than the others, and Lightning would measure the length
    only once. Lightning therefore asks for one batch ahead, so ``position`` counts batches handed out, not batches
    trained on; save the trainer's own count and set ``start_batch`` to it.

    Args:
        batches_per_pass: see above.
        tally: counts the files that had to be replaced.
        start_batch: global batch at which the stream begins.
    """

    def __init__(self, batches_per_pass: int, tally: UnreadableTally, start_batch: int = 0) -> None:
        if batches_per_pass < 1:
            raise ValueError(f"batches_per_pass={batches_per_pass} must be at least 1")
        self.batches_per_pass = batches_per_pass
        self.tally = tally
        self.position = start_batch
        self._start_batch = start_batch
        self._batches: Iterator[Batch | BcfusionError] | None = None

    @property
    def start_batch(self) -> int:
        """The global batch at which the stream began."""
        return self._start_batch

    @start_batch.setter
    def start_batch(self, number: int) -> None:
        if number < 0:
            raise ValueError(f"start_batch={number} must be at least 0")
        self.close()
        self._start_batch = self.position = number

    def __iter__(self) -> Iterator[Batch]:
        end = (self.position // self.batches_per_pass + 1) * self.batches_per_pass
        while self.position < end:
            if self._batches is None:
                self._batches = self._stream()
                _end_at_exit(self._batches)
            batch = next(self._batches, None)
            if batch is None:  # the end of a stream for a single pass
                return
            try:
                if isinstance(batch, BcfusionError):
                    raise batch
                for path in batch["unreadable"]:
                    self.tally.add(path, "cannot be read; other utterances replace it")
            except BcfusionError:
                self.close()
                raise
            self.position += 1
            yield batch

    def close(self) -> None:
        """End the worker processes; a later iteration continues at ``position`` with new ones.

        One that hangs, in the storage or in a user's own code, is killed.
        """
        if self._batches is not None:
            batches, self._batches = self._batches, None
            self._start_batch = self.position
            end_workers(batches)

    @abstractmethod
    def _stream(self) -> Iterator[Batch | BcfusionError]:
        """Return the batches from ``start_batch``; an error that is meant for the user replaces its batch."""


_open: weakref.WeakSet[Iterator[Any]] = weakref.WeakSet()


def end_workers(batches: Any) -> None:
    """End the worker processes of an iterator of PyTorch's loader; one that hangs is killed after five seconds.

    PyTorch itself ends them by SIGTERM in the end, which workers ignore, and Python would then wait for them at exit
    without end. Where a second Ctrl-C has interrupted PyTorch's own shutdown, it still watches them.
    """
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()
        kill_all([worker for worker in batches._workers if worker.is_alive()])


def _end_at_exit(batches: Iterator[Any]) -> None:
    if hasattr(batches, "_workers"):
        _open.add(batches)
        atexit.unregister(_end_open)
        atexit.register(_end_open)  # registered after multiprocessing's own hook, and so run before it


def _end_open() -> None:
    for batches in list(_open):
        end_workers(batches)


class StepLoader(TrainLoader):
    """Batches of crops in the order of a schedule, so that a resumed run continues exactly where it stopped.

    Args:
        segments: the items.
        schedule: their order; the stream begins at its ``start_batch``.
        batches_per_pass: see :class:`TrainLoader`.
        tally: counts the files that had to be replaced.
        workers: processes that read; 0 reads in this one.
        pin_memory: whether batches are copied to page-locked memory, for a GPU.
    """

    def __init__(
        self,
        segments: TrainSegments,
        schedule: BatchSchedule,
        batches_per_pass: int,
        tally: UnreadableTally,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(batches_per_pass, tally, schedule.start_batch)
        self.segments = segments
        self.schedule = schedule
        self.workers = workers
        self.pin_memory = pin_memory

    def _stream(self) -> Iterator[Batch | BcfusionError]:
        self.schedule.start_batch = self.start_batch
        generator = generator_for(self.schedule.seed, "workers")
        batches = _Reported(self.segments, memory_for(self.segments, self.schedule.batch_size, self.workers))
        return started(batch_loader(batches, self.workers, self.pin_memory, generator, self.schedule))


class EvalLoader:
    """Whole utterances, one per batch, in the order of the rows. An unreadable file is counted and left out.

    Args:
        items: the utterances.
        tally: counts the files that were left out.
        workers: processes that read; 0 reads in this one.
        pin_memory: whether batches are copied to page-locked memory, for a GPU.
    """

    def __init__(self, items: EvalItems, tally: UnreadableTally, workers: int = 0, pin_memory: bool = False) -> None:
        self.items = items
        self.tally = tally
        self.workers = workers
        self.pin_memory = pin_memory

    def __len__(self) -> int:
        """Return the number of utterances, including unreadable ones."""
        return len(self.items)

    def __iter__(self) -> Iterator[Batch]:
        one_by_one = [[index] for index in range(len(self.items))]
        generator = generator_for("evaluation", "workers")
        batches = started(batch_loader(_Reported(self.items), self.workers, self.pin_memory, generator, one_by_one))
        _end_at_exit(batches)
        try:
            for batch in batches:
                if isinstance(batch, UnreadableAudio):
                    self.tally.add(batch.path, str(batch))
                elif isinstance(batch, BcfusionError):
                    raise batch
                else:
                    yield batch
        except GeneratorExit:
            with suppress(KeyboardInterrupt):  # a second Ctrl-C; Python would print its traceback and go on
                end_workers(batches)
            raise
        finally:
            end_workers(batches)


class _Reported(Dataset[Any]):
    """Makes whole batches, and returns an error that is meant for the user instead of one.

    An error raised in a worker would reach the user as a page of traceback: PyTorch rebuilds it from the formatted
    stack.
    """

    def __init__(self, items: TrainSegments | EvalItems, memory: BatchMemory | None = None) -> None:
        self.items = items
        self.memory = memory  # of batches whose items have one length

    def __getitem__(self, keys: Sequence[Any]) -> Batch | Filled | BcfusionError | None:
        items = (self.items[key] for key in keys)
        try:
            return collate(list(items)) if self.memory is None else fill(items, len(keys), self.memory)
        except BcfusionError as error:
            return error


def memory_for(segments: TrainSegments, batch_size: int, workers: int) -> BatchMemory:
    """Return memory for the batches of a stream: sensors, target, and what a simulation may add, noise and air."""
    return BatchMemory(4 * batch_size * segments.segment * (len(segments.reader.sensors) + 3), workers)


def batch_loader(
    items: Dataset[Any],
    workers: int,
    pin_memory: bool,
    generator: torch.Generator,
    batches: Iterable[Sequence[Any]] | None = None,
) -> DataLoader[Batch | BcfusionError]:
    """Return a loader of a dataset that makes whole batches.

    Args:
        items: gives a batch per list of keys, or is an iterable of batches.
        workers: processes that read; 0 reads in this one.
        pin_memory: whether batches are copied to page-locked memory, for a GPU.
        generator: seeds the workers; by default PyTorch would draw from the global state, once more on a resume.
        batches: lists of keys; None: ``items`` is an iterable.
    """
    return DataLoader(
        items,
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=generator,
        collate_fn=_unchanged,
        worker_init_fn=_belong_to_the_trainer if workers else None,
    )


def started(loader: DataLoader[Batch | BcfusionError]) -> Iterator[Batch | BcfusionError]:
    """Return the iterator of a loader, whose workers never get the signals of the process group.

    A worker ignores them itself (:func:`_belong_to_the_trainer`), but not before PyTorch has prepared it, and for some
    milliseconds SIGTERM would end it, and the run with it.
    """
    with held_back(signal.SIGINT, signal.SIGTERM):
        return iter(loader)


def _unchanged(batch: Any) -> Any:
    """Keep a batch from PyTorch's default conversion, which searches it for arrays."""
    return batch


def _belong_to_the_trainer(_worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which reach the whole process group: the trainer saves, then ends its workers.

    A worker ends with the trainer however that ends, even while it waits for a file.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
