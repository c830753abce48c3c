"""How long training stands still because of a validation, and for what."""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.growth import REGRESSION, SMALL
from benchmarks.harness import Act, Measured, Setting, alone, in_turns
from benchmarks.processes import call
from benchmarks.sounds import made_up

NETWORK = REGRESSION[0].partition("=")[2]
EVERY = 12  # steps between validations: pictures are drawn while they run
#: what a validation does, by the name of the figure: methods whose seconds are added up
PARTS = {
    "enhancing": ("step.validation",),
    "waiting for scores": ("scorer.submit", "scorer.collect"),
    "sounds and pictures": ("quality.sounds", "quality.draw", "quality.pictures"),
    "checkpoints": ("checkpoint.best", "checkpoint.last"),
}

Span = tuple[float, float]


def validation_stall(setting: dict[str, Any]) -> Measured:
    """Measure the second validation of a training in a fresh process; the workers have started by then."""
    how = Setting(**setting)
    utterances = 2 if how.rehearsal else 24
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "speech"
        for split, count in (("train", 4), ("valid", utterances), ("test", 1)):
            folder = root / split / f"{split}-speaker"
            folder.mkdir(parents=True)
            made_up(folder, count, 3.0)

        def turn() -> float:
            with tempfile.TemporaryDirectory(dir=name) as run:
                parts = call("benchmarks.stall:shares", how.threads, root=str(root), run=run, small=how.rehearsal)
                with (Path(run) / "quality" / f"valid-{2 * EVERY:07d}.csv").open(newline="") as file:
                    scored = sum(bool(row["pesq_wb"] and row["stoi"]) for row in csv.DictReader(file))
            if scored != utterances:
                raise ValueError(f"{scored} of {utterances} utterances were scored")
            for part, share in parts.items():
                found[part].append(share)
            return float(parts["stalled"])

        act: dict[str, Act] = {"ours": turn}
        counted = len(in_turns(act, how)["ours"])
    return Measured(
        [alone(part, "of the validation", "ours", values[-counted:]) for part, values in found.items()],
        [f"each of the {utterances} utterances is scored in the validation that is measured"],
        [
            f"{utterances} utterances of 3 s, {NETWORK}, PESQ and STOI in two processes; second validation of a run",
            "the network enhances in the process that trains, and the next step waits for the last score: the best "
            "checkpoint, early stopping, pruning, schedules that follow the quality and the state to resume from take "
            "effect at this step; what is not in a part is reading and logging; pictures are drawn by the two "
            "processes during the steps that follow, and logging them between these steps counts",
        ],
    )


def shares(root: str, run: str, small: bool) -> dict[str, float]:
    """Train, and return the seconds that steps stood still, and those of each part, over those of the validation."""
    from bcfusion.cli import main
    from bcfusion.evaluation import pool
    from bcfusion.training.callbacks.checkpointing import Checkpointing
    from bcfusion.training.callbacks.quality import Quality
    from bcfusion.training.module import SpeechModule

    spans: dict[str, list[Span]] = defaultdict(list)
    for owner, method, name in (
        (SpeechModule, "training_step", "step.training"),
        (SpeechModule, "validation_step", "step.validation"),
        (Quality, "on_validation_start", "validation"),
        (Quality, "_log_sounds", "quality.sounds"),
        (Quality, "_draw", "quality.draw"),
        (Quality, "_log_pictures", "quality.pictures"),
        (pool.Scorer, "submit", "scorer.submit"),
        (pool.Scorer, "collect", "scorer.collect"),
        (Checkpointing, "save_best", "checkpoint.best"),
        (Checkpointing, "save_last", "checkpoint.last"),
    ):
        setattr(owner, method, watched(getattr(owner, method), spans[name]))
    pool.available_workers = lambda **_: 2
    arguments = ["train", *REGRESSION, *(SMALL if small else ()), "data=folder", f"data.root={root}"]
    arguments += ["data.batch_size=2", "data.segment_seconds=1", "data.workers=0", f"hydra.run.dir={run}"]
    arguments += [f"trainer.max_steps={3 * EVERY - 1}", f"trainer.validate_every={EVERY}", "trainer.accelerator=cpu"]
    arguments += ["metrics=[pesq_wb,stoi]"]
    if (status := main(arguments)) != 0:
        raise RuntimeError(f"bcfusion train ended with status {status}")
    return judged(spans)


def watched(function: Callable[..., Any], spans: list[Span]) -> Callable[..., Any]:
    """Return a function that notes when each of its calls begins and ends."""

    def call_and_note(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spans.append((began, time.perf_counter()))

    return call_and_note


def judged(spans: dict[str, list[Span]]) -> dict[str, float]:
    """Return the shares of the second validation.

    Args:
        spans: begin and end of each call, by name. Of the pauses between training steps, two hold a validation. The
            pictures of the second are logged in later ones.
    """
    steps = spans["step.training"]
    pauses = [(before[1], after[0]) for before, after in pairwise(steps)]
    usual = statistics.median(end - begin for begin, end in pauses)
    begin, end = pauses[2 * EVERY - 1]
    began = next(start for start, _ in spans["validation"] if begin <= start <= end)
    later = [start for start, _ in spans["validation"] if start > began]
    last_score = max(stop for _, stop in spans["scorer.collect"] if began <= stop <= min(later))
    seconds = last_score - began

    def spent(name: str, since: float, until: float) -> float:
        return sum(stop - start for start, stop in spans[name] if since <= start <= until)

    logging = spent("quality.pictures", end, steps[-1][0])
    parts = {part: sum(spent(name, begin, end) for name in names) for part, names in PARTS.items()}
    parts["sounds and pictures"] += logging
    return {name: value / seconds for name, value in {"stalled": end - begin - usual + logging, **parts}.items()}
