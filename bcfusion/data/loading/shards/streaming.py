"""Training batches from shards that are streamed through ``webdataset``."""

from __future__ import annotations

import itertools
import logging
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch.utils.data import IterableDataset, get_worker_info

from bcfusion.audio import EncodedAudio, UnreadableAudio
from bcfusion.contracts import Batch, Row
from bcfusion.data.loading.collate import Filled, Item, fill
from bcfusion.data.loading.loaders import TrainLoader, UnreadableTally, batch_loader, memory_for, started
from bcfusion.data.loading.memory import BatchMemory
from bcfusion.data.loading.rows import reaches
from bcfusion.data.loading.segments import ATTEMPTS, TrainSegments
from bcfusion.data.loading.shards.index import HEADER, check_member, row_of
from bcfusion.data.loading.shards.urls import closed, opened, reason
from bcfusion.data.seeding import generator_for, stable_seed
from bcfusion.errors import BcfusionError, DataError
from bcfusion.files import from_json

logger = logging.getLogger(__name__)

LARGEST_FILE = 1_000_000_000  #: bytes of a recording in a shard that is streamed: it is held in memory
_EPOCHS_WITHOUT = 10  # epochs of shards without a wanted utterance that end a run


@dataclass(frozen=True)
class Streaming:
    """How training shards are streamed.

    Attributes:
        urls: of the shards.
        shuffle_buffer: crops among which crops are shuffled; 1 keeps the order.
        max_unreadable_share: of the shards, in [0, 1].
        speakers: speakers that are trained on; None: all.
        min_bandwidth: Hz up to which air must hold speech; None: any.
        endless: whether the shards start again after the last; else one pass is made, in order.
    """

    urls: Sequence[str]
    shuffle_buffer: int
    max_unreadable_share: float
    speakers: frozenset[str] | None = None
    min_bandwidth: float | None = None
    endless: bool = True

    def wants(self, row: Row) -> bool:
        """Return whether an utterance is trained on."""
        wide = self.min_bandwidth is None or reaches(row, self.min_bandwidth)
        return wide and (self.speakers is None or row.speaker in self.speakers)


class StreamLoader(TrainLoader):
    """Batches of crops from streamed shards.

    The shards of each epoch have a random order of their own, the same for all ranks. They are dealt out in turn to
    ranks, and within each to workers, epoch after epoch without a break, so that every worker gets shards however few
    there are. Every pass has the same number of batches on every rank, whatever the shards hold. Each utterance gives
    as many crops as in :class:`~bcfusion.data.loading.segments.TrainSegments`, and crops are drawn, simulated and
    augmented in the same way.

    The stream cannot be resumed exactly: started at a batch other than 0, it uses another order than before, from the
    beginning of some shards.

    Args:
        segments: cuts the crops.
        streaming: which shards, and how.
        batch_size: crops in a batch.
        batches_per_pass: see :class:`~bcfusion.data.loading.loaders.TrainLoader`.
        tally: counts the shards and files that could not be read.
        workers: processes that stream; 0 streams in this one.
        pin_memory: whether batches are copied to page-locked memory, for a GPU.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        segments: TrainSegments,
        streaming: Streaming,
        batch_size: int,
        batches_per_pass: int,
        tally: UnreadableTally,
        workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(batches_per_pass, tally)
        self.segments = segments
        self.streaming = streaming
        self.batch_size = batch_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.rank = rank
        self.world_size = world_size

    def _stream(self) -> Iterator[Batch | BcfusionError]:
        if self.start_batch and self.streaming.endless:
            logger.warning(
                "training data are streamed and cannot be resumed exactly: the run continues with other crops than an "
                "uninterrupted one, and some come again early"
            )
        memory = memory_for(self.segments, self.batch_size, self.workers)
        batches = _Batches(
            self.segments, self.streaming, self.batch_size, self.rank, self.world_size, self.start_batch, memory
        )
        generator = generator_for(self.segments.seed, "workers")
        return started(batch_loader(batches, self.workers, self.pin_memory, generator))


class _Batches(IterableDataset[Any]):
    """The batches that one worker of one rank streams. An error that is meant for the user replaces a batch."""

    def __init__(
        self,
        segments: TrainSegments,
        streaming: Streaming,
        batch_size: int,
        rank: int,
        world_size: int,
        start_batch: int,
        memory: BatchMemory,
    ) -> None:
        self.memory = memory
        self.segments = segments
        self.streaming = streaming
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch
        self._failed: list[str] = []  # shards and files that could not be read since the last item

    def __iter__(self) -> Iterator[Batch | Filled | BcfusionError]:
        try:
            items = self._items()
            while (batch := fill(items, self.batch_size, self.memory)) is not None:
                yield batch
        except BcfusionError as error:
            yield error

    def _items(self) -> Iterator[Item]:
        import webdataset

        crops = self._crops()
        if self.streaming.shuffle_buffer > 1:
            seed = stable_seed(self.segments.seed, "shuffle", self.start_batch, self.rank, _worker()[0])
            size = self.streaming.shuffle_buffer
            crops = webdataset.shuffle(size, initial=size, rng=random.Random(seed))(crops)
        problems = 0
        for epoch, row, visit in crops:
            generator = generator_for(self.segments.seed, "crop", epoch, row.id, visit)
            try:
                # this seed identifies the utterance, as its position in the list of crops does elsewhere
                item = self.segments.crop(row, generator, stable_seed(epoch, row.id), visit)
            except UnreadableAudio as error:
                self._failed.append(error.path)
                problems += 1
                if problems == ATTEMPTS:
                    raise DataError(f"{problems} crops in succession cannot be read; the last: {error}") from error
                continue
            problems = 0
            item["unreadable"], self._failed = self._failed, []
            yield item

    def _crops(self) -> Iterator[tuple[int, Row, int]]:
        """Yield epoch, utterance and number of the visit to it, in the order of the shards."""
        broken: set[str] = set()
        fruitless = unwanted = 0
        for epoch, url in self._shards():
            found = wanted = False
            for row in self._rows(url, broken):
                found = True
                if self.streaming.wants(row):
                    wanted = True
                    yield from ((epoch, row, visit) for visit in range(self.segments.visits(row)))
            fruitless = 0 if found else fruitless + 1
            unwanted = 0 if wanted else unwanted + 1
            allowed = max(1.0, self.streaming.max_unreadable_share * len(self.streaming.urls))
            if len(broken) > allowed or fruitless == len(self.streaming.urls):
                raise DataError(
                    f"{len(broken)} of {len(self.streaming.urls)} training shards cannot be read, more than "
                    f"data.max_unreadable_share allows; the last: {url}. The warnings above say why"
                )
            # one worker of several gets a given shard in some epochs only
            if unwanted == _EPOCHS_WITHOUT * len(self.streaming.urls):
                raise DataError(
                    f"no utterance of {unwanted} training shards passes data.speakers and data.min_bandwidth: is a "
                    "name mistyped, or is the bandwidth not in the shards (bcfusion prepare --measure)?"
                )

    def _shards(self) -> Iterator[tuple[int, str]]:
        """Yield the shards of this worker, with their epoch."""
        urls = self.streaming.urls
        epochs: Iterable[int] = itertools.count() if self.streaming.endless else range(1)

        def ordered(epoch: int) -> list[tuple[int, str]]:
            if not self.streaming.endless:
                return [(epoch, url) for url in urls]
            generator = generator_for(self.segments.seed, "shards", self.start_batch, epoch)
            return [(epoch, urls[place]) for place in torch.randperm(len(urls), generator=generator).tolist()]

        everything = itertools.chain.from_iterable(map(ordered, epochs))
        worker, workers = _worker()
        mine = itertools.islice(everything, self.rank, None, self.world_size)
        return itertools.islice(mine, worker, None, workers)

    def _rows(self, url: str, broken: set[str]) -> Iterator[Row]:
        """Yield the utterances of a shard, with their files in memory; after a failure, report it and skip the rest."""
        from webdataset.tariterators import group_by_keys

        def report(error: Exception) -> bool:
            logger.warning("%s: %s; the rest of this shard is left out", url, reason(url, error))
            broken.add(url)
            self._failed.append(url)
            return False

        for sample in group_by_keys(_members(url, report), handler=report):
            try:
                described = from_json(sample["json"])
                name = f"{url}/{sample['__key__']}"
                paths = {
                    sensor: EncodedAudio(f"{name}.{suffix}", sample[suffix.lower()])
                    for sensor, suffix in described["files"].items()
                }
                row = row_of(described, paths)
            except (ValueError, LookupError, TypeError, BcfusionError) as error:
                # an incomplete sample is the last one of a truncated shard
                report(DataError(f"{sample.get('__key__')}: not an utterance of bcfusion prepare ({error})"))
                continue
            yield row


def _members(url: str, report: Callable[[Exception], bool]) -> Iterator[dict[str, Any]]:
    """Yield the files of a shard as ``webdataset`` does; of plain tars, without links, devices and huge files."""
    raw: BinaryIO | None = None
    try:
        raw = opened(url)
        with tarfile.open(fileobj=raw, mode="r|") as archive:
            for member in archive:
                check_member(member)
                if member.name == HEADER or member.isdir():
                    continue
                if member.size > LARGEST_FILE:
                    raise ValueError(f"{member.name} is longer than {LARGEST_FILE} bytes")
                content = archive.extractfile(member)
                assert content is not None  # of a plain file
                yield {"fname": member.name, "data": content.read(), "__url__": url}
                archive.members = []  # type: ignore[attr-defined]  # it keeps all that it has read
    except Exception as error:  # of a network, a command or a damaged file
        report(error)
    finally:
        closed(raw)
    yield {}  # the end of the shard


def _worker() -> tuple[int, int]:
    """Return the number of this worker and the number of workers, in this rank."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
