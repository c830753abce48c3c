"""Shards that are streamed from where they are: object stores, web servers, shell commands.

Read through ``webdataset`` (https://github.com/webdataset/webdataset, BSD-3), which opens the URLs. Training data come
in the order of the shards, shuffled within a buffer; nothing is written to disk. What is lost against shards in a
folder: the shuffling reaches only as far as the buffer and the order of the shards, and a resumed run does not see the
crops that an uninterrupted one would have seen. Validation and test shards are copied to the cache directory once and
read from there, so that evaluation is the same as everywhere.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import re
import secrets
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bcfusion.audio import EncodedAudio, UnreadableAudio
from bcfusion.contracts import Batch, Row
from bcfusion.data.corpora.made_once import cache_directory
from bcfusion.data.loading.collate import Item, collate
from bcfusion.data.loading.loaders import TrainLoader, UnreadableTally, as_it_is, leave_signals_to_the_trainer, portable
from bcfusion.data.loading.seeding import generator_for, stable_seed
from bcfusion.data.loading.segments import TrainSegments
from bcfusion.data.loading.shards import URL
from bcfusion.data.loading.shards.index import HEADER, VERSION, row_of
from bcfusion.data.loading.shards.read import rows_of
from bcfusion.errors import BcfusionError, DataError

logger = logging.getLogger(__name__)

_SPLIT = re.compile(r"(?P<name>(?P<split>train|valid|test)-\d+\.tar)")
_FIRST = 8  # utterances of the first training shard that are looked at before the training
_ATTEMPTS = 8
#: what the status of curl means, with which http and https are fetched
_CURL = {
    6: ": there is no such host",
    7: ": nothing answers there",
    22: ": the server refuses it",
    28: ": it is too slow",
}
_EPOCHS_WITHOUT = 10  # epochs of shards without a wanted utterance that end a run


class StreamedShards:
    """The corpus of shards behind URLs (see the module for what that costs).

    Args:
        patterns: URLs with ``{000000..000099}`` and ``{a,b}`` for several; each names its split and number as
            ``SPLIT-000000.tar``. ``file:PATH`` and a plain path are local, ``pipe:COMMAND`` is what a shell command
            writes, as ``pipe:aws s3 cp s3://BUCKET/train-000000.tar -``; the others are those that ``webdataset`` knows
            (http, https, gs, hf, sftp, ...).
        shuffle_buffer: crops among which training data are shuffled, in each worker.
        max_unreadable_share: of the shards, in [0, 1], that may be unreadable.
        cache_dir: for the shards of validation and test; else as of
            :func:`bcfusion.data.corpora.made_once.cache_directory`.

    Raises:
        DataError: a URL names no split, none is for training, or ``webdataset`` is not installed.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        shuffle_buffer: int = 1000,
        max_unreadable_share: float = 0.05,
        cache_dir: str | None = None,
    ) -> None:
        if find_spec("webdataset") is None:
            raise DataError(
                "shards behind URLs need webdataset: pip install 'bcfusion[shards]'; a folder of shards is read without"
            )
        from braceexpand import braceexpand

        if shuffle_buffer < 1:
            raise DataError(f"data.shuffle_buffer: {shuffle_buffer} must be at least 1")
        self.shuffle_buffer = shuffle_buffer
        self.max_unreadable_share = max_unreadable_share
        self.cache_dir = cache_dir
        self.urls: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
        for url in (url for pattern in patterns for url in braceexpand(str(pattern))):
            names = list(_SPLIT.finditer(url))
            if not names:
                raise DataError(
                    f"data.root: {url} names no shard; one is called train-000000.tar, valid-... or test-..."
                )
            # webdataset takes the path of file:/PATH for a relative one
            self.urls[names[-1]["split"]].append(urlparse(url).path if url.startswith("file:") else url)
        if not self.urls["train"]:
            raise DataError("data.root: none of the URLs is that of a training shard, train-000000.tar and so on")
        self._rows: dict[str, list[Row]] = {}

    def rows(self, split: str) -> list[Row]:
        """The utterances of ``valid`` or ``test``, whose shards are copied to the cache first; may be empty.

        Raises:
            DataError: a shard cannot be fetched or read; or those of ``train`` were asked for, which are not listed.
        """
        if split == "train":
            raise DataError(
                "training shards are streamed, and their utterances are in no list: give a folder of shards"
            )
        if split not in self._rows:
            tars = [self._fetched(url) for url in self.urls[split]]
            self._rows[split] = rows_of(tars, split, self.max_unreadable_share, whole=False) if tars else []
        return self._rows[split]

    def first_rows(self) -> tuple[list[Row], int]:
        """Some utterances of the first training shard, and how many the whole shard has.

        Raises:
            DataError: it cannot be read, or is no shard of ``bcfusion prepare``.
        """
        url = self.urls["train"][0]
        rows: list[Row] = []
        about: dict[str, Any] = {}
        raw: BinaryIO | None = None
        try:
            raw = _opened(url)
            with tarfile.open(fileobj=raw, mode="r|*") as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if content is None or not (member.name == HEADER or member.name.endswith(".json")):
                        continue
                    values = json.loads(content.read())
                    if member.name == HEADER:
                        about = values
                    else:
                        rows.append(row_of(values, dict.fromkeys(values["files"], f"{url}/{member.name}")))
                    if len(rows) == _FIRST:
                        break
        except (OSError, tarfile.TarError, ValueError, LookupError) as error:
            # where nothing came, the command that should have fetched it knows more
            cause = _closed(raw) if "empty file" in str(error) else None
            raise DataError(f"data.root: cannot read {url}: {_reason(url, cause or error)}") from error
        finally:
            _closed(raw)
        if about.get("version") != VERSION or not rows:
            raise DataError(f"data.root: {url} is no shard of bcfusion prepare, or of another version of it")
        return rows, int(about["rows"])

    def _fetched(self, url: str) -> Path:
        """A shard as a local file: itself, or a copy in the cache."""
        if not URL.match(url):
            return Path(url)
        name = list(_SPLIT.finditer(url))[-1]["name"]
        # one folder for each place that shards come from
        target = cache_directory(self.cache_dir) / "shards" / f"{stable_seed(url.replace(name, '')):016x}" / name
        if target.exists():
            return target
        logger.info("copying %s to %s", url, target)
        temporary = target.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _opened(url) as source, temporary.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            os.replace(temporary, target)
        except (OSError, ValueError) as error:
            raise DataError(f"data.root: cannot copy {url} to {target}: {_reason(url, error)}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return target


@dataclass(frozen=True)
class Streaming:
    """How training shards are streamed.

    Attributes:
        urls: of the shards. shuffle_buffer: crops; 1 keeps the order. max_unreadable_share: of the shards.
        speakers: that are trained on; None: all. min_bandwidth: Hz up to which air must hold speech; None: any.
        endless: whether the shards begin anew after the last; else one pass is made, in order.
    """

    urls: Sequence[str]
    shuffle_buffer: int
    max_unreadable_share: float
    speakers: frozenset[str] | None = None
    min_bandwidth: float | None = None
    endless: bool = True

    def wants(self, row: Row) -> bool:
        """Whether an utterance is trained on; one whose bandwidth was not measured is."""
        narrow = self.min_bandwidth is not None and row.bandwidth is not None and row.bandwidth < self.min_bandwidth
        return not narrow and (self.speakers is None or row.speaker in self.speakers)


class StreamLoader(TrainLoader):
    """Batches of crops from streamed shards.

    The shards of an epoch are in an order that is drawn anew for each, the same for all ranks; they are dealt out in
    turn to ranks, and within each to workers, epoch after epoch without a border, so that nobody is left without
    however few there are. Every pass has the same number of batches on every rank, whatever is in the shards. Each
    utterance gives as many crops as in a list, and each crop is drawn, simulated and augmented as it would be there.

    It cannot be resumed exactly: begun at another batch than 0, it streams in another order than before, from the
    beginning of some shards.

    Args:
        segments: cuts the crops.
        streaming: which shards, and how.
        batch_size: crops in a batch.
        batches_per_pass, tally: as of :class:`~bcfusion.data.loading.loaders.TrainLoader`.
        workers: processes that stream; 0 streams in this one.
        pin_memory: whether batches are copied to page-locked memory, for a GPU.
        rank: of this process. world_size: how many there are.
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

    def _begin(self) -> Iterator[Batch | BcfusionError]:
        if self.start_batch and self.streaming.endless:
            logger.warning(
                "training data are streamed and cannot be resumed exactly: the run goes on with other crops than it "
                "would have seen, and some come again early"
            )
        batches = _Batches(
            self.segments, self.streaming, self.batch_size, self.rank, self.world_size, begun=self.start_batch
        )
        loader: DataLoader[Batch | BcfusionError] = DataLoader(
            batches,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            generator=generator_for(self.segments.seed, "workers"),
            collate_fn=as_it_is,
            worker_init_fn=leave_signals_to_the_trainer if self.workers else None,
        )
        return iter(loader)


class _Batches(IterableDataset[Any]):
    """What one worker of one rank streams, as whole batches. An error for the user stands in the place of a batch."""

    def __init__(
        self,
        segments: TrainSegments,
        streaming: Streaming,
        batch_size: int,
        rank: int,
        world_size: int,
        begun: int,
    ) -> None:
        self.segments = segments
        self.streaming = streaming
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.begun = begun
        self._failed: list[str] = []  # shards and files that could not be read since the last item

    def __iter__(self) -> Iterator[Batch | BcfusionError]:
        try:
            items = self._items()
            while batch := list(itertools.islice(items, self.batch_size)):
                yield collate(batch)
        except BcfusionError as error:
            yield portable(error)

    def _items(self) -> Iterator[Item]:
        import webdataset

        crops = self._crops()
        if self.streaming.shuffle_buffer > 1:
            seed = stable_seed(self.segments.seed, "shuffle", self.begun, self.rank, _worker()[0])
            size = self.streaming.shuffle_buffer
            crops = webdataset.shuffle(size, initial=size, rng=random.Random(seed))(crops)
        problems = 0
        for epoch, row, visit in crops:
            generator = generator_for(self.segments.seed, "crop", epoch, row.id, visit)
            try:
                # the key stands for epoch and utterance, as a number of the list does elsewhere
                item = self.segments.crop(row, generator, stable_seed(epoch, row.id), visit)
            except UnreadableAudio as error:
                self._failed.append(error.path)
                problems += 1
                if problems == _ATTEMPTS:
                    raise DataError(f"{problems} crops in succession cannot be read; the last: {error}") from error
                continue
            problems = 0
            item["unreadable"], self._failed = self._failed, []
            yield item

    def _crops(self) -> Iterator[tuple[int, Row, int]]:
        """Epoch, utterance and number of the visit to it, in the order of the shards."""
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
            # one worker of several meets a certain shard in some epochs only
            if unwanted == _EPOCHS_WITHOUT * len(self.streaming.urls):
                raise DataError(
                    f"no utterance of {unwanted} training shards read is one that data.speakers and data.min_bandwidth "
                    "leave: is a name mistyped, or is the bandwidth not in the shards (bcfusion prepare --measure)?"
                )

    def _shards(self) -> Iterator[tuple[int, str]]:
        """Those of this worker, with their epoch."""
        urls = self.streaming.urls
        epochs: Iterable[int] = itertools.count() if self.streaming.endless else range(1)

        def ordered(epoch: int) -> list[tuple[int, str]]:
            if not self.streaming.endless:
                return [(epoch, url) for url in urls]
            generator = generator_for(self.segments.seed, "shards", self.begun, epoch)
            return [(epoch, urls[place]) for place in torch.randperm(len(urls), generator=generator).tolist()]

        everything = itertools.chain.from_iterable(map(ordered, epochs))
        worker, workers = _worker()
        mine = itertools.islice(everything, self.rank, None, self.world_size)
        return itertools.islice(mine, worker, None, workers)

    def _rows(self, url: str, broken: set[str]) -> Iterator[Row]:
        """The utterances of a shard, with their files in memory; one that fails is told, and left where it failed."""
        import webdataset

        def tell(error: Exception) -> bool:
            logger.warning("%s: %s; what follows in this shard is left out", url, _reason(url, error))
            broken.add(url)
            self._failed.append(url)
            return False

        for sample in webdataset.tarfile_to_samples(handler=tell)(iter([{"url": url}])):
            try:
                described = json.loads(sample["json"])
                name = f"{url}/{sample['__key__']}"
                paths = {
                    sensor: EncodedAudio(f"{name}.{suffix}", sample[suffix.lower()])
                    for sensor, suffix in described["files"].items()
                }
                row = row_of(described, paths)
            except (ValueError, LookupError, TypeError, BcfusionError) as error:
                # a sample that is cut in two is the last of a shard that broke off
                tell(DataError(f"{sample.get('__key__')}: no utterance of bcfusion prepare ({error})"))
                continue
            yield row


def _opened(url: str) -> BinaryIO:
    import webdataset

    stream: BinaryIO = webdataset.gopen(url)
    return stream


def _closed(stream: BinaryIO | None) -> OSError | None:
    """Close a stream; what the command at its other end complains of, also that nobody wanted the rest."""
    try:
        if stream is not None:
            stream.close()
    except OSError as error:
        return error
    return None


def _reason(url: str, error: Exception) -> str:
    """Why a URL cannot be read and what to do, in place of the words of ``webdataset``."""
    text = str(error)
    if "no gopen handler" in text:
        return f"webdataset opens no such address by itself; let a command fetch it: 'pipe:COMMAND {url}'"
    if status := re.search(r": exit (-?\d+) ", text):
        why = _CURL.get(int(status[1]), "") if url.startswith("http") else ""
        return (
            f"the command that fetches it ended with status {status[1]}{why}; check the address and your access to it"
        )
    return error.strerror if isinstance(error, OSError) and error.strerror else text


def _worker() -> tuple[int, int]:
    """Number of this worker and how many there are, in this rank."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
