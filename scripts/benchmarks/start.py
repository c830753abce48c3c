"""How long commands take to start, against the interpreter and the imports that they cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Measured, Setting, compared, in_turns
from benchmarks.processes import environment

BARE = ("-c", "pass")
IMPORTS = ("-c", "import torch, lightning, hydra")
#: ends the process after the first training step: nothing of the run's end is counted
FIRST_STEP = """
import os, sys
from bcfusion.cli import main
from bcfusion.startup import loading, own_process
own_process()
with loading():
    from bcfusion.training.module import SpeechModule
step = SpeechModule.training_step
def first(*arguments, **named):
    step(*arguments, **named)
    os._exit(0)
SpeechModule.training_step = first
sys.exit(main() or 1)
"""
TINY = (
    *("generator=seanet", "generator.channels=2", "generator.bottleneck_channels=4", "discriminators=[]"),
    *("losses=[l1,mr_stft]", "data.batch_size=2", "data.segment_seconds=0.256", "data.workers=0"),
    *("trainer.accelerator=cpu", "trainer.max_steps=2", "metrics=[si_sdr]", "selection=si_sdr", "trainer.keep_best=[]"),
)
COMMANDS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "help": (("-m", "bcfusion", "--help"), BARE),
    "import": (("-c", "import bcfusion"), BARE),
    "check": (("-m", "bcfusion", "check", "check.step=false"), IMPORTS),
    "train": (("-c", FIRST_STEP, "train", *TINY), IMPORTS),
}
NOTES = {
    "check": "on the demo corpus, which is in the cache after the warm-up",
    "train": "until the end of the first step of a SEANet of 2 channels on the demo corpus, which is in the cache",
}


def start(setting: dict[str, Any], command: str) -> Measured:
    """Time fresh interpreters in turns."""
    how = Setting(**setting)
    ours, other = COMMANDS[command]
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "ours": started(ours, how.threads, Path(folder)),
            "bare interpreter" if other is BARE else "imports": started(other, how.threads, Path(folder)),
        }
        for act in sides.values():
            act()  # writes byte code, and the demo corpus
        taken = in_turns(sides, how)
    result = Measured([compared("time", "s", *sides, taken)], ["both sides end with status 0"])
    result.notes = ["byte code and files in the cache", *filter(None, [NOTES.get(command)])]
    return result


def started(arguments: Sequence[str], threads: int, folder: Path) -> Callable[[], None]:
    """Return an action that runs the interpreter, and raises ``RuntimeError`` if it fails."""
    cache = os.environ.get("BCFUSION_CACHE", str(folder / "cache"))
    variables = {**environment(threads), "BCFUSION_CACHE": cache, "PYTHONDONTWRITEBYTECODE": ""}

    def act() -> None:
        command = [sys.executable, *arguments]
        told = folder / "told.txt"
        with told.open("w") as file:  # not a pipe: workers that outlive the process for a moment would hold it open
            done = subprocess.run(command, env=variables, cwd=folder, stdout=file, stderr=file, check=False)
        if done.returncode:
            reason = (told.read_text().strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"python {' '.join(arguments[:3])} ended with status {done.returncode}: {reason}")

    return act
