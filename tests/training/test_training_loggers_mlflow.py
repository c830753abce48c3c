"""A training whose values are read back from MLflow's own database with MLflow's client."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tracked_runs import Compose, Point, assert_on_this_machine, crashed_and_resumed, logged, timeless, whole

from bcfusion.errors import ConfigError
from bcfusion.training.trackers.mlflow import MlflowTracker
from bcfusion.training.trackers.tracker import Row

pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No telemetry, no network; the list of addresses that were tried all the same."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return assert_on_this_machine(monkeypatch)


class Store:
    """The database and the files in a folder, read by MLflow's client."""

    def __init__(self, root: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(f"sqlite:///{root}/mlflow.db")
        [self.experiment] = [one for one in self.client.search_experiments() if one.name != "Default"]
        [self.run] = self.client.search_runs([self.experiment.experiment_id])
        self.artifacts = root / "mlartifacts" / self.run.info.run_id / "artifacts"

    def points(self) -> dict[Point, float]:
        """Every value, each once."""
        found: dict[Point, float] = {}
        for tag in self.run.data.metrics:
            for metric in self.client.get_metric_history(self.run.info.run_id, tag):
                assert (tag, metric.step) not in found
                found[tag, metric.step] = metric.value
        return found


def test_values_sounds_pictures_and_settings_are_those_of_the_run(
    tiny: Compose, tmp_path: Path, refused: list[str]
) -> None:
    run_dir = tmp_path / "bone_to_air" / "seanet" / "now"
    whole(tiny, run_dir, "logger=mlflow", f"output_root={tmp_path}")
    store = Store(tmp_path)
    assert store.points() == logged(run_dir)
    assert {"loss/l1", "valid/stoi", "valid_input/stoi", "best/selection"} <= store.run.data.metrics.keys()
    assert (
        store.run.data.metrics["best/stoi"]
        == logged(run_dir)["best/stoi", max(s for t, s in logged(run_dir) if t == "best/stoi")]
    )
    assert store.experiment.name == "bcfusion"
    assert (store.run.info.run_name, store.run.info.status) == ("bone_to_air/seanet/now", "FINISHED")
    assert store.run.data.tags["mlflow.note.content"].splitlines()[0] == str(run_dir)
    git = json.loads((run_dir / "run.json").read_text())["sessions"][0]["git"]
    assert store.run.data.tags.get("mlflow.source.git.commit") == git
    assert store.run.data.params["recipe"] == "bone_to_air"
    assert float(store.run.data.params["optimizer.lr"]) > 0
    for name in ("input", "enhanced", "target"):
        sound, rate = soundfile.read(store.artifacts / "sample_0" / name / "step-0000003.wav")
        assert rate == 16000
        assert 0.01 < np.abs(sound).max() <= 1.0
    assert not (store.artifacts / "sample_0" / "input" / "step-0000006.wav").exists()  # it does not change
    pictures = sorted(store.artifacts.glob("images/sample_0~spectrogram+step+*.png"))
    assert [path.name.split("+")[2] for path in pictures] == ["3", "6", "7"]
    assert Image.open(io.BytesIO(pictures[0].read_bytes())).width > 100
    assert refused == []


def test_a_resumed_run_is_the_same_run_and_repeats_nothing(tiny: Compose, tmp_path: Path, refused: list[str]) -> None:
    run_dir = tmp_path / "run"
    crashed_and_resumed(tiny, run_dir, "logger=mlflow", f"output_root={tmp_path}")
    store = Store(tmp_path)
    assert store.points().keys() == logged(run_dir).keys()
    assert timeless(store.points()) == timeless(logged(run_dir))
    assert store.run.info.status == "FINISHED"


def test_a_database_that_cannot_be_opened_does_not_end_a_training(
    tiny: Compose, tmp_path: Path, refused: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    run_dir = tmp_path / "run"
    whole(tiny, run_dir, "logger=mlflow", f"logger.mlflow.root={tmp_path / 'file'}")
    assert max(step for _, step in logged(run_dir)) == 7
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("bcfusion: mlflow:")]) == 1


def test_a_tag_of_several_sensors_loses_the_brackets_that_mlflow_refuses(tmp_path: Path, refused: list[str]) -> None:
    tracker = MlflowTracker(tmp_path / "run", root=str(tmp_path))
    tracker.load()
    tracker.start(None, {"losses.l1.weight": 1.0, "+odd[key]": "x" * 7000})
    tracker.send(Row(4, {"valid_input (body)/stoi": 0.5, "loss/l1": math.nan}))
    tracker.finish(succeeded=True)
    points = Store(tmp_path).points()
    assert points["valid_input body/stoi", 4] == 0.5
    assert math.isnan(points["loss/l1", 4])


def test_a_run_that_somebody_has_deleted_is_begun_anew(tmp_path: Path, refused: list[str]) -> None:
    tracker = MlflowTracker(tmp_path / "run", first_step=2, root=str(tmp_path))
    tracker.load()
    tracker.sent = 2
    assert tracker.start("0" * 32, {}) != "0" * 32
    assert tracker.sent == -1


def test_folders_which_mlflow_has_given_up_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}")
    with pytest.raises(ConfigError, match="a file is sqlite:///PATH"):
        MlflowTracker(tmp_path / "run")


def test_a_closed_port_is_reported_and_does_not_hold_up(
    tmp_path: Path, refused: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker: Any = MlflowTracker(tmp_path / "run", tracking_uri="http://127.0.0.1:9")
    tracker.open({})
    tracker.log_metrics({"loss/l1": 1.0}, step=1)
    tracker.close(1, succeeded=True)
    assert "training goes on" in capsys.readouterr().err
