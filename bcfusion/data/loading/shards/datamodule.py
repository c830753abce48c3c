"""The data of a run whose training shards are streamed."""

from __future__ import annotations

import logging
import sys

import torch

from bcfusion.contracts import Row
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.loaders import TrainLoader, UnreadableTally
from bcfusion.data.loading.shards.remote import StreamedShards, Streaming, StreamLoader
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

_ALL = sys.maxsize  # batches of a pass that ends with the shards


class StreamedDataModule(SpeechDataModule):
    """As :class:`~bcfusion.data.loading.datamodule.SpeechDataModule`, with training utterances that no list holds.

    The first utterances of the first training shard are looked at in :meth:`setup`, so that a wrong address, a sensor
    that is missing or a wrong sample rate is told before the training.

    Raises:
        DataError: ``max_train_items`` is set: a stream has no utterances spread over the whole to choose.
    """

    corpus: StreamedShards
    _first: list[Row] | None = None
    _rows_of_a_shard: int

    def _filled(self, split: str) -> list[Row]:
        if split != "train":
            return super()._filled(split)
        if self.limits["train"] is not None:
            raise DataError("data.max_train_items: of streamed shards no utterances can be picked; give fewer URLs")
        if self._first is None:
            self._first, self._rows_of_a_shard = self.corpus.first_rows()
            self._check(self._first, split)
        return self._first

    def train_speakers(self) -> None:
        """Not known: nobody has read all training shards."""
        return None

    def describe(self) -> str:
        """The corpus in a few words, for the first line of a run."""
        parts = [f"train {len(self.corpus.urls['train'])} shards, streamed"]
        for split in dict.fromkeys(("valid", self.test_split)):
            rows = self.rows(split)
            speakers = len({row.speaker for row in rows})
            parts.append(f"{split} {len(rows)} files, {speakers} speakers, {self.audio_seconds(split) / 60:.1f} min")
        return f"{type(self.corpus).__name__}: {'; '.join(parts)}"

    def train_dataloader(self) -> TrainLoader:
        """The endless stream; always the same object."""
        if self._train_loader is None:
            logger.warning(
                "training shards are streamed: crops are shuffled among %d in each worker, and a resumed run goes on "
                "with other crops than an uninterrupted one; shards in a folder have neither limit",
                self.corpus.shuffle_buffer,
            )
            self._train_loader = self._stream(True, self.deferred, self.batches_per_pass, *self._place())
        return self._train_loader

    def pass_dataloader(self) -> TrainLoader:
        """One pass over the training shards, the same on every rank, in their order; the last batch may be short."""
        return self._stream(False, frozenset(), _ALL, 0, 1)

    def _stream(
        self, endless: bool, deferred: frozenset[str], batches_per_pass: int, rank: int, world_size: int
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
            self.batch_size,
            batches_per_pass,
            UnreadableTally(self._rows_of_a_shard * len(urls), self.max_unreadable_share, "train"),
            self.workers,
            torch.cuda.is_available(),
            rank,
            world_size,
        )
