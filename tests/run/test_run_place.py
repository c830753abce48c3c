"""Into which directories a session may write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bcfusion.errors import ConfigError
from bcfusion.run.layout import RunDir
from bcfusion.run.place import check_place
from bcfusion.run.record import Provenance

EBEN = Provenance(recipe="bone_to_air", experiment="eben")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    run.checkpoints.mkdir()
    run.last.touch()
    run.record.write_text(json.dumps({"recipe": "bone_to_air", "experiment": "seanet"}))
    return run


def test_a_run_of_another_kind_is_not_resumed(run: RunDir) -> None:
    with pytest.raises(ConfigError, match=r"is a run of experiment=seanet, not of experiment=eben\n.*init_from="):
        check_place(run.path, EBEN, resumes=True, sweeping=False)
    check_place(run.path, Provenance("bone_to_air", "seanet"), resumes=True, sweeping=False)


def test_a_run_is_not_overwritten_by_a_new_one_but_may_be_by_a_repeated_job(run: RunDir) -> None:
    with pytest.raises(ConfigError, match="holds a run already: continue it with resume="):
        check_place(run.path, EBEN, resumes=False, sweeping=False)
    check_place(run.path, EBEN, resumes=False, sweeping=True)
    run.last.unlink()  # it ended before its first checkpoint, as a requeued job may
    check_place(run.path, EBEN, resumes=False, sweeping=False)


@pytest.mark.parametrize("resumes", [False, True])  # resume=auto without a run starts a new one
def test_files_of_something_else_are_not_overwritten(tmp_path: Path, resumes: bool) -> None:
    (tmp_path / "notes.txt").touch()
    check_place(tmp_path, EBEN, resumes, sweeping=False)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"holds config\.yaml of something else"):
        check_place(tmp_path, EBEN, resumes, sweeping=False)
