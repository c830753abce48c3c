"""A training that wandb has logged offline, read back from its files."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tracked_runs import Compose, Point, assert_on_this_machine, crashed_and_resumed, logged, timeless, whole

from bcfusion.files import read_object
from bcfusion.training.trackers.wandb import WandbTracker

wandb = pytest.importorskip("wandb")
pytestmark = pytest.mark.slow


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Wandb offline, without reports and logins; the list of addresses that were tried all the same."""
    for name in ("WANDB_DIR", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    yield assert_on_this_machine(monkeypatch)
    wandb.teardown()  # ends its process
    assert set(threading.enumerate()) <= before
    assert not (tmp_path / "wandb").exists()  # everything is in the run directory


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: after a header, blocks of 32 KiB as in LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, begun = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # the rest of a block that has no room for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        part = content[at + 7 : at + 7 + length]
        at += 7 + length
        begun = part if kind in (1, 2) else begun + part  # whole, first; middle, last
        if kind in (1, 4):
            yield Record.FromString(begun)


class Offline:
    """What wandb has written for the sessions of a run."""

    def __init__(self, run_dir: Path) -> None:
        wandb.teardown()  # waits until its process has written everything
        self.sessions = sorted(path.parent for path in run_dir.glob("wandb/offline-run-*/*.wandb"))
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.exits: list[int] = []
        self.runs: list[Any] = []
        for session in self.sessions:
            for record in records(next(session.glob("*.wandb"))):
                self._read(record)

    def _read(self, record: Any) -> None:
        match record.WhichOneof("record_type"):
            case "history":
                self.rows.append(_values(record.history.item))
            case "summary":
                self.summary.update(_values(record.summary.update))
            case "config":
                self.config.update(_values(record.config.update))
            case "run":
                self.runs.append(record.run)
                self.config.update(_values(record.run.config.update))
            case "exit":
                self.exits.append(record.exit.exit_code)

    def points(self) -> dict[Point, float]:
        """Every scalar, each once."""
        found: dict[Point, float] = {}
        for row in self.rows:
            for tag, value in row.items():
                if not tag.startswith(("_", "sample_")):
                    assert (tag, row["_step"]) not in found
                    found[tag, row["_step"]] = value
        return found

    def files(self, tag: str) -> dict[int, Path]:
        """The sounds or pictures of a tag by step."""
        found = {row["_step"]: row[f"{tag}.path"] for row in self.rows if f"{tag}.path" in row}
        return {
            step: next(p for s in self.sessions if (p := s / "files" / path).exists()) for step, path in found.items()
        }


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_values_sounds_pictures_and_settings_are_those_of_the_run(
    tiny: Compose, tmp_path: Path, refused: list[str]
) -> None:
    run_dir = tmp_path / "bone_to_air" / "seanet" / "now"
    whole(tiny, run_dir, "logger=wandb", "logger.wandb.project=throat", "logger.wandb.entity=lab")
    offline = Offline(run_dir)
    points = logged(run_dir)
    assert offline.points() == points
    best = {tag: value for (tag, step), value in points.items() if tag.startswith("best/")}  # the last one of each
    assert best
    assert {tag: offline.summary[tag] for tag in best} == best
    [run] = offline.runs
    assert (run.project, run.entity, run.display_name) == ("throat", "lab", "bone_to_air/seanet/now")
    assert run.notes.splitlines()[0] == str(run_dir)
    git = json.loads((run_dir / "run.json").read_text())["sessions"][0]["git"]
    assert run.notes.splitlines()[1:] == ([f"git {git}"] if git else [])
    assert run.run_id == read_object(run_dir / "wandb.json")["id"]
    assert offline.config["recipe"] == "bone_to_air"
    assert offline.config["optimizer.lr"] > 0
    assert offline.files("sample_0/input").keys() == {3}  # it does not change
    sounds = offline.files("sample_0/enhanced")
    assert sounds.keys() == {3, 6, 7}
    sound, rate = soundfile.read(sounds[6])
    assert rate == 16000
    assert 0.0 < np.abs(sound).max() <= 1.0
    assert Image.open(offline.files("sample_0/spectrogram")[7]).width > 100
    assert offline.exits == [0]
    assert refused == []


def test_a_resumed_run_is_the_same_run_and_repeats_nothing(tiny: Compose, tmp_path: Path, refused: list[str]) -> None:
    run_dir = tmp_path / "run"
    crashed_and_resumed(tiny, run_dir, "logger=wandb")
    offline = Offline(run_dir)
    assert len(offline.sessions) == 2
    assert len({run.run_id for run in offline.runs}) == 1
    assert offline.exits == [1, 0]
    steps = [row["_step"] for row in offline.rows]
    assert steps == sorted(set(steps))
    assert offline.points().keys() == logged(run_dir).keys()
    assert timeless(offline.points()) == timeless(logged(run_dir))


def three_steps(run_dir: Path) -> None:
    """What a run does to a tracker, without a network to train."""
    run_dir.mkdir(exist_ok=True)
    tracker = WandbTracker(run_dir)
    tracker.open({"seed": 0})
    for step in range(1, 4):
        tracker.log_metrics({"loss/l1": float(step)}, step=step)
    tracker.close(3, succeeded=True)


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("bcfusion: wandb:")]


POINTS = {("loss/l1", step): float(step) for step in range(1, 4)}


def test_without_a_login_the_run_is_logged_offline(
    tmp_path: Path, refused: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    three_steps(tmp_path / "run")
    [line] = warnings(capsys)
    assert line == (
        f"bcfusion: wandb: not logged in (wandb login): the run is logged offline, into {tmp_path / 'run' / 'wandb'}"
    )
    assert Offline(tmp_path / "run").points() == POINTS
    assert refused == []


@pytest.mark.parametrize("known_by_the_server", [False, True])
def test_without_a_connection_the_run_is_logged_offline(
    tmp_path: Path,
    refused: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    known_by_the_server: bool,
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no port of a server
    monkeypatch.setattr("bcfusion.training.trackers.wandb.CONNECTING_SECONDS", 1.0)
    if known_by_the_server:  # the connection is lost between the login and the run
        monkeypatch.setattr(wandb, "login", lambda **_: True)
    three_steps(tmp_path / "run")
    [line] = warnings(capsys)
    assert "the run is logged offline" in line
    assert Offline(tmp_path / "run").points() == POINTS


def test_a_folder_that_cannot_be_written_is_reported_once(
    tmp_path: Path, refused: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("a file")
    three_steps(tmp_path / "run")
    assert len(warnings(capsys)) == 1
