"""Where configurations are, which directory a run gets, and which overrides a resumed run keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from bcfusion.configuration.compose import plain, register_resolvers
from bcfusion.configuration.overrides import merge_overrides
from bcfusion.configuration.paths import conf_dir, group_members, groups, user_conf_dir
from bcfusion.errors import ConfigError
from bcfusion.run.layout import find_run, register_run_dir, run_dir


def make_run(root: Path, name: str, written: int) -> Path:
    checkpoint = root / "bone_to_air" / "seanet" / name / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    os.utime(checkpoint, (written, written))
    return checkpoint.parent.parent


# ---------------------------------------------------------------- files


def test_the_shipped_configuration_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert conf_dir().is_absolute()
    assert (conf_dir() / "train.yaml").is_file()


def test_a_package_without_its_configuration_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcfusion.configuration.paths.__file__", str(tmp_path / "bcfusion" / "x" / "paths.py"))
    with pytest.raises(ConfigError, match="install bcfusion again"):
        conf_dir()


def test_a_conf_folder_of_another_program_is_not_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcfusion.configuration.paths.__file__", str(tmp_path / "bcfusion" / "x" / "paths.py"))
    (tmp_path / "conf").mkdir()  # in site-packages, beside the package, but without train.yaml
    with pytest.raises(ConfigError):
        conf_dir()


def test_members_of_further_folders_are_listed_with_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").touch()
    assert {"mine", "seanet"} <= set(group_members("experiment", [tmp_path]))
    assert "mine" not in group_members("experiment")
    assert {"experiment", "losses"} <= set(groups())
    assert "hydra" not in groups()


def test_the_shipped_folder_is_not_taken_for_the_users_own(tmp_path: Path) -> None:
    assert user_conf_dir(conf_dir().parent) is None
    assert user_conf_dir(tmp_path) is None
    (tmp_path / "conf").mkdir()
    assert user_conf_dir(tmp_path) == (tmp_path / "conf").resolve()


# ---------------------------------------------------------------- run directories


def test_a_new_run_is_filed_by_recipe_experiment_and_time() -> None:
    assert run_dir("runs", None, "fusion", "seanet", "12-00") == "runs/fusion/seanet/12-00"
    assert run_dir("runs", None, "fusion", None, "12-00") == "runs/fusion/default/12-00"


def test_auto_resumes_the_run_that_saved_last(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert run_dir(root, "auto", "bone_to_air", "seanet", "now") == str(tmp_path / "bone_to_air" / "seanet" / "now")
    make_run(tmp_path, "a", written=200)
    make_run(tmp_path, "b", written=100)  # begun later, but saved earlier
    (tmp_path / "bone_to_air" / "seanet" / "c").mkdir()  # never saved anything
    assert run_dir(root, "auto", "bone_to_air", "seanet", "now") == str(tmp_path / "bone_to_air" / "seanet" / "a")
    assert run_dir(root, "auto", "fusion", "seanet", "now") == str(tmp_path / "fusion" / "seanet" / "now")


def test_a_run_is_found_by_its_directory_its_checkpoints_or_one_of_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a", written=1)
    for path in (run, run / "checkpoints", run / "checkpoints" / "last.ckpt"):
        assert find_run(path) == run
        assert run_dir("runs", str(path), "fusion", None, "now") == str(run)


def test_a_relative_path_to_a_run_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, "a", written=1)
    monkeypatch.chdir(run / "checkpoints")
    assert find_run("last.ckpt").resolve() == run.resolve()
    monkeypatch.chdir(run)
    assert find_run(".").resolve() == run.resolve()
    assert find_run("checkpoints").resolve() == run.resolve()


def test_a_path_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        find_run(tmp_path / "nosuch")
    with pytest.raises(ConfigError, match="is not a run"):
        find_run(tmp_path)
    other = tmp_path / "last.ckpt"
    other.touch()
    with pytest.raises(ConfigError, match="is not a run"):
        find_run(other)


def test_the_run_directory_of_one_configuration_never_changes(tmp_path: Path) -> None:
    register_run_dir()
    cfg = OmegaConf.create({"dir": f"${{run_dir:{tmp_path},auto,bone_to_air,seanet,now}}"})
    assert isinstance(cfg, DictConfig)
    new = cfg.dir
    make_run(tmp_path, "another_process", written=4_000_000_000)
    assert cfg.dir == new


# ---------------------------------------------------------------- values


def test_resolvers() -> None:
    register_resolvers()
    register_resolvers()
    cfg = OmegaConf.create(
        {
            "sensors": ["body", "noisy"],
            "n": "${n_sensors:${sensors}}",
            "half": "${divide:8000,2}",
            "third": "${divide:1,3}",
        }
    )
    assert cfg.n == 2
    assert cfg.half == 4000
    assert isinstance(cfg.half, int)
    assert cfg.third == pytest.approx(1 / 3)


def test_plain_resolves_and_names_what_it_cannot() -> None:
    cfg = OmegaConf.create({"rate": 16000, "data": {"sample_rate": "${rate}", "splits": [1, "${rate}"]}})
    assert plain(cfg) == {"rate": 16000, "data": {"sample_rate": 16000, "splits": [1, 16000]}}
    with pytest.raises(ConfigError, match=r"^data\.root: .*nosuch"):
        plain(OmegaConf.create({"data": {"root": "${nosuch}"}}))
    with pytest.raises(ConfigError, match=r"^data\.root: "):
        plain(OmegaConf.create({"data": {"root": "???"}}))


# ---------------------------------------------------------------- overrides of an earlier run


@pytest.mark.parametrize(
    ("recorded", "given", "merged"),
    [
        (["seed=1", "experiment=seanet"], ["seed=2"], ["experiment=seanet", "seed=2"]),
        # another choice of a group drops all keys of the old one
        (
            ["data=pairs", "data.air=/a", "database=1"],
            ["data=folder", "data.root=/b"],
            ["database=1", "data=folder", "data.root=/b"],
        ),
        (["losses=[l1]", "losses.l1.weight=2"], ["~losses.l1"], ["losses=[l1]", "~losses.l1"]),
        (["losses.l1.weight=2"], ["losses.l1.weight=3"], ["losses.l1.weight=3"]),
        (["data.root=/a"], ["data.batch_size=4"], ["data.root=/a", "data.batch_size=4"]),
        (["hydra/launcher=basic", "hydra.launcher.n=1"], ["hydra/launcher=joblib"], ["hydra/launcher=joblib"]),
        (
            ["logger@second=csv", "second.name=x", "logger=csv"],
            ["logger@second=default"],
            ["logger=csv", "logger@second=default"],
        ),
        # a key that only the earlier run added does not exist without its +
        (["+extra=1"], ["extra=2"], ["+extra=2"]),
        (["+extra=1"], ["~extra"], []),
        (["++extra=1"], ["~extra"], ["++extra=0", "~extra"]),
        (["extra=1"], ["++extra=2"], ["++extra=2"]),
        (["~losses.l1"], ["losses.l1.weight=2"], ["~losses.l1", "losses.l1.weight=2"]),
        # options stand among the overrides, and a value that looks like a key is not one
        (
            ["--config-dir", "mine", "data=pairs"],
            ["-p", "data", "seed=1"],
            ["--config-dir", "mine", "data=pairs", "-p", "data", "seed=1"],
        ),
        (["data=pairs"], [], ["data=pairs"]),
    ],
)
def test_what_is_given_wins_over_what_was_recorded(recorded: list[str], given: list[str], merged: list[str]) -> None:
    assert merge_overrides(recorded, given) == merged


def test_processes_of_one_step_of_slurm_share_a_run_and_two_steps_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(now: str) -> str:
        return run_dir("runs", None, "r", "e", now)

    monkeypatch.setenv("SLURM_NTASKS", "2")  # an allocation alone says nothing of this process
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert made("a") != made("b")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    first = made("a")
    assert first == made("b")
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert made("a") != first
