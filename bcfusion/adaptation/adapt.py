"""``adapt(model, pairs) -> Adaptation``: train a network on recorded pairs, as far as held-out pairs speak for it."""

from __future__ import annotations

import logging
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bcfusion import system
from bcfusion.adaptation.curve import Choice, Curve, HeldOut, choose, selection_for, steps_to_score
from bcfusion.adaptation.fold_run import FoldJob, Trainee, Workers
from bcfusion.adaptation.folds import Fold, folds_of, seconds_of
from bcfusion.adaptation.pairs import Refused, checked, enough, pieces_of
from bcfusion.adaptation.plan import Load, Pace, Progress, Timer
from bcfusion.adaptation.settings import Settings
from bcfusion.contracts import BuiltFromFiles, Row
from bcfusion.data.loading.reader import BODY
from bcfusion.errors import DataError
from bcfusion.evaluation.statistics import finite_mean
from bcfusion.run.bundle import Bundle, bundle_of, load_generator
from bcfusion.run.models import resolve_model

__all__ = ["Adaptation", "Settings", "adapt"]

logger = logging.getLogger(__name__)

_RESERVE = 0.04  # of the budget, for what cannot be foreseen, and
_CLOSING_SECONDS = 3.0  # for writing
_TRIAL_STEPS = 3


@dataclass(frozen=True)
class Adaptation:
    """A network that was adapted; or the start where that did not help, and its weights were not random.

    Attributes:
        generator: in evaluation mode, on the CPU.
        bundle: describes the start.
        model: where the start was loaded from.
        settings: as given.
        rows: recordings that were used, with lag and polarity as measured.
        refused: recordings that were not.
        folds: divisions into training and held-out pieces.
        curve: scores of the held-out recordings.
        choice: the number of steps.
        tried: largest number of steps that all folds have reached; ``steps=tried`` repeats this adaptation.
        steps: of the final training on all recordings; 0: the generator is the start.
        speech: number of recordings of speech that simulations were made from.
        losses: that were minimised, and where they come from.
        seconds: that it took.
    """

    generator: nn.Module
    bundle: Bundle
    model: str
    settings: Settings
    rows: Sequence[Row]
    refused: Sequence[Refused]
    folds: Sequence[Fold]
    curve: Curve
    choice: Choice
    tried: int
    steps: int
    speech: int
    losses: str
    seconds: float

    @property
    def seen(self) -> int:
        """Number of recordings that the start had been adapted to already, so that it has no honest scores on them."""
        return sum(self.bundle.adapted_to(row.paths.values()) for row in self.rows)

    @property
    def adapted(self) -> bool:
        """Whether the generator differs from the start."""
        return self.steps > 0


def adapt(
    model: str | Path,
    pairs: Sequence[Row],
    settings: Settings | None = None,
    speech: Sequence[Row] = (),
    device: str = "cpu",
    say: Callable[[str], None] = print,
    started: float | None = None,
    *,
    trust_code: bool = False,
) -> Adaptation:
    """Adapt a trained network to a sensor by recorded pairs.

    The recordings are divided into at most four folds. For each, the network is trained on the others and scored on the
    fold after several numbers of steps. The number with the best mean score is used to train on all recordings, with as
    many passes over them; if the gain is not clear, the start is returned, unless the weights were random. Calibration,
    number of steps and every other choice that a reported score depends on are made without the recording that is
    scored.

    Args:
        model: run directory, bundle, checkpoint or name of a model.
        pairs: recordings with a file of every sensor of the network, and of air.
        settings: None: the defaults.
        speech: recordings of air alone; for networks of one sensor.
        device: where to train.
        say: receives the lines that tell what happens.
        started: ``time.monotonic()`` when the command began; the budget counts from there.
        trust_code: see :func:`bcfusion.load_generator`.

    Raises:
        CheckpointError: the model cannot be loaded.
        ConfigError: a setting is out of range.
        DataError: too few recordings are fit to adapt to.
        TrainingError: the time does not suffice, or the training diverges.
    """
    began = time.monotonic() if started is None else started
    settings = settings or Settings()
    timer = Timer(None if settings.steps is not None else 60.0 * settings.minutes, began)
    model = resolve_model(model, trust_code=trust_code).path
    start = load_generator(model, trust_code=trust_code)
    bundle = bundle_of(start)
    assert bundle is not None  # load_generator attaches it
    if not any(parameter.requires_grad for parameter in start.parameters()):
        raise DataError(f"{model}: {type(start).__name__} has nothing to train")
    # a codec's codebooks are learned by nobody here, and not all are parameters
    given = any(isinstance(part, BuiltFromFiles) for part in start.modules())
    if settings.fresh and (given or not all(parameter.requires_grad for parameter in start.parameters())):
        raise DataError(
            f"--fresh: parts of {model} are not trained, such as the codebooks of a codec: random weights "
            "of these would remain random"
        )
    sensors = _sensors(bundle, pairs)
    if speech and len(sensors) > 1:
        raise DataError(f"speech: simulated for networks of one sensor; {model} has {', '.join(sensors)}")
    rows, refused = checked(pairs, sensors, bundle.sample_rate)
    for each in refused:
        say(f"refused: {each}")
    rows = enough(rows, refused, say)
    trainee = Trainee(start, model, sensors, speech, settings, device, trust_code=trust_code)
    work = _Work(trainee, rows, say)
    with Workers(*_processes(settings, device, len(work.folds))) as workers:
        return work.run(workers, refused, timer, began)


class _Work:
    """One adaptation."""

    def __init__(self, trainee: Trainee, rows: Sequence[Row], say: Callable[[str], None]) -> None:
        self.trainee, self.rows, self.say = trainee, rows, say
        self.settings = trainee.settings
        self.pieces = pieces_of(rows)
        self.folds = folds_of(self.pieces)
        # as many passes over all recordings as over those of a fold
        self.scales = [seconds_of(self.pieces) / seconds_of(fold.training) for fold in self.folds]

    def run(self, workers: Workers, refused: Sequence[Refused], timer: Timer, began: float) -> Adaptation:
        """Measure, train the folds, choose, train on all."""
        load = Load([seconds_of(fold.held) for fold in self.folds], self.scales, workers.count)
        with tempfile.TemporaryDirectory(prefix="bcfusion-adapt-") as folder:
            pace = self._measured(Path(folder), workers.threads)
            last = self.settings.steps or load.steps_within(self._usable(timer), pace)
            self._announce(last, pace, load)
            with Progress(load.needed(last, pace), self.say) as progress:
                curve, tried = self._train_folds(workers, Path(folder), last, timer, progress)
            for title, values in (("input", curve.input), ("start", curve.steps[0])):
                self.say(f"{title}: {_means(values)}")
            reached = [step for step in steps_to_score(last) if step <= tried]
            choice = choose(curve, selection_for(self.trainee.bundle.sample_rate), reached, fresh=self.settings.fresh)
            generator, steps = self.trainee.start, 0
            if choice.steps:
                wanted = max(1, round(choice.steps * statistics.fmean(self.scales)))
                self.say(f"{choice.why}: {wanted} steps on all recordings")
                with Progress(pace.step * wanted, self.say) as progress:
                    generator, steps = self._train_all(Path(folder), wanted, timer, progress)
            else:
                self.say(f"the start is kept: {choice.why}")
        return Adaptation(
            generator=generator.cpu().eval(),
            bundle=self.trainee.bundle,
            model=str(self.trainee.model),
            settings=self.settings,
            rows=self.rows,
            refused=refused,
            folds=self.folds,
            curve=curve,
            choice=choice,
            tried=tried,
            steps=steps,
            speech=len(self.trainee.speech),
            losses=f"{', '.join(self.trainee.losses)} ({self.trainee.losses_from})",
            seconds=time.monotonic() - began,
        )

    def _measured(self, folder: Path, threads: int) -> Pace:
        """Measure how long a step and a score take on the threads of a process that trains a fold."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        piece = self.folds[0].held[0]
        held_out = HeldOut(self.trainee.reader, self.trainee.bundle.sample_rate)
        clock = time.monotonic()
        held_out.score(self.trainee.start, [piece], 1)
        score = (time.monotonic() - clock) / piece.row.duration
        batches = self.trainee.batches(self.folds[0].training, folder)
        learner = self.trainee.learner(batches)
        times = []
        for number in range(_TRIAL_STEPS):
            clock = time.monotonic()
            learner.step(batches.batch(number))
            times.append(time.monotonic() - clock)
        torch.set_num_threads(before)
        return Pace(min(times), score)

    def _usable(self, timer: Timer) -> float:
        return timer.left - _CLOSING_SECONDS - _RESERVE * 60.0 * self.settings.minutes

    def _announce(self, last: int, pace: Pace, load: Load) -> None:
        seconds = sum(row.duration for row in self.rows)
        number, count = len(self.rows), len(self.folds)
        way = f"{count} folds" if count > 1 else "trained on the first part, scored on the last"
        minutes = load.needed(last, pace) / 60
        self.say(
            f"{number} recording{'s' * (number != 1)}, {seconds:.0f} s; {way}; up to {last} steps each, "
            f"{pace.step:.2f} s a step; about {minutes:.1f} minutes"
        )

    def _train_folds(
        self, workers: Workers, folder: Path, last: int, timer: Timer, progress: Progress
    ) -> tuple[Curve, int]:
        """Train the folds; return their scores and the number of steps that all have reached."""
        curve, reached, at_once = Curve(), last, workers.count
        for first in range(0, len(self.folds), at_once):
            wave = range(first, min(first + at_once, len(self.folds)))
            waves = math.ceil((len(self.folds) - first) / at_once)
            seconds = self._usable(timer) / (waves + max(self.scales))  # the rest is for those to come
            grid = tuple(step for step in steps_to_score(last) if step <= reached)
            jobs = [self._job(number, folder, grid, seconds) for number in wave]
            for result in workers.run(jobs, self.trainee, progress.tick):
                curve.add(result.scores, result.number)
                reached = min(reached, result.steps)
                self.say(
                    f"fold {result.number + 1} of {len(self.folds)}: {result.steps} steps in {result.seconds:.0f} s"
                )
        return curve, reached

    def _job(self, number: int, folder: Path, grid: tuple[int, ...], seconds: float) -> FoldJob:
        trainee, fold = self.trainee, self.folds[number]
        own = folder / f"fold{number}"
        own.mkdir()
        return FoldJob(
            number,
            trainee.model,
            tuple(trainee.sensors),
            tuple(trainee.speech),
            self.settings,
            trainee.device,
            own,
            fold.training,
            fold.held,
            grid,
            seconds,
            losses=trainee.stored_losses,
        )

    def _train_all(self, folder: Path, steps: int, timer: Timer, progress: Progress) -> tuple[nn.Module, int]:
        """Train on all recordings; return the network and the steps, fewer if the time is over."""
        batches = self.trainee.batches(self.pieces, folder)
        learner = self.trainee.learner(batches)
        while learner.steps < steps:
            learner.step(batches.batch(learner.steps))
            progress.tick()
            if timer.left < _CLOSING_SECONDS:
                logger.warning("the time is over after %d of %d final steps", learner.steps, steps)
                break
        return learner.averaged, learner.steps


def _processes(settings: Settings, device: str, folds: int) -> tuple[int, int]:
    """Return how many folds are trained at once, and on how many threads each."""
    cores = system.cores()
    count = 1 if device != "cpu" else min(settings.processes or cores, folds)
    return count, max(1, cores // count)


def _sensors(bundle: Bundle, pairs: Sequence[Row]) -> list[str]:
    """Return the columns that the network reads; a network of one sensor, whatever its name, reads ``body``.

    Raises:
        DataError: it reads several, one of which no row has.
    """
    absent = [sensor for sensor in bundle.sensors if pairs and not any(sensor in row.paths for row in pairs)]
    if absent and len(bundle.sensors) > 1:
        raise DataError(
            f"no recording of {' and '.join(absent)} in any of the pairs; the network takes "
            f"{' and '.join(bundle.sensors)}: give --pairs MANIFEST, with a column for each of them and for air"
        )
    return [BODY] if absent else list(bundle.sensors)


def _means(values: Mapping[str, Mapping[str, float]]) -> str:
    """Return the means over recordings in one line."""
    from bcfusion.report.table import metric_name, number

    names = dict.fromkeys(name for each in values.values() for name in each)
    return ", ".join(
        f"{metric_name(name).text} {number(name, finite_mean(each[name] for each in values.values()))}"
        for name in names
    )
