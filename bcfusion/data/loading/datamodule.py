"""The data of a run, as Lightning wants it; it works without a Trainer too."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import lightning
import torch

from bcfusion.contracts import Batch, Corpus, Row, Simulator
from bcfusion.data.loading.loaders import BatchSchedule, EvalLoader, StepLoader, TrainLoader, UnreadableTally
from bcfusion.data.loading.segments import AIR, EvalItems, SensorReader, TrainSegments
from bcfusion.data.simulation.augmentation import Augmentation
from bcfusion.data.simulation.device_simulation import deferrable, simulated
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)


class SpeechDataModule(lightning.LightningDataModule):
    """One corpus, the sensors of one task, three loaders.

    Each sensor of each row is read where the corpus has a recording of it, and simulated from air otherwise. Training
    takes random crops, validation and test take whole files. The order of training is that of
    :class:`~bcfusion.data.loading.loaders.BatchSchedule`, already divided among ranks: the Trainer must be told
    ``use_distributed_sampler=False``. Ranks share evaluation as ``rows[rank::world_size]``.

    Args:
        corpus: where utterances come from.
        simulators: by sensor.
        sensors: of the task, in the order of the network's inputs.
        sample_rate: of batches, in Hz.
        segment_seconds: length of a training crop.
        batch_size: crops in a training batch of one rank.
        batches_per_pass: batches between two validations.
        workers: processes that read training data; ``auto``: none on one or two cores, else one a core but one, at
            most 8. Evaluation uses one where training uses some.
        resample: whether files of another rate are resampled (else they are refused in :meth:`setup`).
        seed: of the run.
        max_unreadable_share: of a split's utterances, in [0, 1], that may fail to be read while the run goes on.
        max_train_items: train on so many utterances, spread over the split; None: on all.
        max_valid_items: validate on so many while training; None: on all.
        speakers: train on these speakers alone; None: on all. Validation and test are of all speakers.
        sensor_dropout: share of the training crops in which one of several sensors is silent.
        augmentation: of the training crops; None: none.
        simulate_on_device: whether sensors are simulated, in training, on the training device in place of the loader,
            as far as their simulators can (:mod:`bcfusion.data.simulation.device_simulation`). Batches of
            :meth:`train_dataloader` are complete after :meth:`on_after_batch_transfer`.
        min_bandwidth: Hz; utterances whose air was measured to hold speech up to less are not trained on, as targets of
            bandwidth extension that have nothing to extend to. None: all are.

    Raises:
        DataError: an argument is out of range; later: a sensor that is neither recorded nor simulated, a corpus without
            the rows or speakers that are asked for, files of another rate, two rows with one id, too many unreadable
            files.
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
    ) -> None:
        super().__init__()
        problems = []
        if not sensors:
            problems.append("task.sensors: no sensor is named")
        if not segment_seconds * sample_rate >= 1:
            problems.append(f"data.segment_seconds: {segment_seconds} s is under one sample")
        if batch_size < 1:
            problems.append(f"data.batch_size: {batch_size} must be at least 1")
        if batches_per_pass < 1:
            problems.append(f"batches_per_pass: {batches_per_pass} must be at least 1")
        if workers != "auto" and (isinstance(workers, str) or workers < 0):
            problems.append(f"data.workers: {workers!r} is neither auto nor a number of processes")
        if not 0 <= max_unreadable_share <= 1:
            problems.append(f"data.max_unreadable_share: {max_unreadable_share} is not between 0 and 1")
        self.limits = {"train": max_train_items, "valid": max_valid_items}
        for name, limit in self.limits.items():
            if limit is not None and limit < 1:
                problems.append(f"max_{name}_items: {limit} must be at least 1, or null")
        if not 0 <= sensor_dropout <= 1:
            problems.append(f"data.sensor_dropout: {sensor_dropout} is not between 0 and 1")
        if augmentation is not None and (problem := augmentation.problem(sensors)):
            problems.append(problem)
        if min_bandwidth is not None and not 0 < min_bandwidth <= sample_rate / 2:
            problems.append(f"data.min_bandwidth: {min_bandwidth} must be null or above 0 and at most half sample_rate")
        if isinstance(speakers, str) or (speakers is not None and not len(speakers)):
            problems.append(f"data.speakers: {speakers!r} is no list of names, as in data.speakers=[NAME]; null: all")
        if problems:
            raise DataError("\n".join(problems))
        self.corpus = corpus
        self.segment_seconds = segment_seconds
        self.batch_size = batch_size
        self.batches_per_pass = batches_per_pass
        self.workers = automatic_workers() if workers == "auto" else int(workers)
        self.seed = seed
        self.max_unreadable_share = max_unreadable_share
        self.reader = SensorReader(tuple(sensors), dict(simulators), sample_rate, resample)
        self.deferred = deferrable(simulators) if simulate_on_device else frozenset()
        self.sensor_dropout = sensor_dropout
        self.augmentation = augmentation
        self.min_bandwidth = min_bandwidth
        self.speakers = None if speakers is None else [str(name) for name in speakers]
        self._rows: dict[str, list[Row]] = {}
        self._train_loader: TrainLoader | None = None

    def setup(self, stage: str | None = None) -> None:
        """Look at the rows that a stage needs: scan them, and check their sensors, rates and ids.

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

    def train_speakers(self) -> set[str] | None:
        """Who is trained on; None where that is not known."""
        return {row.speaker for row in self.rows("train")}

    def rows(self, split: str) -> list[Row]:
        """The checked rows of a split, of all ranks; may be empty.

        Raises:
            DataError: see the class.
        """
        if split not in self._rows:
            rows = self.corpus.rows(split)
            if split == "train" and self.speakers is not None:
                rows = self._spoken_by(self.speakers, rows)
            if split == "train" and self.min_bandwidth is not None:
                rows = self._wide_enough(self.min_bandwidth, rows)
            self._check(rows, split)
            self._rows[split] = rows
        return self._rows[split]

    @property
    def test_split(self) -> str:
        """Where test utterances come from: ``test``, or ``valid`` where the corpus has none."""
        return "test" if self.rows("test") else "valid"

    def audio_seconds(self, split: str) -> float:
        """Seconds of audio in a split; of ``test`` those of :attr:`test_split`."""
        return sum(row.duration for row in self.rows(self.test_split if split == "test" else split))

    def describe(self) -> str:
        """The corpus in a few words, for the first line of a run."""
        parts = []
        for split in dict.fromkeys(("train", "valid", self.test_split)):
            rows = self.rows(split)
            speakers = len({row.speaker for row in rows})
            parts.append(f"{split} {len(rows)} files, {speakers} speakers, {self.audio_seconds(split) / 60:.1f} min")
        return f"{type(self.corpus).__name__}: {'; '.join(parts)}"

    def train_dataloader(self) -> TrainLoader:
        """The endless stream; always the same object, so that its position and its workers outlive a pass."""
        if self._train_loader is None:
            segments = self._segments(self.deferred)
            schedule = BatchSchedule(len(segments), self.batch_size, self.seed, *self._place())
            self._train_loader = self._step_loader(segments, schedule, self.batches_per_pass)
        return self._train_loader

    def pass_dataloader(self) -> TrainLoader:
        """One pass over the training set, the same on every rank: the crops of the first epoch, for statistics.

        They are those that training begins with. A last batch that they do not fill goes on into the next epoch.
        """
        segments = self._segments()
        schedule = BatchSchedule(len(segments), self.batch_size, self.seed)
        return self._step_loader(segments, schedule, -(-len(segments) // self.batch_size))

    def val_dataloader(self) -> EvalLoader:
        """This rank's share of the validation utterances, one in a batch, as many as ``max_valid_items`` says."""
        rank, world_size = self._place()
        rows = spread(self._filled("valid"), self.limits["valid"])
        # with more ranks than utterances some score one that another scores too, which then counts once
        return self._eval_loader("valid", rows[rank::world_size] or [rows[rank % len(rows)]])

    def test_dataloader(self) -> EvalLoader:
        """All utterances of :attr:`test_split`, on every rank, one in a batch."""
        return self.whole_dataloader(self.test_split)

    def whole_dataloader(self, split: str) -> EvalLoader:
        """All utterances of a split, on every rank, one in a batch."""
        return self._eval_loader(split, self._filled(split))

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
        """Simulate the sensors that the loader left to the device that the batch is on now."""
        return simulated(batch, self.reader.sensors, self.reader.simulators, self.reader.sample_rate)

    def _segments(self, deferred: frozenset[str] = frozenset()) -> TrainSegments:
        return self._segments_of(spread(self._filled("train"), self.limits["train"]), deferred)

    def _segments_of(self, rows: Sequence[Row], deferred: frozenset[str]) -> TrainSegments:
        reader = replace(self.reader, deferred=deferred)
        return TrainSegments(rows, reader, self.segment_seconds, self.seed, self.sensor_dropout, self.augmentation)

    def _step_loader(self, segments: TrainSegments, schedule: BatchSchedule, batches_per_pass: int) -> StepLoader:
        return StepLoader(
            segments,
            schedule,
            batches_per_pass,
            UnreadableTally(len(segments.rows), self.max_unreadable_share, "train"),
            self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _filled(self, split: str) -> list[Row]:
        rows = self.rows(split)
        if not rows:
            place = next(
                (f" of {getattr(self.corpus, key)}" for key in ("path", "root") if hasattr(self.corpus, key)), ""
            )
            raise DataError(
                f"{type(self.corpus).__name__}{place} has no utterances for the split {split!r}: add some, {_HINT}"
            )
        return rows

    def _spoken_by(self, speakers: Sequence[str], rows: Sequence[Row]) -> list[Row]:
        known = sorted({row.speaker for row in rows})
        unknown = [name for name in speakers if name not in known]
        if unknown:
            names = f"{', '.join(known[:_SHOWN])}{', ...' if len(known) > _SHOWN else ''}" or "none"
            raise DataError(
                f"data.speakers: {', '.join(unknown)} not among the {len(known)} training speakers of "
                f"{type(self.corpus).__name__}: {names}"
            )
        return [row for row in rows if row.speaker in speakers]

    def _wide_enough(self, min_bandwidth: float, rows: list[Row]) -> list[Row]:
        """The rows that are not known to be narrower, and a line that says how many were left out."""
        kept = [row for row in rows if row.bandwidth is None or row.bandwidth >= min_bandwidth]
        unmeasured = sum(row.bandwidth is None for row in rows)
        name = type(self.corpus).__name__
        if rows and unmeasured == len(rows):
            raise DataError(
                f"data.min_bandwidth: no training utterance of {name} has a measured bandwidth: give a manifest with "
                "the column bandwidth, as `bcfusion prepare --measure` writes it, or null"
            )
        if rows and not kept:
            raise DataError(
                f"data.min_bandwidth: all {len(rows)} training utterances of {name} hold speech up to less than "
                f"{min_bandwidth:g} Hz"
            )
        if len(kept) < len(rows) or unmeasured:
            logger.warning(
                "data.min_bandwidth: %d of %d training utterances hold speech up to less than %g Hz and are left out; "
                "%d have no measured bandwidth and stay",
                len(rows) - len(kept),
                len(rows),
                min_bandwidth,
                unmeasured,
            )
        return kept

    def _check(self, rows: Sequence[Row], split: str) -> None:
        name = type(self.corpus).__name__
        known = {AIR, *self.reader.simulators}
        for sensor in self.reader.sensors:
            without = [row.id for row in rows if sensor not in row.paths and sensor not in known]
            if without:
                raise DataError(
                    f"sensor {sensor!r}: {name} has no recording of it for {len(without)} of {len(rows)} utterances of "
                    f"{split} (first: {without[0]}), and no degradation simulates it"
                )
        if without := [row.id for row in rows if AIR not in row.paths]:
            raise DataError(f"{name} has no clean air-conducted file for {len(without)} rows (first: {without[0]})")
        if not self.reader.resample:
            other = [row for row in rows if row.sample_rate != self.reader.sample_rate]
            if other:
                raise DataError(
                    f"{other[0].paths[AIR]} has {other[0].sample_rate} Hz, the task {self.reader.sample_rate} Hz "
                    f"({len(other)} of {len(rows)} files of {split}), and resampling is off: "
                    "set data.resample=true or convert them"
                )
        seen: dict[str, Row] = {}
        for row in rows:
            if row.id in seen:
                raise DataError(
                    f"{name}: {seen[row.id].paths[AIR]} and {row.paths[AIR]} have the same id {row.id!r}: rename one"
                )
            seen[row.id] = row


_HINT = "or choose another corpus with data=..."
_SHOWN = 8  # names of speakers in a message


def spread(rows: list[Row], limit: int | None) -> list[Row]:
    """At most ``limit`` rows, evenly spread, since neighbours are often of one speaker."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[position * len(rows) // limit] for position in range(limit)]


def automatic_workers() -> int:
    """How many reader processes suit this machine: none on one or two cores, else a core is left, at most 8."""
    cores = len(os.sched_getaffinity(0))  # that this process may use: on a cluster a share of the machine
    return 0 if cores <= 2 else min(8, cores - 1)
