"""``bcfusion init``: the copy of a shipped experiment runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bcfusion.commands import exit_status
from bcfusion.commands.init import main
from bcfusion.configuration.compose import drop_unchosen, register_resolvers
from bcfusion.configuration.paths import conf_dir, group_members
from bcfusion.errors import ConfigError


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", group_members("experiment"))
def test_a_copy_differs_from_the_shipped_experiment_by_its_command_only(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([name])
    copied = Path("conf/experiment", f"my_{name}.yaml").read_text()
    shipped = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    command = f"bcfusion train experiment=my_{name}"
    assert yaml.safe_load(copied) == yaml.safe_load(shipped)
    assert copied.startswith("# @package _global_\n")  # else Hydra would put the overrides into a key `experiment`
    assert f"# {command}\n" in copied
    assert f"# bcfusion train experiment={name}\n" not in copied
    assert f"  {command}\n" in capsys.readouterr().out
    of_cpu = conf_dir() / "experiment" / "cpu" / f"{name}.yaml"
    own = Path("conf/experiment/cpu", f"my_{name}.yaml")
    assert own.is_file() == of_cpu.is_file()
    if own.is_file():
        assert f"# {command} machine=cpu\n" in own.read_text()
        built_on = [yaml.safe_load(file.read_text())["defaults"][0] for file in own.parent.glob("*.yaml")]
        assert f"/experiment/my_{name}" in built_on, "what is edited in the copy has an effect on a CPU too"
        assert not [base for base in built_on if f"my_{name}" not in base]


@pytest.mark.slow
@pytest.mark.parametrize("name", group_members("experiment"))
def test_the_copy_composes_to_what_the_shipped_experiment_composes_to(work: Path, name: str) -> None:
    from hydra import compose, initialize_config_dir

    register_resolvers()
    main([name])
    has_cpu = (conf_dir() / "experiment" / "cpu" / f"{name}.yaml").is_file()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{work / 'conf'}]"
        for machine in ("", *(["cpu/"] if has_cpu else [])):
            own, shipped = (compose("train", [f"experiment={machine}{each}", search]) for each in (f"my_{name}", name))
            drop_unchosen(own)
            drop_unchosen(shipped)
            assert own == shipped


def test_nothing_is_overwritten_unasked() -> None:
    target = Path("conf/experiment/my_seanet.yaml")
    main(["seanet"])
    target.write_text("edited\n")
    with pytest.raises(ConfigError, match="--force"):
        main(["seanet"])
    assert target.read_text() == "edited\n"
    main(["seanet", "--force"])
    assert target.read_text() != "edited\n"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("file/experiment/wide.yaml", "file is a file, not a folder"),
        (f"experiment/{'x' * 300}.yaml", "the name is too long for the file system"),
    ],
)
def test_a_copy_that_cannot_be_written_is_reported(
    target: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert exit_status(main, ["seanet", "--to", target]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"cannot write {target}: ")
    assert reason in shown.err
    assert not shown.out


def test_elsewhere_the_command_names_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    main(["seanet", "--to", "lab/experiment/wide.yaml"])
    assert "bcfusion train experiment=wide --config-dir lab\n" in capsys.readouterr().out
    assert "# bcfusion train experiment=wide --config-dir lab\n" in Path("lab/experiment/wide.yaml").read_text()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("wide.yaml", "folder named experiment"),  # Hydra would not find it
        ("conf/experiment/wide.txt", "must be a .yaml file"),
        ("conf/experiment/seanet.yaml", "choose another name"),  # it would not replace the shipped one
    ],
)
def test_a_place_where_it_would_not_be_used_is_refused(target: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        main(["seanet", "--to", target, "--force"])
    assert not Path(target).exists()


def test_an_unknown_experiment_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'seanet'\?\navailable: ap_bwe, "):
        main(["senet"])


@pytest.mark.parametrize("argv", [["--list"], []])
def test_the_list_describes_each_experiment(argv: list[str], capsys: pytest.CaptureFixture[str], work: Path) -> None:
    main(argv)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == group_members("experiment")
    assert any(line.startswith("seanet ") and "Tagliasacchi" in line for line in lines)
    assert not list(work.iterdir())
