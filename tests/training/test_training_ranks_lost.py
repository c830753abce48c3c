"""A rank that dies or hangs ends all processes of a run, with a message, and the run can be resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, TINY_DISCRIMINATOR
from rank_processes import environment, two_ranks

pytestmark = pytest.mark.slow

COMMAND = re.compile(r"^  bcfusion (train resume=.*)$", re.MULTILINE)  # that continues the run
HANG = ["trainer.hang_minutes=0.25"]  # 15 s: on a busy machine a scoring process needs some to start


def settings(speech: Path) -> list[str]:
    kept = [one for one in TINY if one != "data.workers=0"]
    steps = ["trainer.validate_every=3", "budget.minutes=30", "adversarial.start_step=1"]
    body = ["degradation.body._target_=faulty.Faulty", "data.workers=1"]
    return ["experiment=seanet", "data=folder", f"data.root={speech}", *kept, *TINY_DISCRIMINATOR, *steps, *body]


def resumes(run: Path, folder: Path, printed: str) -> None:
    """Continue a run with the command that the message names, with one process, to its end."""
    [command] = COMMAND.findall(printed)
    last = ["trainer.max_steps=1", "trainer.devices=1", "trainer.strategy=auto", "data.workers=0"]
    done = subprocess.run(
        [sys.executable, "-m", "bcfusion", *command.split(), *last],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Resumed at step" in done.stdout
    assert (run / "bundle" / "generator.safetensors").is_file()


CASES = [
    ("lightning", 0, "killed"),
    ("lightning", 1, "killed"),
    ("lightning", 0, "stopped"),
    ("lightning", 1, "hanging"),
    ("lightning", None, "terminated"),
    ("torchrun", 1, "killed"),
    ("torchrun", 0, "stopped"),
    ("torchrun", 1, "hanging"),
]
CONTINUED = [("lightning", 1, "killed"), ("torchrun", 1, "hanging")]  # with each launcher, after each kind of end once
SAYS = {"killed": "has died", "stopped": "no answer for 15 s", "hanging": "no progress for 15 s"}


@pytest.mark.parametrize(("launcher", "lost", "how"), CASES)
def test_a_lost_rank_ends_all(launcher: str, lost: int | None, how: str, speech: Path, tmp_path: Path) -> None:
    with two_ranks(tmp_path, launcher, *settings(speech), *HANG) as ranks:
        last = ranks.wait_for("runs/*/*/*/checkpoints/last.ckpt")
        number = ranks.rank(lost or 0)
        if lost is None:
            os.killpg(number, signal.SIGTERM)
        elif how == "hanging":  # in a process that reads
            (tmp_path / "hang").touch()
        else:
            os.kill(number, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        seconds = ranks.seconds_until_all_end()
        print(f"{launcher}, rank {lost} {how}: all ended after {seconds:.1f} s")
        assert ranks.process.returncode != 0
        printed = ranks.printed()
    (tmp_path / "hang").unlink(missing_ok=True)
    if lost is None:  # all have saved their state together
        assert ranks.process.returncode == 128 + signal.SIGTERM
        assert "rank" not in printed
        return
    assert f"rank {lost} (process {number} on " in printed
    assert SAYS[how] in printed
    assert printed.count("Traceback") == (launcher == "torchrun")  # its own
    if how == "hanging":
        assert "reading the batch of step" in printed
    if lost == 1:
        assert COMMAND.search(printed)
    if (launcher, lost, how) in CONTINUED:
        resumes(last.parents[1], tmp_path, printed)
