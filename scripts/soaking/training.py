"""A tiny training that validates all the time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.processes import environment
from benchmarks.sounds import made_up

from soaking.judge import Bounds, Verdict, judged
from soaking.sampling import Sample, family, sampled, state

OVERRIDES = (
    "generator=seanet_streaming",
    "generator.channels=2",
    "generator.bottleneck_channels=4",
    "discriminators=[]",
    "losses=[l1,mr_stft]",
    "data=folder",
    "data.batch_size=2",
    "data.segment_seconds=0.25",
    "data.workers=2",
    "trainer.accelerator=cpu",
    "trainer.validate_every=50",
    "trainer.checkpoint_every=500",
    "trainer.max_steps=100000000",
    "trainer.samples=1",
    "metrics=[stoi,si_sdr]",
    "selection=stoi",
    "trainer.keep_best=[stoi]",
)
SAVED = 130  # status of a command that a signal has ended in a saved state
ENDING = 120.0  # seconds in which it ends


def training(folder: Path, minutes: float, bounds: Bounds) -> tuple[list[Verdict], dict[str, float]]:
    """Train for some minutes, and judge all processes of the run; the run is then ended by Ctrl-C.

    Args:
        folder: where speech and run go.
        minutes: from the first validation on.
        bounds: what may grow.
    """
    root = folder / "speech"
    for split, count in (("train", 8), ("valid", 4), ("test", 1)):
        speaker = root / split / f"{split}-speaker"
        speaker.mkdir(parents=True)
        made_up(speaker, count, 1.0)
    run = folder / "run"
    command = [sys.executable, "-m", "bcfusion", "train", *OVERRIDES, f"data.root={root}", f"hydra.run.dir={run}"]
    command += [f"budget.minutes={minutes + 600:g}"]
    with (folder / "train.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment(1), stdout=log, stderr=subprocess.STDOUT)
    samples: list[Sample] = []
    zombies = 0
    try:
        while not list((run / "quality").glob("valid-*.csv")):
            if process.poll() is not None:
                raise SystemExit(f"soak: training ended by itself: {(folder / 'train.txt').read_text()[-2000:]}")
            time.sleep(0.5)
        began = time.monotonic()
        pause = min(max(60 * minutes / 240, 0.5), 15.0)
        while (now := time.monotonic() - began) < 60 * minutes:
            found, dead = sampled(process.pid, now)
            if process.poll() is not None:
                raise SystemExit(f"soak: training ended by itself: {(folder / 'train.txt').read_text()[-2000:]}")
            samples += found
            zombies += dead
            time.sleep(pause)
        everybody = list(family(process.pid))
        process.send_signal(signal.SIGINT)
        status = process.wait(ENDING)
        until = time.monotonic() + ENDING
        while (left := [each for each in everybody if state(each) not in ("", "Z")]) and time.monotonic() < until:
            time.sleep(0.5)  # workers look for their parent once a second
    finally:
        process.kill()
        process.wait()
    validations = len(list((run / "quality").glob("valid-*.csv")))
    verdicts = judged(samples, zombies, bounds)
    verdicts.append(Verdict("status after Ctrl-C, as a difference to that of a saved run", abs(status - SAVED), 0))
    verdicts.append(Verdict("processes that are left at the end", len(left), 0))
    last = [each for each in samples if each.seconds == samples[-1].seconds]
    return verdicts, {
        "minutes": minutes,
        "validations": validations,
        "processes, those of validations included": len({each.process for each in samples}),
        "samplings": len({each.seconds for each in samples}),
        **{f"{each.role} {each.process}: MB at the end": round(each.megabytes, 1) for each in last},
    }
