"""The data of a run as a Lightning data module; it works without a Trainer too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only

from bcfusion.configuration.keys import key_rules
from bcfusion.contracts import UNKNOWN_SPEAKER, Batch, Corpus, Row, Simulator
from bcfusion.data.corpora.table import columns_of, tabled
from bcfusion.data.loading.aligned import probe, report
from bcfusion.data.loading.augmentation import Augmentation
from bcfusion.data.loading.collate import memory_rules
from bcfusion.data.loading.loaders import EvalLoader, StepLoader, TrainLoader, UnreadableTally, automatic_workers
from bcfusion.data.loading.reader import BODY, SensorReader
from bcfusion.data.loading.rows import (
    amount,
    check_rows,
    rates_of,
    require_rows,
    seconds_of,
    spoken_by,
    spread,
    warn_of_lower_rates,
    warn_of_padding,
    warn_of_recorded_ratio,
    wide_enough,
)
from bcfusion.data.loading.schedule import BatchSchedule
from bcfusion.data.loading.segments import EvalItems, TrainSegments, natural_visits
from bcfusion.data.simulation.device_simulation import deferrable, simulated
from bcfusion.requirements import at_least, require


class SpeechDataModule(lightning.LightningDataModule):
    """One corpus, the sensors of one task, three loaders.

    A sensor of a row is read if the corpus has a recording of it, and simulated from air otherwise. Training uses
    random crops, validation and test use whole files. The order of training is that of
    :class:`~bcfusion.data.loading.schedule.BatchSchedule`, already divided among ranks: the Trainer needs
    ``use_distributed_sampler=False``. Ranks share validation as ``rows[rank::world_size]``.

    Args:
        corpus: where utterances come from.
        simulators: by sensor.
        sensors: of the task, in the order of the network's inputs.
        sample_rate: of batches, in Hz.
        segment_seconds: length of a training crop.
        batch_size: crops in a training batch of one rank.
        batches_per_pass: batches between two validations.
        workers: processes that read training data; ``auto``: none on one or two cores, else one less than there are
            cores, at most 8. Evaluation uses one if training uses any.
        resample: whether files of another rate are resampled (else :meth:`setup` refuses them).
        seed: of the run.
        max_unreadable_share: share of a split's utterances, in [0, 1], that may be unreadable before the run stops.
        max_train_items: train on this many utterances, spread over the split; None: on all.
        max_valid_items: validate on this many while training; None: on all.
        speakers: train on these speakers only; None: on all. Validation and test use all speakers.
        sensor_dropout: share of the training crops in which one of several sensors is silent.
        augmentation: of the training crops; None: none.
        min_bandwidth: Hz; utterances whose air is known to hold no speech up to this frequency are not trained on: as
            targets of bandwidth extension they have no upper band. None: all utterances are used.
        simulate_on_device: whether sensors are simulated, in training, on the training device instead of in the loader,
            as far as their simulators support it (:mod:`bcfusion.data.simulation.device_simulation`). Batches of
            :meth:`train_dataloader` are complete after :meth:`on_after_batch_transfer`.
        evaluation_body_gain: dB by which the sensor ``body`` is amplified in validation and test, last of all.

    Raises:
        ConfigError: an argument is out of range, a batch does not fit into memory, or a simulator has an old signature
            or refuses the sample rate.
        DataError: later: a sensor is neither recorded nor simulated, the corpus lacks rows or speakers that are
            required, files have another rate, two rows have one id, or too many files are unreadable.
    """

    def __init__(
        self,
        corpus: Corpus,
        simulators: Mapping[str, Simulator],
        sensors: Sequence[str],
        sample_rate: int,
        segment_seconds: float = 1.0,
        batch_size: int = 8,
        batches_per_pass: int = 1000,
        workers: int | Literal["auto"] = "auto",
        resample: bool = True,
        seed: int = 0,
        max_unreadable_share: float = 0.05,
        max_train_items: int | None = None,
        max_valid_items: int | None = None,
        speakers: Sequence[str] | None = None,
        sensor_dropout: float = 0.0,
        augmentation: Augmentation | None = None,
        min_bandwidth: float | None = None,
        simulate_on_device: bool = False,
        evaluation_body_gain: float = 0.0,
    ) -> None:
        super().__init__()
        misfit = None if augmentation is None else augmentation.problem(sensors)
        require(
            self,
            key_rules(
                "data",
                {"sample_rate": sample_rate, "task": {"sensors": list(sensors)}},
                segment_seconds=segment_seconds,
                batch_size=batch_size,
                workers=workers,
                resample=resample,
                max_unreadable_share=max_unreadable_share,
                max_train_items=max_train_items,
                speakers=speakers,
                sensor_dropout=sensor_dropout,
                min_bandwidth=min_bandwidth,
                simulate_on_device=simulate_on_device,
                evaluation_body_gain=evaluation_body_gain,
            ),
            key_rules("trainer", max_valid_items=max_valid_items),
            at_least(1, batches_per_pass=batches_per_pass),
            (sensors, "sensors=[] must name at least one sensor, as task.sensors does"),
            (misfit is None, str(misfit)),
        )
        require("data.batch_size", *memory_rules(batch_size, segment_seconds, sample_rate, len(sensors)))
        self.corpus = corpus
        self.segment_seconds = segment_seconds
        self.batch_size = batch_size
        self.batches_per_pass = batches_per_pass
        self.workers = automatic_workers() if workers == "auto" else int(workers)
        self.seed = seed
        self.max_unreadable_share = max_unreadable_share
        self.max_train_items = max_train_items
        self.max_valid_items = max_valid_items
        self.reader = SensorReader(
            tuple(sensors), dict(simulators), sample_rate, resample, evaluation_gain=float(evaluation_body_gain)
        )
        self.deferred = deferrable(simulators) if simulate_on_device else frozenset()
        self.sensor_dropout = sensor_dropout
        self.augmentation = augmentation
        self.min_bandwidth = min_bandwidth
        self.speakers = None if speakers is None else [str(name) for name in speakers]
        self._rows: dict[str, Sequence[Row]] = {}
        self._probed: set[str] = set()  # splits whose lag and polarity of body were measured
        self._train_loader: TrainLoader | None = None
        self._told_of_rates = False

    def setup(self, stage: str | None = None) -> None:
        """Scan the rows that a stage needs, check their sensors, rates and ids, and report how body lags behind air.

        Args:
            stage: Lightning's ``fit``, ``validate`` or ``test``; None for all.

        Raises:
            DataError: see the class.
        """
        if stage in ("fit", None):
            self._filled("train")
        if stage in ("fit", "validate", None):
            self._filled("valid")
        if stage in ("test", None):
            self._filled(self.test_split)
        if stage in ("fit", None) and BODY in self.reader.sensors:
            self.rows("test")
        self._probe_alignment()

    def train_speakers(self) -> set[str] | None:
        """Return the speakers that are trained on, of whom none may be known; None if the utterances are not listed."""
        return set(columns_of(self.rows("train")).speaker_names()) - {UNKNOWN_SPEAKER}

    def rows(self, split: str) -> Sequence[Row]:
        """Return the checked rows of a split, of all ranks; may be empty.

        Raises:
            DataError: see the class.
        """
        if split not in self._rows:
            rows: Sequence[Row] = tabled(self.corpus.rows(split))
            if split == "train" and self.speakers is not None:
                rows = spoken_by(self.speakers, rows, self._corpus_name)
            if split == "train" and self.min_bandwidth is not None:
                rows = wide_enough(self.min_bandwidth, rows, self._corpus_name)
            check_rows(rows, split, self.reader, self._corpus_name)
            if split != "train":
                warn_of_recorded_ratio(rows, split, self.reader)
            if not self._told_of_rates:
                self._told_of_rates = warn_of_lower_rates(rows, split, self.reader.sample_rate)
            self._rows[split] = rows
        return self._rows[split]

    @property
    def test_split(self) -> str:
        """The split of test utterances: ``test``, or ``valid`` if the corpus has no test split."""
        return "test" if self.rows("test") else "valid"

    def audio_seconds(self, split: str, limit: int | None = None) -> float:
        """Return the seconds of audio in at most ``limit`` rows of a split; ``test`` stands for :attr:`test_split`."""
        return seconds_of(spread(self.rows(self.test_split if split == "test" else split), limit))

    def closing_items(self, limit: int | None = None) -> int:
        """Return how many utterances of :attr:`test_split` are evaluated if there are at most ``limit``."""
        return len(spread(self.rows(self.test_split), limit))

    def describe(self) -> str:
        """Describe the corpus in one line, for the start of a run."""
        splits = dict.fromkeys(("train", "valid", self.test_split))
        return f"{self._corpus_name}: {'; '.join(f'{split} {amount(self.rows(split))}' for split in splits)}"

    def contents(self, split: str) -> str:
        """Describe the checked utterances of a split: number, speakers, duration, and sample rates of the files.

        Raises:
            DataError: there are none; or see the class.
        """
        rows = self._filled(split)
        some = split == "train" and self.max_train_items is not None and self.max_train_items < len(rows)
        kept = f"; {self.max_train_items} of them are trained on (data.max_train_items)" if some else ""
        return f"{amount(rows)}, {rates_of(rows)}{kept}"

    def sample_batch(self, size: int) -> Batch:
        """Return the first ``size`` crops that training begins with, read in this process, for a trial.

        As from :meth:`train_dataloader`, it is complete after :meth:`on_after_batch_transfer`.

        Raises:
            DataError: too many files are unreadable.
        """
        segments = self._segments(self.deferred)
        loader = self._step_loader(segments, BatchSchedule(len(segments), size, self.seed), 1, workers=0)
        try:
            return next(iter(loader))
        finally:
            loader.close()

    def train_dataloader(self) -> TrainLoader:
        """Return the endless stream; always the same object, so that its position and its workers outlive a pass."""
        if self._train_loader is None:
            segments = self._segments(self.deferred)
            warn_of_padding(segments.rows, self.segment_seconds)
            schedule = BatchSchedule(len(segments), self.batch_size, self.seed, *self._place())
            self._train_loader = self._step_loader(segments, schedule, self.batches_per_pass)
        return self._train_loader

    def pass_dataloader(self) -> TrainLoader:
        """Return one pass over the training set, the same on every rank, for statistics.

        These are the crops of the first epoch, with which training begins. If they do not fill the last batch, it
        continues into the next epoch.
        """
        segments = self._segments()
        schedule = BatchSchedule(len(segments), self.batch_size, self.seed)
        return self._step_loader(segments, schedule, -(-len(segments) // self.batch_size))

    def val_dataloader(self) -> EvalLoader:
        """Return this rank's share of the validation utterances, one per batch, at most ``max_valid_items`` in all."""
        rank, world_size = self._place()
        rows = spread(self._filled("valid"), self.max_valid_items)
        # with more ranks than utterances, some score an utterance of another rank, which then counts once
        return self._eval_loader("valid", rows[rank::world_size] or [rows[rank % len(rows)]])

    def test_dataloader(self) -> EvalLoader:
        """Return all utterances of :attr:`test_split`, on every rank, one per batch."""
        return self.whole_dataloader(self.test_split)

    def whole_dataloader(self, split: str, limit: int | None = None) -> EvalLoader:
        """Return all utterances of a split, or at most ``limit``, evenly spread, on every rank, one per batch."""
        loader = self._eval_loader(split, spread(self._filled(split), limit))
        self._probe_alignment()
        return loader

    def _probe_alignment(self) -> None:
        """Report lag and polarity of body in a few utterances of each split that has come into use."""
        new = [split for split in self._rows if split not in self._probed]
        self._probed.update(new)
        if BODY in self.reader.sensors and getattr(rank_zero_only, "rank", 0) == 0:
            report([probe(self._rows[split], split, self.reader) for split in new], self.corpus)

    def teardown(self, stage: str | None = None) -> None:
        """End the training workers."""
        if stage in ("fit", None) and self._train_loader is not None:
            self._train_loader.close()

    def _eval_loader(self, split: str, rows: Sequence[Row]) -> EvalLoader:
        return EvalLoader(
            EvalItems(rows, self.reader),
            UnreadableTally(len(self.rows(split)), self.max_unreadable_share, split),
            min(1, self.workers),
            pin_memory=torch.cuda.is_available(),
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Simulate the sensors that the loader left to the device of the batch."""
        changes = getattr(self.augmentation, "changes", None)  # a class of the user's may have none
        return simulated(batch, self.reader.sensors, self.reader.simulators, self.reader.sample_rate, changes)

    def _segments(self, deferred: frozenset[str] = frozenset()) -> TrainSegments:
        rows = spread(self._filled("train"), self.max_train_items)
        if (weighted := getattr(self.corpus, "weighted", None)) is not None:
            rows = weighted(rows, partial(natural_visits, segment_seconds=self.segment_seconds))
        return self._segments_of(rows, deferred)

    def _segments_of(self, rows: Sequence[Row], deferred: frozenset[str]) -> TrainSegments:
        reader = replace(self.reader, deferred=deferred)
        return TrainSegments(rows, reader, self.segment_seconds, self.seed, self.sensor_dropout, self.augmentation)

    def _step_loader(
        self, segments: TrainSegments, schedule: BatchSchedule, batches_per_pass: int, workers: int | None = None
    ) -> StepLoader:
        return StepLoader(
            segments,
            schedule,
            batches_per_pass,
            UnreadableTally(len(segments.rows), self.max_unreadable_share, "train"),
            self.workers if workers is None else workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _place(self) -> tuple[int, int]:
        """Return the rank and the number of ranks."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _filled(self, split: str) -> Sequence[Row]:
        rows = self.rows(split)
        require_rows(rows, split, self.corpus)
        return rows

    @property
    def _corpus_name(self) -> str:
        return type(self.corpus).__name__
