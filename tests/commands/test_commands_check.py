"""The verb check: what it prints, what it leaves behind, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcfusion.commands import check, exit_status

TINY = ["experiment=seanet_regression", "generator.channels=2", "generator.bottleneck_channels=4"]
SMALL = ["data=folder", "data.batch_size=2", "data.segment_seconds=0.128", "data.workers=0", "trainer.accelerator=cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.mark.slow
def test_it_reads_the_data_trains_a_step_and_leaves_nothing(
    folder: Path, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(check.main, [*TINY, *SMALL, f"data.root={speech}"]) == 0
    lines = [line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if "│" in line]
    table = {name.strip(): value.strip() for name, value in lines}
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
    assert {line.split(":")[0] for line in output.err.splitlines()} == {
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
