"""The evaluation at the end of a run: scores of the best generator, tables, samples, and the bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from lightning import Trainer
from omegaconf import DictConfig
from rich.console import Console

from bcfusion.data.corpora.speakers import known_speakers
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.errors import CheckpointError
from bcfusion.evaluation.evaluate import evaluate
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.scores import Scores
from bcfusion.evaluation.utterances import Utterances
from bcfusion.files import write_text
from bcfusion.report.samples import SampleWriter
from bcfusion.report.score_tables import print_tables
from bcfusion.report.table import markdown_table, quality_tables
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle
from bcfusion.run.layout import RunDir

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
        CheckpointError: no validation has written a best checkpoint.
    """
    if not trainer.is_global_zero:
        return None
    run = RunDir(run_dir)
    if not run.best.is_file():
        raise CheckpointError(f"no validation took place, so there is no {run.best}: give the run more budget.minutes")
    generator = load_generator(run.best, device=str(trainer.strategy.root_device))
    description = bundle_of(generator)
    assert description is not None  # load_generator attaches it
    save_bundle(
        run.bundle,
        generator,
        generator_config=description.generator,
        sensors=list(cfg.task.sensors),
        training=description.training,
    )
    utterances = Utterances.of_split(datamodule, "test")
    samples = SampleWriter(run.samples, cfg.trainer.samples, cfg.sample_rate)
    scores = evaluate(generator, utterances, scorer, on_item=samples)
    split = utterances.split
    means, changes = {system: scores.mean(system) for system in scores.systems}, scores.changes()
    table = markdown_table(means, scores.higher_is_better, changes)
    csv = run.quality / f"{split}.csv"
    scores.write_csv(csv)
    write_text(csv.with_suffix(".md"), table + "\n")

    step = int(description.training.get("step", -1))
    files = "test files" if split == "test" else "valid files, which selected it too (the corpus has no test split)"
    print(f"\nBest checkpoint (step {step}) on all {files}{_shared_speakers(datamodule, utterances)}:")
    print_tables(
        quality_tables(means, scores.higher_is_better, changes, Console().width),
        {system: scores.skipped(system) for system in scores.systems},
        scores.names,
        scores.utterances,
    )
    lines = {
        "checkpoints": ", ".join(str(path) for path in sorted(run.checkpoints.glob("*.ckpt"))),
        "bundle": str(run.bundle),
        "samples": str(run.samples / "*.wav"),
        "spectrogram": str(samples.pictures[0]) if samples.pictures else "none (trainer.samples=0)",
        "per utterance": str(csv),
        "curves": f"tensorboard --logdir {run_dir.parts[0] if not run_dir.is_absolute() else run_dir.parent}",
    }
    for name, value in lines.items():
        print(f"{name + ':':<15}{value}")
    print(f"{'took:':<15}{(time.monotonic() - started) / 60:.1f} minutes")
    return FinalEvaluation(scores=scores, split=split, table=table, step=step)


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
    count = f"{shared} of their speakers are" if shared else "none of their speakers is"
    return f"; {count} trained on" + (f" ({unknown} files are of unknown speakers)" if unknown else "")
