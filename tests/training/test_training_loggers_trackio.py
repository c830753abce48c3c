"""A training whose values are read back from trackio's own database with trackio's storage."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tracked_runs import Compose, Point, assert_on_this_machine, crashed_and_resumed, logged, whole

from bcfusion.training.trackers.trackio import TrackioTracker

pytest.importorskip("trackio")
pytestmark = pytest.mark.slow


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trackio in a folder of the test; no network, no browser; the list of addresses that were tried all the same."""
    import trackio.launch
    import trackio.sqlite_storage

    folder = tmp_path / "trackio"
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "trackio"]:
        for name, value in {"TRACKIO_DIR": folder, "MEDIA_DIR": folder / "media"}.items():  # read when it is imported
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)

    def no_server(*_: Any, **__: Any) -> None:
        raise AssertionError("a page is shown")

    monkeypatch.setattr(webbrowser, "open", no_server)
    monkeypatch.setattr(trackio, "launch_trackio_dashboard", no_server)
    # a login at Hugging Face makes no difference
    monkeypatch.setenv("HF_TOKEN", "hf_" + 34 * "x")
    return assert_on_this_machine(monkeypatch)


class Store:
    """The only run of the project."""

    def __init__(self, folder: Path) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        [record] = SQLiteStorage.get_run_records("bcfusion")
        self.name = record["name"]
        self.config = SQLiteStorage.get_run_config("bcfusion", self.name, run_id=record["id"])
        self.rows = SQLiteStorage.get_logs("bcfusion", self.name, run_id=record["id"])
        self.media = folder / "media"

    def points(self) -> dict[Point, float]:
        """Every scalar, each once."""
        found: dict[Point, float] = {}
        for row in self.rows:
            for tag, value in row.items():
                if tag not in ("step", "timestamp") and not isinstance(value, dict):
                    assert (tag, row["step"]) not in found
                    found[tag, row["step"]] = value
        return found

    def files(self, tag: str) -> dict[int, Path]:
        """The sounds or pictures of a tag by step."""
        return {row["step"]: self.media / row[tag]["file_path"] for row in self.rows if tag in row}


def test_values_sounds_pictures_and_settings_are_those_of_the_run(
    tiny: Compose, tmp_path: Path, refused: list[str]
) -> None:
    run_dir = tmp_path / "bone_to_air" / "seanet" / "now"
    whole(tiny, run_dir, "logger=trackio")
    store = Store(tmp_path / "trackio")
    assert store.points() == logged(run_dir)
    assert store.name == "bone_to_air/seanet/now"
    assert store.config["recipe"] == "bone_to_air"
    assert store.config["notes"].splitlines()[0] == str(run_dir)
    assert store.files("sample_0/input").keys() == {3}  # it does not change
    assert store.files("sample_0/enhanced").keys() == {3, 6, 7}
    sound, rate = soundfile.read(store.files("sample_0/enhanced")[6])
    assert rate == 16000
    assert 0.0 < np.abs(sound).max() <= 1.0
    assert Image.open(store.files("sample_0/spectrogram")[7]).width > 100
    assert refused == []


def test_a_resumed_run_is_the_same_run_and_has_the_values_of_the_later_session(
    tiny: Compose, tmp_path: Path, refused: list[str]
) -> None:
    run_dir = tmp_path / "run"
    crashed_and_resumed(tiny, run_dir, "logger=trackio")
    assert Store(tmp_path / "trackio").points() == logged(run_dir)
    assert refused == []


def test_a_folder_that_cannot_be_written_is_reported_once(
    tmp_path: Path, refused: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trackio").write_text("a file")
    tracker = TrackioTracker(tmp_path / "run")
    tracker.open({})
    for step in range(3):
        tracker.log_metrics({"loss/l1": 1.0}, step=step)
    tracker.close(2, succeeded=True)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bcfusion: trackio:")]
    assert "FileExistsError" in line
