"""Whether a run is trained now."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bcfusion.run.alive import claim, is_alive, mark_alive, owner, unmark_alive
from bcfusion.run.layout import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    mark_alive(run)
    return run


def age(run: RunDir, seconds: float) -> None:
    for file in (run.path, *run.path.rglob("*")):
        os.utime(file, (time.time() - seconds,) * 2)


def rewrite(run: RunDir, **changes: object) -> None:
    run.running.write_text(json.dumps({**json.loads(run.running.read_text()), **changes}))


@pytest.mark.slow
def test_a_run_lives_as_long_as_its_process(run: RunDir) -> None:
    age(run, 1e6)  # a process that hangs is a process
    assert is_alive(run)
    assert str(os.getpid()) in str(owner(run))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    rewrite(run, pid=ended.pid)
    assert not is_alive(run)
    assert owner(run) is None


CLAIMS = """
import sys, time
from pathlib import Path
from bcfusion.run.alive import claim
from bcfusion.run.layout import RunDir
print("ready", flush=True)
sys.stdin.readline()
print(claim(RunDir(Path("new/run"))), flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_one_of_several_processes_that_begin_together_gets_a_run_and_its_death_frees_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIMS]
    pipe = subprocess.PIPE
    begun = [subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
    try:
        for process in begun:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in begun:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in begun if process.stdout is not None]
        [winner] = [process for process, answer in zip(begun, answers, strict=True) if answer == "None"]
        assert all(f"process {winner.pid} on" in answer for answer in answers if answer != "None")
    finally:
        for process in begun:
            process.kill()
            process.communicate()
    run = RunDir(tmp_path / "new" / "run")
    assert run.running.is_file()
    assert claim(run) is None
    assert str(os.getpid()) in str(claim(run))


def test_a_later_process_with_the_same_number_is_another(run: RunDir) -> None:
    rewrite(run, began="1")
    assert not is_alive(run)


def test_a_run_of_another_machine_lives_for_a_day_after_its_last_change(run: RunDir) -> None:
    rewrite(run, host="elsewhere")
    assert is_alive(run)
    assert owner(run) is None  # not certain, so a requeued job may resume it
    age(run, 90_000)
    assert not is_alive(run)


def test_a_run_that_names_no_process_lives_for_minutes(run: RunDir) -> None:
    unmark_alive(run)
    run.metrics.write_text("step\n")
    run.hydra_config.parent.mkdir()  # all that a job of a sweep has while it is checked
    age(run, 3600)
    assert not is_alive(run)
    run.hydra_config.touch()
    assert is_alive(run)
    age(run, 3600)
    assert not is_alive(run)
