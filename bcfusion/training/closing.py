"""The end of a run: the best generator on held-out files, a table, sounds, a picture, a bundle, and their paths."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning import Trainer
from omegaconf import DictConfig
from rich.console import Console

from bcfusion import audio
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.errors import CheckpointError
from bcfusion.evaluation.evaluate import evaluate_generator
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.scores import Scores
from bcfusion.evaluation.utterances import Utterances
from bcfusion.files import write_text
from bcfusion.report.score_tables import skipped_lines
from bcfusion.report.spectrogram import save_figure, spectrogram_figure
from bcfusion.report.table import markdown_table, quality_tables
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle


@dataclass(frozen=True)
class Closing:
    """Results of the closing evaluation.

    Attributes:
        scores: per utterance, input and enhanced. split: which split they are of.
        table: the same as Markdown. step: of the checkpoint that was evaluated.
    """

    scores: Scores
    split: str
    table: str
    step: int


class SampleWriter:
    """Writes the first few items as sound files and one of them as a picture."""

    def __init__(self, directory: Path, count: int, sample_rate: int) -> None:
        self.directory = directory
        self.count = count
        self.sample_rate = sample_rate
        self.pictures: list[Path] = []

    def __call__(self, index: int, item: str, signals: Mapping[str, np.ndarray]) -> None:
        """Takes item number ``index`` with its signals by name."""
        if index >= self.count:
            return
        stem = (
            f"{index}-{item.replace('/', '_')[-80:]}"  # the index tells items apart whose ids differ in / and _ alone
        )
        peak = max(1.0, *(float(np.abs(signal).max()) for signal in signals.values()))
        for name, signal in signals.items():
            label = name.replace("(", "").replace(")", "").replace(" ", "_")
            # loud noise may exceed full scale: all signals of the item are lowered together, none is clipped
            audio.write(self.directory / f"{stem}.{label}.wav", signal / peak, self.sample_rate)
        figure = spectrogram_figure(signals, self.sample_rate, title=item)
        picture = self.directory / f"{stem}.png"
        save_figure(figure, picture)
        self.pictures.append(picture)


def close_run(
    run_dir: Path, datamodule: SpeechDataModule, scorer: Scorer, cfg: DictConfig, trainer: Trainer, started: float
) -> Closing | None:
    """Evaluates ``best.ckpt`` on the test split, writes samples and the bundle, and prints the closing lines.

    Only rank zero does so; the others return None.

    Raises:
        CheckpointError: no validation has written a best checkpoint.
    """
    if not trainer.is_global_zero:
        return None
    best = run_dir / "checkpoints" / "best.ckpt"
    if not best.is_file():
        raise CheckpointError(f"no validation took place, so there is no {best}: give the run more budget.minutes")
    generator = load_generator(best, device=str(trainer.strategy.root_device))
    description = bundle_of(generator)
    assert description is not None
    bundle = save_bundle(
        run_dir / "bundle",
        generator,
        generator_config=description.generator,
        sensors=list(cfg.task.sensors),
        training=description.training,
    )
    datamodule.setup("test")
    samples = SampleWriter(run_dir / "samples", cfg.trainer.samples, cfg.sample_rate)
    split = datamodule.test_split
    utterances = Utterances(datamodule.rows(split), cfg.sample_rate)
    scores = evaluate_generator(
        generator,
        datamodule.whole_dataloader(split),
        scorer,
        list(cfg.task.sensors),
        on_item=samples,
        describe=utterances,
    )
    scores = utterances.complete(scores)
    scores.write_csv(run_dir / "quality" / f"{split}.csv")
    means = {system: scores.mean(system) for system in scores.systems}
    table = markdown_table(means, scores.higher_is_better, scores.changes())
    write_text(run_dir / "quality" / f"{split}.md", table + "\n")
    step = int(description.training.get("step", -1))
    of = "test files" if split == "test" else "valid files, which chose it too (the corpus has no test split)"
    title = f"\nBest checkpoint (step {step}) on the whole {of}{_shared(datamodule, split)}:"
    report(run_dir, scores, split, title, samples, bundle, time.monotonic() - started)
    return Closing(scores=scores, split=split, table=table, step=step)


def _shared(datamodule: SpeechDataModule, split: str) -> str:
    """What the title says of speakers that were trained on, where that is known."""
    heard = datamodule.train_speakers()
    if heard is None:
        return ""
    shared = len({row.speaker for row in datamodule.rows(split)} & heard)
    return f"; {shared} of their speakers are trained on" if shared else "; none of their speakers is trained on"


def report(
    run_dir: Path, scores: Scores, split: str, title: str, samples: SampleWriter, bundle: Path, seconds: float
) -> None:
    """Prints the closing table and where everything lies."""
    print_scores(scores, title)
    lines = {
        "checkpoints": ", ".join(str(path) for path in sorted((run_dir / "checkpoints").glob("*.ckpt"))),
        "bundle": str(bundle),
        "samples": str(samples.directory / "*.wav"),
        "spectrogram": str(samples.pictures[0]) if samples.pictures else "none (trainer.samples=0)",
        "per utterance": str(run_dir / "quality" / f"{split}.csv"),
        "curves": f"tensorboard --logdir {run_dir.parts[0] if not run_dir.is_absolute() else run_dir.parent}",
    }
    for name, value in lines.items():
        print(f"{name + ':':<15}{value}")
    print(f"{'took:':<15}{seconds / 60:.1f} minutes")


def print_scores(scores: Scores, title: str) -> None:
    """Prints the table of all systems, and what was skipped, with the reasons."""
    utterances = len({row.id for row in scores.rows})
    means = {system: scores.mean(system) for system in scores.systems}
    console = Console()
    print(title)
    for table in quality_tables(means, scores.higher_is_better, scores.changes(), console.width):
        console.print(table)
    print(f"means over {utterances} files")
    for line in skipped_lines({system: scores.skipped(system) for system in scores.systems}, scores.names, utterances):
        print(line)
