"""The verb check: what it prints, what it leaves behind, and its exit status."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from bcfusion.commands import check, exit_status

TINY = ["experiment=seanet_regression", "generator.channels=2", "generator.bottleneck_channels=4"]
SMALL = ["data=folder", "data.batch_size=2", "data.segment_seconds=0.128", "data.workers=0", "trainer.accelerator=cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def rows(shown: str) -> dict[str, str]:
    """The table that check prints, wrapped cells joined."""
    table: dict[str, str] = {}
    name = ""
    for line in shown.splitlines():
        if "│" in line:
            head, value = (cell.strip() for cell in line.split("│")[1:3])
            name = head or name
            table[name] = f"{table.get(name, '')} {value}".strip()
    return table


@pytest.mark.slow
def test_it_reads_the_data_trains_a_step_and_leaves_nothing(
    folder: Path, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(check.main, [*TINY, *SMALL, f"data.root={speech}"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["train"].startswith("4 files, 2 speakers, 0.2 min, 16000 Hz")
    assert {"valid", "test", "device", "step", "validation", "budget", "parameters", "latency"} <= table.keys()
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_problems_of_the_configuration_and_of_the_data_come_together(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["data.root=nowhere", "degradation.body.noise_std=-1", "generator.channels=0", "data.sensor_dropout=0.5"]
    assert exit_status(check.main, [*TINY, *SMALL, *wrong]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert {line.split(":")[0] for line in output.err.splitlines() if not line.startswith("bcfusion: no GPU")} == {
        "data.root",
        "degradation.body",
        "generator",
        "data.sensor_dropout",
    }
    assert list(folder.iterdir()) == []


def test_without_a_step_no_data_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(check.main, [*TINY, *SMALL, "data.root=nowhere", "check.step=false"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert exit_status(check.main, [*TINY, "check.step=maybe"]) == 2
    assert capsys.readouterr().err == "check.step: must be true or false, not 'maybe'\n"


def test_without_a_gpu_the_settings_for_a_cpu_are_announced_beside_the_published_ones(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert exit_status(check.main, ["experiment=eben", "check.step=false"]) == 0
    shown = capsys.readouterr()
    table = rows(shown.out)
    assert shown.err.startswith("bcfusion: no GPU: CPU settings of experiment=eben: batch 4 x 0.512 s, losses l1, ")
    assert shown.err.endswith("9 minutes; machine=gpu keeps the published ones\n")
    assert table["machine"].startswith("cpu: batch 4 x 0.512 s, ")
    assert table["published"].startswith("batch 32 x 2.5 s, ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert exit_status(check.main, ["experiment=eben", "check.step=false"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert rows(shown.out)["machine"] == f"gpu: {table['published'].removesuffix(' (machine=gpu)')}"
    assert "published" not in rows(shown.out)
    assert exit_status(check.main, ["experiment=eben", "machine=cpu", "check.step=false"]) == 0
    assert capsys.readouterr().err.startswith("bcfusion: machine=cpu: CPU settings of experiment=eben: batch 4 ")


def test_an_experiment_of_the_user_without_settings_for_a_cpu_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults: [/experiment/eben]\n")
    assert exit_status(check.main, ["experiment=mine", "check.step=false"]) == 0
    shown = capsys.readouterr()
    assert shown.err == (
        "bcfusion: no GPU: experiment=mine has no settings for a CPU, which would be in conf/experiment/cpu/mine.yaml: "
        "its own are used\n"
    )
    assert rows(shown.out)["machine"].startswith("cpu: batch 32 x 2.5 s, ")


def test_the_objective_is_named_one_of_the_user_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "conf" / "objective").mkdir(parents=True)
    (folder / "conf" / "objective" / "mine.yaml").write_text("_target_: my_objective.Mine\n")
    (folder / "my_objective.py").write_text(
        "from bcfusion.generators.seanet import SEANet\n"
        "class Mine(SEANet):\n"
        "    def __init__(self, network):\n"
        "        super().__init__(channels=2, bottleneck_channels=4)\n"
    )
    monkeypatch.syspath_prepend(folder)
    assert exit_status(check.main, [*TINY, "objective=mine", "check.step=false"]) == 0
    assert rows(capsys.readouterr().out)["objective"] == "Mine"
    flow = ["experiment=dpcrn", "objective=flow", "losses=[prediction_mse]", "check.step=false"]
    assert exit_status(check.main, flow) == 0
    assert rows(capsys.readouterr().out)["objective"] == "Flow, predicts velocity, 5 steps of euler"


def test_the_loggers_are_in_the_table_and_a_missing_package_of_one_is_a_problem(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio")
    chosen = [*TINY, "logger=trackio", "check.step=false"]
    assert exit_status(check.main, chosen) == 0
    assert rows(capsys.readouterr().out)["loggers"] == "tensorboard, csv, trackio"
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "trackio" else find(name, *rest)
    )
    assert exit_status(check.main, chosen) == 2
    assert "logger.trackio: needs trackio: pip install 'bcfusion[trackio]'" in capsys.readouterr().err
