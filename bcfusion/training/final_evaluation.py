"""The evaluation at the end of a run: scores of the best generator, tables, samples, and the bundle."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, Trainer
from omegaconf import DictConfig
from rich.console import Console

from bcfusion.data.corpora.speakers import known_speakers
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.errors import CheckpointError
from bcfusion.evaluation.evaluate import evaluate
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.scores import Scores
from bcfusion.evaluation.systems import ENHANCED
from bcfusion.evaluation.utterances import Utterances
from bcfusion.files import remove_folder, write_text
from bcfusion.report.samples import SampleWriter
from bcfusion.report.score_tables import print_tables
from bcfusion.report.table import markdown_table, quality_tables
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle
from bcfusion.run.layout import RunDir
from bcfusion.training.callbacks.checkpointing import Checkpointing
from bcfusion.training.callbacks.clock import Clock
from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.closing_progress import ClosingProgress
from bcfusion.training.closing_report import below_input, ended_because, next_commands, root_of
from bcfusion.training.device import any_length
from bcfusion.training.guard import LARGEST_PEAK, Diverged, output_problem
from bcfusion.training.trackers.tracker import Tracker
from bcfusion.training.writing import writing

__all__ = ["FinalEvaluation", "evaluate_best"]


@dataclass(frozen=True)
class FinalEvaluation:
    """Results of the evaluation at the end of a run.

    Attributes:
        scores: per utterance, of the input and the output.
        split: that they were computed on.
        table: their means as Markdown.
        step: of the checkpoint that was evaluated.
    """

    scores: Scores
    split: str
    table: str
    step: int


def evaluate_best(
    run_dir: Path, datamodule: SpeechDataModule, scorer: Scorer, cfg: DictConfig, trainer: Trainer, started: float
) -> FinalEvaluation | None:
    """Evaluate ``best.ckpt`` on the test split, write tables, samples and the bundle, and print where they are.

    Only rank zero does so; the others return None.

    Raises:
        CheckpointError: no validation took place.
        Diverged: no output is a sound.
        WriteFailed: the disk is full, or cannot be written to.
    """
    if not trainer.is_global_zero:
        return None
    checkpointing, clock, quality = (_callback(trainer, kind) for kind in (Checkpointing, Clock, Quality))
    module = checkpointing.module
    run = RunDir(run_dir)
    trained_minutes = clock.elapsed() / 60  # of all sessions
    source = _source(run, quality)
    generator = load_generator(source, device=str(trainer.strategy.root_device))
    description = bundle_of(generator)
    assert description is not None  # load_generator attaches it

    def what_now() -> str:
        return (
            "The checkpoints are kept: free some space, then repeat the closing evaluation with\n"
            f"  {run.resume_command}"
        )

    step = int(description.training.get("step", -1))
    utterances = Utterances.of_split(datamodule, "test", cfg.trainer.max_test_items)
    split = utterances.split
    remove_folder(run.samples)  # of a closing evaluation that was interrupted
    samples = SampleWriter(run.samples, cfg.trainer.samples, cfg.sample_rate)
    outputs = _Outputs(samples, ClosingProgress(len(utterances.rows), split), step, what_now)
    try:
        with any_length():
            scores = evaluate(generator, utterances, scorer, on_item=outputs)
    finally:
        outputs.progress.close()
    if outputs.problems and len(outputs.problems) == outputs.count:
        raise Diverged(step, *next(iter(outputs.problems.items())))
    means, changes = {system: scores.mean(system) for system in scores.systems}, scores.changes()
    table = markdown_table(means, scores.higher_is_better, changes)
    csv = run.quality / f"{split}.csv"
    with writing(csv, what_now):
        scores.write_csv(csv)
        write_text(csv.with_suffix(".md"), table + "\n")
    with writing(run.bundle, what_now):  # last: it marks a run that has closed
        save_bundle(
            run.bundle,
            generator,
            generator_config=description.generator,
            sensors=list(cfg.task.sensors),
            training=description.training,
        )

    used, total = len(utterances.rows), len(datamodule.rows(split))
    files = f"all {split} files" if used == total else f"{used} of {total} {split} files"
    best = source == run.best
    untested = f"{', which selected it too' if best else ''} (the corpus has no test split)"
    selected = untested if split == "valid" else ""
    name = "Best checkpoint" if best else "Last checkpoint"
    print(f"\n{name} (step {step}) on {files}{selected}{_shared_speakers(datamodule, utterances)}:")
    print_tables(
        quality_tables(means, scores.higher_is_better, changes, Console().width),
        {system: scores.skipped(system) for system in scores.systems},
        scores.names,
        scores.utterances,
    )
    for line in (*outputs.warning(), *below_input(scores, cfg, module, trained_minutes, clock.steps_within)):
        print(line)
    reason = ended_because(trainer)
    minutes = (time.monotonic() - started) / 60
    lines = {"ended": f"at step {module.step}, {reason}"} if reason is not None else {}
    lines |= {
        "took": f"{minutes:.1f} minutes",
        "checkpoints": f"{run.checkpoints}: {', '.join(sorted(path.name for path in run.checkpoints.glob('*.ckpt')))}",
        "bundle": str(run.bundle),
        "samples": str(run.samples / "*.wav"),
        "spectrogram": str(samples.pictures[0]) if samples.pictures else "none (trainer.samples=0)",
        "per utterance": str(csv),
        "curves": f"tensorboard --logdir {root_of(run_dir)}",
        **{logger.title: logger.where for logger in trainer.loggers if isinstance(logger, Tracker)},
        **next_commands(run, cfg, bool(samples.pictures), reason, module.step),
    }
    for title, value in lines.items():
        print(f"{title + ':':<15}{value}")
    return FinalEvaluation(scores=scores, split=split, table=table, step=step)


class _Outputs:
    """What happens to each output: it is looked at, and the first ones are written.

    Attributes:
        count: number of outputs so far.
        problems: what is wrong with outputs that are no sound, by id.
    """

    def __init__(
        self, samples: SampleWriter, progress: ClosingProgress, step: int, what_now: Callable[[], str]
    ) -> None:
        self.progress = progress
        self.count = 0
        self.problems: dict[str, str] = {}
        self._samples = samples
        self._largest = LARGEST_PEAK if step else math.inf
        self._what_now = what_now

    def __call__(self, index: int, item: str, signals: Mapping[str, np.ndarray]) -> None:
        problem = output_problem(signals[ENHANCED], self._largest)
        if problem is not None:
            self.problems[item] = problem
        else:
            with writing(self._samples.directory, self._what_now):
                self._samples(index, item, signals)
        self.count += 1
        self.progress(self.count)

    def warning(self) -> list[str]:
        """Return a line about outputs that are no sound, if there are any."""
        for item, problem in self.problems.items():
            return [f"warning: {len(self.problems)} of {self.count} outputs are no sound; that for {item} {problem}"]
        return []


def _callback(trainer: Trainer, kind: type[Any]) -> Any:
    """Return the callback of a class; every run has one of each."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, kind))


def _source(run: RunDir, quality: Quality) -> Path:
    """Return the checkpoint to evaluate: the best, or the last one if no validation could be scored."""
    if run.best.is_file():
        return run.best
    if quality.validated_step < 0 or not run.last.is_file():
        raise CheckpointError(f"no validation took place, so there is no {run.best}: give the run more budget.minutes")
    print(
        f"warning: no validation had a score by which a checkpoint could be selected; {run.last} is kept and evaluated",
        file=sys.stderr,
    )
    return run.last


def _shared_speakers(datamodule: SpeechDataModule, utterances: Utterances) -> str:
    """Return what the title says about speakers of the training set; nothing if they are not known."""
    trained = datamodule.train_speakers()
    if trained is None:
        return ""
    tested = utterances.rows.values()
    known = known_speakers(tested)
    if not known or not trained:
        return "; whether their speakers are trained on is unknown"
    shared = len(known & trained)
    unknown = sum(row.speaker not in known for row in tested)
    count = f"{shared or 'none'} of their speakers {'are' if shared > 1 else 'is'}"
    files = f"{unknown} files are" if unknown > 1 else "1 file is"
    return f"; {count} trained on" + (f" ({files} of unknown speakers)" if unknown else "")
