"""Which run a path belongs to."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from bcfusion.errors import ConfigError
from bcfusion.run.layout import RunDir, run_dir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "bone_to_air" / "seanet" / "t")
    (run.evaluations / "t").mkdir(parents=True)
    run.record.write_text("{}")
    return run


def test_what_lies_in_a_run_belongs_to_it(run: RunDir) -> None:
    for inside in (run.path, run.bundle, run.best, run.evaluations / "t" / "scores.csv"):
        assert RunDir.around(inside) == run
    assert RunDir.around(run.path.parent) is None
    assert RunDir.around(run.evaluations / "t" / "samples" / "a.wav") is None


def test_a_copy_without_a_record_is_known_by_its_last_checkpoint(run: RunDir) -> None:
    run.record.unlink()
    assert RunDir.around(run.bundle) is None
    run.checkpoints.mkdir()
    run.last.touch()
    assert RunDir.around(run.bundle) == run


def test_a_relative_path_gives_a_relative_run(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent)
    assert RunDir.around("t/bundle") == RunDir(Path("t"))
    monkeypatch.chdir(run.path)
    assert RunDir.around("bundle") == RunDir(Path("."))
    monkeypatch.chdir(run.evaluations)
    assert RunDir.around("t") == run


@pytest.mark.parametrize("name", ["2026-01-01_10-00-00", "my runs", "it's (one)", "a,b", "a[1]", "Café", "x=1"])
def test_the_command_that_resumes_a_run_is_read_as_it_is_pasted(name: str) -> None:
    program, verb, override = shlex.split(RunDir(Path("runs") / name).resume_command)
    assert (program, verb) == ("bcfusion", "train")
    assert OverridesParser.create().parse_override(override).value() == f"runs/{name}"


TORCHRUN_PROCESS = """
import os, sys
from bcfusion.run.layout import run_dir
name = run_dir("runs", None, None, None, f"clock of rank {os.environ['RANK']}")
sys.stdout.write(f"{os.environ['RANK']} {name}\\n")  # at once: both processes write to one pipe
"""


@pytest.mark.slow
def test_processes_of_torchrun_agree_on_a_new_run(tmp_path: Path) -> None:
    script, wrapper = tmp_path / "process.py", tmp_path / "wrapper.sh"
    script.write_text(TORCHRUN_PROCESS)
    wrapper.write_text(f'#!/bin/bash\nsleep "0.$RANK"\n{sys.executable} {script}\ntrue\n')
    wrapper.chmod(0o755)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    began = time.time()
    names = set()
    for started in ([str(script)], ["--no-python", str(wrapper)]):
        done = subprocess.run([*command, *started], capture_output=True, text=True, check=True, cwd=tmp_path)
        lines = sorted(line.split(" ", 1) for line in done.stdout.splitlines())
        assert [rank for rank, _ in lines] == ["0", "1"]
        [name] = {name for _, name in lines}
        stamp = Path(name).name
        assert -2 < datetime.strptime(stamp, "%Y-%m-%d_%H-%M-%S-%f").timestamp() - began < time.time() - began + 2
        names.add(name)
    assert len(names) == 2


def test_processes_of_torchrun_on_several_machines_need_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=DIR"):
        run_dir("runs", None, None, None, "now")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert run_dir("runs", None, None, None, "now") == "runs/default/default/now"
