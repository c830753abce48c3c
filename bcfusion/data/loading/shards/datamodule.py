"""The data of a run whose training shards are streamed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from bcfusion.contracts import Batch, Row
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.loaders import TrainLoader, UnreadableTally
from bcfusion.data.loading.rows import amount, check_rows, rates_of
from bcfusion.data.loading.shards.streaming import Streaming, StreamLoader
from bcfusion.errors import DataError

if TYPE_CHECKING:
    from bcfusion.data.loading.shards.remote import StreamedShards

logger = logging.getLogger(__name__)

_ALL = sys.maxsize  # batches of a pass that ends with the shards


class StreamedDataModule(SpeechDataModule):
    """A :class:`~bcfusion.data.loading.datamodule.SpeechDataModule` whose training utterances are not listed.

    The first utterances of the first training shard are checked in :meth:`setup`, so that a wrong address, a missing
    sensor or a wrong sample rate is reported before training.

    Raises:
        DataError: ``max_train_items`` is set, though the utterances of a stream cannot be chosen from the whole.
    """

    corpus: StreamedShards
    _first: list[Row] | None = None
    _rows_of_a_shard: int

    def _filled(self, split: str) -> Sequence[Row]:
        if split != "train":
            return super()._filled(split)
        if self.max_train_items is not None:
            raise DataError("data.max_train_items: the utterances of streamed shards cannot be chosen; give fewer URLs")
        if self._first is None:
            self._first, self._rows_of_a_shard = self.corpus.first_rows()
            check_rows(self._first, split, self.reader, self._corpus_name)
        return self._first

    def train_speakers(self) -> None:
        """Return None: the speakers are not known until all training shards have been read."""
        return None

    def describe(self) -> str:
        """Describe the corpus in one line, for the start of a run."""
        splits = dict.fromkeys(("valid", self.test_split))
        listed = (f"{split} {amount(self.rows(split))}" for split in splits)
        parts = [f"train {len(self.corpus.urls['train'])} shards, streamed", *listed]
        return f"{self._corpus_name}: {'; '.join(parts)}"

    def contents(self, split: str) -> str:
        """Describe a split as the base class does; of the training shards only their number is known."""
        if split == "train":
            return f"{len(self.corpus.urls['train'])} shards, streamed, {rates_of(self._filled('train'))}"
        return super().contents(split)

    def sample_batch(self, size: int) -> Batch:
        """Return the first ``size`` crops of a pass, read in this process, for a trial."""
        loader = self._stream(True, self.deferred, 1, 0, 1, size, workers=0)
        try:
            return next(iter(loader))
        finally:
            loader.close()

    def train_dataloader(self) -> TrainLoader:
        """Return the endless stream; always the same object."""
        if self._train_loader is None:
            logger.warning(
                "training shards are streamed: crops are shuffled among %d in each worker, and a resumed run continues "
                "with other crops than an uninterrupted one; shards in a folder have neither limit",
                self.corpus.shuffle_buffer,
            )
            self._train_loader = self._stream(True, self.deferred, self.batches_per_pass, *self._place())
        return self._train_loader

    def pass_dataloader(self) -> TrainLoader:
        """Return one pass over the training shards, the same on every rank, in order; the last batch may be short."""
        return self._stream(False, frozenset(), _ALL, 0, 1)

    def _stream(
        self,
        endless: bool,
        deferred: frozenset[str],
        batches_per_pass: int,
        rank: int,
        world_size: int,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> StreamLoader:
        first = self._filled("train")
        urls = self.corpus.urls["train"]
        return StreamLoader(
            self._segments_of(first, deferred),
            Streaming(
                urls,
                self.corpus.shuffle_buffer if endless else 1,
                self.max_unreadable_share,
                None if self.speakers is None else frozenset(self.speakers),
                self.min_bandwidth,
                endless,
            ),
            batch_size or self.batch_size,
            batches_per_pass,
            UnreadableTally(self._rows_of_a_shard * len(urls), self.max_unreadable_share, "train"),
            self.workers if workers is None else workers,
            torch.cuda.is_available(),
            rank,
            world_size,
        )
