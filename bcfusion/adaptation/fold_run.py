"""The training of one fold and its scores: in this process, or several folds at once in processes of one thread."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from bcfusion.adaptation.batches import Batches, HeldReader, calibrated
from bcfusion.adaptation.curve import HeldOut, PieceScore
from bcfusion.adaptation.learning import OWN, Learner, losses_of
from bcfusion.adaptation.pairs import Piece
from bcfusion.adaptation.settings import Settings
from bcfusion.contracts import Fitted, Row
from bcfusion.data.loading.reader import BODY
from bcfusion.errors import TrainingError
from bcfusion.evaluation.workers import start_workers
from bcfusion.nn.statistics import parts_to_start, start_from_statistics
from bcfusion.probe import evaluating
from bcfusion.run.building import build_generator
from bcfusion.run.bundle import bundle_of, load_generator
from bcfusion.run.checkpoint import load_weights

__all__ = ["FoldJob", "FoldResult", "Trainee", "Workers", "train_fold"]


class Trainee:
    """A network to adapt, with what its trainings share.

    Args:
        start: from :func:`bcfusion.run.bundle.load_generator`.
        model: where it was loaded from.
        sensors: columns that the network reads.
        speech: rows of air, from which the sensor is simulated.
        settings: of the adaptation.
        device: where to train.
        trust_code: see :func:`bcfusion.load_generator`.
        trusted: see :func:`bcfusion.adaptation.learning.losses_of`.

    Attributes:
        start: the network as it was loaded, in evaluation mode.
        bundle: describes it.
        reader: reads recordings.
    """

    def __init__(
        self,
        start: nn.Module,
        model: Path,
        sensors: Sequence[str],
        speech: Sequence[Row],
        settings: Settings,
        device: str,
        *,
        trust_code: bool = False,
        trusted: Collection[str] | None = None,
    ) -> None:
        self.model, self.sensors, self.speech, self.settings, self.device = model, sensors, speech, settings, device
        self.start = start.to(device)
        bundle = bundle_of(start)
        assert bundle is not None  # load_generator attaches it
        self.bundle = bundle
        self.reader = HeldReader(tuple(sensors), {}, bundle.sample_rate)
        self.losses, self.losses_from = losses_of(bundle, start, model, trust_code=trust_code, trusted=trusted)

    @property
    def stored_losses(self) -> tuple[str, ...]:
        """The names of the losses that were built from what the model records."""
        return tuple(self.losses) if self.losses_from == OWN else ()

    def batches(self, pieces: Sequence[Piece], folder: Path) -> Batches:
        """Return the batches of some pieces; the sensor is calibrated on these alone.

        Args:
            pieces: to train on.
            folder: for the file of the calibration.
        """
        reader = self.reader
        if self.speech and self.settings.share > 0:
            reader = replace(reader, simulators=calibrated(pieces, reader, self.sensors[0], folder))
        return Batches(
            pieces,
            reader,
            self.speech,
            self.settings.share,
            self.settings.batch_size,
            self.settings.segment_seconds,
            [BODY] if BODY in self.sensors else self.sensors[:1],
            self.settings.seed,
        )

    def learner(self, batches: Batches) -> Learner:
        """Return the network as a training starts from it: with the start's weights, or random ones."""
        torch.manual_seed(self.settings.seed)
        network: nn.Module = build_generator(self.bundle.generator, self.model, trust_code=True)  # as start
        if not self.settings.fresh:
            load_weights(network, {name: value.cpu() for name, value in self.start.state_dict().items()}, self.model)
        network = network.to(self.device)
        if self.settings.fresh:
            with evaluating(network), torch.no_grad():
                if isinstance(network, Fitted):
                    network.fit(list(batches.one_pass()))
                if parts_to_start(network):
                    start_from_statistics(network, list(batches.one_pass()))
        return Learner(network, self.losses, self.settings.lr)


@dataclass(frozen=True)
class FoldJob:
    """What one fold's training is given; it can be sent to another process.

    Attributes:
        number: of the fold, from 0.
        model: see :class:`Trainee`, like the next ones.
        sensors: of the network.
        speech: rows of air.
        settings: of the adaptation.
        device: where to train.
        folder: for the file of its calibration; belongs to whoever waits for the result, and outlives this process.
        training: pieces to train on.
        held: pieces to score.
        steps: numbers of steps after which to score, ascending.
        seconds: after which the training ends, but not before the first score; infinity: never.
        threads: of torch; 0: as they are.
        losses: of the model's own that another process has built.
    """

    number: int
    model: Path
    sensors: tuple[str, ...]
    speech: tuple[Row, ...]
    settings: Settings
    device: str
    folder: Path
    training: tuple[Piece, ...]
    held: tuple[Piece, ...]
    steps: tuple[int, ...]
    seconds: float = math.inf
    threads: int = 0
    losses: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoldResult:
    """What one fold's training gave.

    Attributes:
        number: of the fold.
        scores: of the input, the start and the held-out pieces.
        steps: the last number of steps that was scored.
        seconds: that it took.
    """

    number: int
    scores: list[PieceScore]
    steps: int
    seconds: float


def train_fold(job: FoldJob, trainee: Trainee | None = None) -> FoldResult:
    """Train on the other folds' pieces; score those of this fold before, in between and after.

    Args:
        job: what to do.
        trainee: the network, if it is loaded already.

    Raises:
        TrainingError: the training diverges.
    """
    began = time.monotonic()
    if job.threads:
        torch.set_num_threads(job.threads)
        logging.disable(logging.WARNING)  # said once, by the process that started this one
    if trainee is None:
        start = load_generator(job.model, trust_code=True)  # the process that started this one has loaded it, too
        trainee = Trainee(start, job.model, job.sensors, job.speech, job.settings, job.device, trusted=job.losses)
    held_out = HeldOut(trainee.reader, trainee.bundle.sample_rate)
    held_out.score(trainee.start, job.held, 0)
    done = 0
    batches = trainee.batches(job.training, job.folder)
    learner = trainee.learner(batches)
    for steps in job.steps:
        while learner.steps < steps and not (done and time.monotonic() - began > job.seconds):
            learner.step(batches.batch(learner.steps))
        if learner.steps < steps:  # the time is over
            break
        held_out.score(learner.averaged, job.held, steps)
        done = steps
    return FoldResult(job.number, held_out.scores, done, time.monotonic() - began)


class Workers:
    """Trains folds in this process one after the other, or in several processes at once.

    Args:
        count: of processes; 1: in this process.
        threads: of torch in each process.
    """

    def __init__(self, count: int, threads: int) -> None:
        self.count, self.threads = count, threads
        self._executor: ProcessPoolExecutor | None = start_workers(count) if count > 1 else None
        if self._executor is not None:
            for _ in range(count):
                self._executor.submit(_ready)  # they load torch while this process goes on

    def run(self, jobs: Sequence[FoldJob], trainee: Trainee, tick: Callable[[], object]) -> Iterator[FoldResult]:
        """Yield the results of at most ``count`` folds as they end.

        Args:
            jobs: the folds.
            trainee: for this process.
            tick: called about once a second while other processes train.

        Raises:
            TrainingError: a training diverges, or a process was killed.
        """
        if self._executor is None:
            for job in jobs:
                yield train_fold(job, trainee)
            return
        threaded = [replace(job, threads=self.threads) for job in jobs]
        try:
            left: set[Future[FoldResult]] = {self._executor.submit(train_fold, job) for job in threaded}
            while left:
                done, left = wait(left, timeout=1.0, return_when=FIRST_COMPLETED)
                tick()
                for future in done:
                    yield future.result()
        except BrokenExecutor as error:
            raise TrainingError(
                f"a process that trained a fold was killed, perhaps out of memory; {self.count} of them run at once, "
                "one for each core that this command may use: give it fewer, as in taskset -c 0 bcfusion adapt ..."
            ) from error

    def close(self) -> None:
        """End the processes at once."""
        if self._executor is not None:
            for process in list((self._executor._processes or {}).values()):
                process.kill()
            self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ready() -> None:
    """Do nothing: to run this, a process imports this module."""
