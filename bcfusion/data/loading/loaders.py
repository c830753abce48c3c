"""An endless, resumable stream of training batches, and the loop over whole files for evaluation.

The order of a run is a pure function of seed and position, so resuming is starting the same function elsewhere: nothing
of the loader, its workers or the global random state has to be saved.
"""

from __future__ import annotations

import atexit
import logging
import signal
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from bcfusion.audio import UnreadableAudio
from bcfusion.contracts import Batch
from bcfusion.data.loading.collate import collate
from bcfusion.data.loading.seeding import generator_for
from bcfusion.data.loading.segments import EvalItems, TrainSegments
from bcfusion.errors import AudioError, BcfusionError, DataError

logger = logging.getLogger(__name__)


class BatchSchedule:
    """Which items make up which batch, without end.

    The epochs' permutations are laid one behind the other and cut into batches, so no batch is short, none is dropped,
    and a corpus of fewer items than a batch simply goes on into its next epochs. Global batch ``g`` of ``W`` ranks is
    the stretch of ``W * batch_size`` places from ``g * W * batch_size`` on; each rank takes its own part of it.

    Args:
        n_items: items of an epoch.
        batch_size: of one rank.
        seed: of the run.
        rank: of this process. world_size: how many processes there are.
        start_batch: where iteration begins.
    """

    def __init__(
        self, n_items: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start_batch: int = 0
    ) -> None:
        if n_items < 1 or batch_size < 1 or not 0 <= rank < world_size or start_batch < 0:
            raise ValueError(
                f"no schedule for n_items={n_items}, batch_size={batch_size}, rank={rank} of {world_size}, "
                f"start_batch={start_batch}"
            )
        self.n_items = n_items
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch
        self._permutations: dict[int, torch.Tensor] = {}

    def batch(self, number: int) -> list[tuple[int, int]]:
        """The items ``(epoch, index)`` of this rank in global batch ``number``."""
        first = (number * self.world_size + self.rank) * self.batch_size
        places = (divmod(place, self.n_items) for place in range(first, first + self.batch_size))
        return [(epoch, int(self._permutation(epoch)[place])) for epoch, place in places]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        number = self.start_batch
        while True:
            yield self.batch(number)
            number += 1

    def _permutation(self, epoch: int) -> torch.Tensor:
        if epoch not in self._permutations:
            # a batch never looks back, so the latest order and the one before it are enough
            self._permutations = {known: order for known, order in self._permutations.items() if known == epoch - 1}
            generator = generator_for(self.seed, "order", epoch)
            self._permutations[epoch] = torch.randperm(self.n_items, generator=generator)
        return self._permutations[epoch]


class UnreadableTally:
    """Names and counts the files that could not be read, and stops the run past a share of the corpus.

    Args:
        n_rows: utterances of the corpus' split.
        max_share: of them, in [0, 1], that may be unreadable.
        split: for the message.
    """

    def __init__(self, n_rows: int, max_share: float, split: str) -> None:
        self.n_rows = n_rows
        self.max_share = max_share
        self.split = split
        self.paths: dict[str, str] = {}

    def add(self, path: str, reason: str = "cannot be read") -> None:
        """Count a file, once however often it is met.

        Raises:
            DataError: now there are too many.
        """
        if path in self.paths:
            return
        self.paths[path] = reason
        logger.warning("left out of %s (%d so far): %s: %s", self.split, len(self.paths), path, reason)
        if len(self.paths) > self.max_share * self.n_rows:
            raise DataError(
                f"{len(self.paths)} unreadable files among the {self.n_rows} utterances of {self.split}, more than the "
                f"share of {self.max_share:g} that data.max_unreadable_share allows; the last: {path}: {reason}"
            )


class TrainLoader(ABC):
    """Batches of a training run without end, in passes, for Lightning or a plain loop.

    One ``for`` over it is one pass: the batches from ``position`` up to the next multiple of ``batches_per_pass``. The
    worker processes live from the first batch on across all passes. It has no ``len``: after a resume in the middle of
    a pass the first pass is shorter than the others, and Lightning would measure the length but once. Lightning
    therefore asks for one batch ahead, so ``position`` counts batches handed out, not batches trained on; save the
    trainer's own count and set ``start_batch`` to it.

    Args:
        batches_per_pass: see above.
        tally: told of the files that had to be replaced.
        start_batch: global batch that the stream begins at.
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
        """The global batch that the stream was begun at."""
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
                self._batches = self._begin()
                _close_at_exit(self)
            batch = next(self._batches, None)
            if batch is None:  # a stream that has an end, for a single pass
                return
            try:
                if isinstance(batch, BcfusionError):
                    raise batch
                for path in batch["unreadable"]:
                    self.tally.add(path, "cannot be read; other utterances stand in its place")
            except BcfusionError:
                # left to the collector of cycles, PyTorch waits five seconds for each worker
                self.close()
                raise
            self.position += 1
            yield batch

    def close(self) -> None:
        """End the worker processes; a later iteration goes on at ``position`` with new ones."""
        if self._batches is not None:
            self._batches = None
            self._start_batch = self.position

    @abstractmethod
    def _begin(self) -> Iterator[Batch | BcfusionError]:
        """Begin the stream at ``start_batch``; an error that is meant for the user stands in the place of its batch."""


_open_loaders: weakref.WeakSet[TrainLoader] = weakref.WeakSet()


def _close_at_exit(loader: TrainLoader) -> None:
    """Python ends child processes by SIGTERM, which workers ignore, and would wait for them for ever."""
    _open_loaders.add(loader)
    atexit.unregister(_close_open)
    atexit.register(_close_open)  # behind multiprocessing's own hook, and so run before it


def _close_open() -> None:
    for loader in list(_open_loaders):
        loader.close()


class StepLoader(TrainLoader):
    """Batches of crops in the order of a schedule, so that a resumed run goes on exactly where it was.

    Args:
        segments: the items.
        schedule: their order; its ``start_batch`` is where the stream begins.
        batches_per_pass: as of :class:`TrainLoader`.
        tally: told of the files that had to be replaced.
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

    def _begin(self) -> Iterator[Batch | BcfusionError]:
        self.schedule.start_batch = self.start_batch
        loader = _loader(
            _Reported(self.segments),
            self.workers,
            self.pin_memory,
            # an explicit one: the loader else draws its workers' seed from the global state, once more on a resume
            generator_for(self.schedule.seed, "workers"),
            self.schedule,
        )
        return iter(loader)


class EvalLoader:
    """Whole utterances, one in a batch, in the order of the rows. An unreadable file is counted and left out.

    Args:
        items: the utterances.
        tally: told of the files that were left out.
        workers: processes that read; 0 reads in this one.
        pin_memory: whether batches are copied to page-locked memory, for a GPU.
    """

    def __init__(self, items: EvalItems, tally: UnreadableTally, workers: int = 0, pin_memory: bool = False) -> None:
        self.items = items
        self.tally = tally
        self.workers = workers
        self.pin_memory = pin_memory

    def __len__(self) -> int:
        """Number of utterances, the unreadable among them included."""
        return len(self.items)

    def __iter__(self) -> Iterator[Batch]:
        batches: Iterable[Batch | BcfusionError] = _loader(
            _Reported(self.items),
            self.workers,
            self.pin_memory,
            generator_for("evaluation", "workers"),
            [[index] for index in range(len(self.items))],
        )
        for batch in batches:
            if isinstance(batch, UnreadableAudio):
                self.tally.add(batch.path, str(batch))
            elif isinstance(batch, BcfusionError):
                raise batch
            else:
                yield batch


class _Reported(Dataset[Any]):
    """Makes whole batches, and returns an error meant for the user in place of one.

    Raised in a worker it would reach the user as a page of traceback: PyTorch rebuilds it from the formatted stack.
    """

    def __init__(self, items: TrainSegments | EvalItems) -> None:
        self.items = items

    def __getitem__(self, keys: Sequence[Any]) -> Batch | BcfusionError:
        try:
            return collate([self.items[key] for key in keys])
        except BcfusionError as error:
            return portable(error)


def portable(error: BcfusionError) -> BcfusionError:
    """An error that survives the way out of a worker: ConfigError's constructor takes a list, not the message."""
    return error if isinstance(error, AudioError) else DataError(str(error))


def _loader(
    items: _Reported,
    workers: int,
    pin_memory: bool,
    generator: torch.Generator,
    batches: Iterable[Sequence[Any]],
) -> DataLoader[Batch | BcfusionError]:
    """A loader that asks for whole batches: its sampler gives lists of keys."""
    return DataLoader(
        items,
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=generator,
        collate_fn=as_it_is,
        worker_init_fn=leave_signals_to_the_trainer if workers else None,
    )


def as_it_is(batch: Any) -> Any:
    """Keep a batch from PyTorch's default conversion, which looks for arrays in it."""
    return batch


def leave_signals_to_the_trainer(_worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach the whole group; the trainer saves its state and then closes its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
