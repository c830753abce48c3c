"""Which run a path belongs to."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from bcfusion.run.layout import RunDir


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
