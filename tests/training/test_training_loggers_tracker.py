"""What all experiment trackers share: which rows arrive, in which order, and what a failure does."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from bcfusion.configuration.check import verify
from bcfusion.files import read_object
from bcfusion.training.callbacks.interrupt import RunInterrupted
from bcfusion.training.callbacks.pruning import RunPruned
from bcfusion.training.loggers import CsvLogger
from bcfusion.training.trackers.mlflow import MlflowTracker
from bcfusion.training.trackers.outbox import Outbox
from bcfusion.training.trackers.tracker import Row, Tracker
from bcfusion.training.trackers.tracking import tracking

Composed = Callable[..., DictConfig]


class Server:
    """What a tracker's server has: rows by run. It can be down."""

    def __init__(self) -> None:
        self.runs: dict[str, list[Row]] = {}
        self.down = False


class FakeTracker(Tracker):
    title = "fake"
    where = "nowhere"

    def __init__(self, run_dir: Path, server: Server, first_step: int = 0) -> None:
        super().__init__(run_dir, first_step)
        self.server = server
        self.ended: list[bool] = []
        self.attempts = 0

    def load(self) -> None: ...

    def start(self, run_id: str | None, hyperparameters: Mapping[str, Any]) -> str:
        self._reach()
        identity = run_id or f"run-{len(self.server.runs)}"
        self.server.runs.setdefault(identity, [])
        return identity

    def send(self, row: Row) -> None:
        self._reach()
        assert self._id is not None
        self.server.runs[self._id].append(Row(row.step, dict(row.values), dict(row.sounds), dict(row.pictures)))

    def finish(self, succeeded: bool) -> None:
        self._reach()
        self.ended.append(succeeded)

    def _reach(self) -> None:
        self.attempts += 1
        if self.server.down:
            raise ConnectionError("no route")


def session(
    folder: Path, server: Server, steps: range, first_step: int = 0, succeeded: bool = True, validate_at: int = -1
) -> FakeTracker:
    """Log steps to metrics.csv and to a tracker, as a run does; a validation adds to the row of its step."""
    csv, tracker = CsvLogger(folder, first_step), FakeTracker(folder, server, first_step)
    tracker.open({})
    for step in steps:
        for logger in (csv, tracker):
            logger.log_metrics({"loss/l1": float(step)}, step=step)
    if validate_at >= 0:
        for logger in (csv, tracker):
            logger.log_metrics({"valid/stoi": 0.5}, step=validate_at)
    tracker.close(steps[-1], succeeded)
    return tracker


def arrived(server: Server) -> list[tuple[int, dict[str, float]]]:
    """The rows of the only run."""
    [rows] = server.runs.values()
    return [(row.step, row.values) for row in rows]


def test_a_row_is_sent_whole_when_a_later_step_begins(tmp_path: Path) -> None:
    server = Server()
    session(tmp_path, server, range(1, 4), validate_at=3)
    assert arrived(server) == [
        (1, {"loss/l1": 1.0}),
        (2, {"loss/l1": 2.0}),
        (3, {"loss/l1": 3.0, "valid/stoi": 0.5}),
    ]
    assert read_object(tmp_path / "fake.json") == {"id": "run-0", "sent": 3}


def test_a_run_that_failed_after_its_checkpoint_is_continued_without_repeated_steps(tmp_path: Path) -> None:
    server = Server()
    session(tmp_path, server, range(1, 6), succeeded=False)  # the checkpoint is that of step 3
    assert [step for step, _ in arrived(server)] == [1, 2, 3, 4]
    session(tmp_path, server, range(4, 9), first_step=3)
    assert [step for step, _ in arrived(server)] == list(range(1, 9))


def test_a_validation_that_was_interrupted_completes_the_row_of_its_step(tmp_path: Path) -> None:
    server = Server()
    session(tmp_path, server, range(1, 5), succeeded=False)
    tracker, csv = FakeTracker(tmp_path, server, first_step=4), CsvLogger(tmp_path, first_step=4)
    tracker.open({})
    for logger in (csv, tracker):
        logger.log_metrics({"valid/stoi": 0.5}, step=4)
    tracker.close(4, succeeded=True)
    assert arrived(server)[-1] == (4, {"loss/l1": 4.0, "valid/stoi": 0.5})
    assert len(arrived(server)) == 4


def test_a_tracker_that_joins_a_resumed_run_is_sent_what_metrics_csv_has(tmp_path: Path) -> None:
    csv = CsvLogger(tmp_path)
    for step in range(1, 6):
        csv.log_metrics({"loss/l1": float(step)}, step=step)
    server = Server()
    session(tmp_path, server, range(4, 6), first_step=3)  # steps 4 and 5 of the first session are void
    assert arrived(server) == [(step, {"loss/l1": float(step)}) for step in range(1, 6)]


def test_a_new_run_in_the_same_directory_is_a_new_run_of_the_tracker(tmp_path: Path) -> None:
    server = Server()
    session(tmp_path, server, range(1, 3))
    session(tmp_path, server, range(1, 4))
    assert [[row.step for row in rows] for rows in server.runs.values()] == [[1, 2], [1, 2, 3]]


def test_a_tracker_that_cannot_be_reached_warns_once_and_the_next_session_makes_up_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    server.down = True
    session(tmp_path, server, range(1, 4))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "no route" in line]
    assert warnings == [
        f"bcfusion: fake: ConnectionError: no route; training goes on, and {tmp_path / 'metrics.csv'} has every value"
    ]
    assert server.runs == {}
    server.down = False
    session(tmp_path, server, range(4, 6), first_step=3)
    assert [step for step, _ in arrived(server)] == [1, 2, 3, 4, 5]


def test_sounds_and_pictures_are_not_kept_for_a_tracker_that_cannot_be_reached(tmp_path: Path) -> None:
    server = Server()
    tracker = FakeTracker(tmp_path, server)
    tracker.open({})

    def validation(step: int) -> None:
        tracker.log_sound("sample_0/enhanced", np.array([0.5, -2.0]), step, 16000)
        tracker.log_picture("sample_0/spectrogram", b"\x89PNG", step)
        tracker.log_metrics({"valid/stoi": 0.5}, step=step)

    validation(1)
    tracker.log_metrics({"loss/l1": 1.0}, step=2)
    wait_until(lambda: tracker.sent == 1)
    server.down = True
    validation(2)
    attempts = tracker.attempts
    tracker.log_metrics({"loss/l1": 1.0}, step=3)
    wait_until(lambda: tracker.attempts > attempts)
    server.down = False
    tracker.close(3, succeeded=True)
    [rows] = server.runs.values()
    assert [(row.step, sorted(row.sounds), sorted(row.pictures)) for row in rows] == [
        (1, ["sample_0/enhanced"], ["sample_0/spectrogram"]),
        (2, [], []),
        (3, [], []),
    ]
    assert rows[0].sounds["sample_0/enhanced"].tolist() == [16384, -32767]
    assert rows[0].pictures["sample_0/spectrogram"] == b"\x89PNG"


def wait_until(holds: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(3000):  # ends a hang
        if holds():
            return
        event.wait(0.02)
    raise AssertionError("waited in vain")


def test_an_outbox_does_jobs_in_order_and_tries_again(tmp_path: Path) -> None:
    done: list[int] = []
    errors: list[str] = []
    faults = iter([True, True])

    def fragile() -> None:
        if next(faults, False):
            raise OSError("not yet")
        done.append(1)

    outbox = Outbox("test", lambda error: errors.append(str(error)), first_pause=0.001)
    for job in (lambda: done.append(0), fragile, lambda: done.append(2)):
        outbox.put(job)
    wait_until(lambda: len(done) == 3)
    assert outbox.close(60) == 0
    assert done == [0, 1, 2]
    assert errors == ["not yet"] * 2


def test_an_outbox_that_is_closed_counts_what_it_could_not_do() -> None:
    def fail() -> None:
        raise OSError("never")

    outbox = Outbox("test", lambda error: None, first_pause=1000.0)
    for _ in range(3):
        outbox.put(fail)
    assert outbox.close(60) == 3
    assert not any(thread.name == "test" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("error", "ended"), [(None, [True]), (RunPruned(3, 0.5), [True]), (RunInterrupted(signal.SIGTERM, 3), [False])]
)
def test_the_end_of_a_training_is_the_end_of_the_run(
    tmp_path: Path, error: Exception | None, ended: list[bool]
) -> None:
    tracker = FakeTracker(tmp_path, Server())
    trainer: Any = SimpleNamespace(loggers=[CsvLogger(tmp_path), tracker], is_global_zero=True)
    with contextlib.suppress(RunPruned, RunInterrupted), tracking(trainer, {}, lambda: 3):
        if error is not None:
            raise error
    assert tracker.ended == ended


def test_processes_other_than_the_first_send_nothing(tmp_path: Path) -> None:
    server = Server()
    tracker = FakeTracker(tmp_path, server)
    trainer: Any = SimpleNamespace(loggers=[tracker], is_global_zero=False)
    with tracking(trainer, {}, lambda: 3):
        tracker.log_metrics({"loss/l1": 1.0}, step=1)
    assert (server.runs, tracker.ended, list(tmp_path.iterdir())) == ({}, [], [])


@pytest.mark.parametrize(
    ("tracker", "packages"), [("wandb", "wandb"), ("mlflow", "mlflow, sqlalchemy, alembic"), ("trackio", "trackio")]
)
def test_a_missing_package_is_refused_with_the_extra_that_has_it(
    composed: Composed, monkeypatch: pytest.MonkeyPatch, tracker: str, packages: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cfg = composed(f"logger={tracker}")
    assert list(cfg.logger) == ["tensorboard", "csv", tracker]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in packages.split(", ") else find(name, *rest)
    )
    assert verify(cfg) == [f"logger.{tracker}: needs {packages}: pip install 'bcfusion[{tracker}]'"]


def test_a_folder_of_the_name_is_no_package(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An offline run of another program leaves ./wandb, which Python takes for a package without files."""
    settings = ["metrics=[stoi]", "selection=stoi", "trainer.keep_best=[stoi]"]  # pesq is not on that path either
    assert verify(composed(*settings)) == []  # all that the check imports is there, whichever test was before
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    [problem] = verify(composed("logger=wandb", *settings))
    assert "needs wandb" in problem


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["logger=wandb", "logger.wandb.project='a/b'"], "logger.wandb: WandbTracker: project='a/b' must have"),
        (["logger=wandb", "logger.wandb.mode=later"], "logger.wandb.mode: must be one of online, offline, disabled"),
        (["logger=mlflow", "logger.mlflow.tracking_uri=mlruns"], "logger.mlflow: MlflowTracker: tracking_uri=mlruns"),
        (["logger=mlflow", "logger.mlflow.experiment=' '"], "logger.mlflow: MlflowTracker: experiment must have"),
        (["logger=trackio", "logger.trackio.project=''"], "logger.trackio: TrackioTracker: project must have"),
        (["logger=trackio", "+logger.trackio.projct=x"], "logger.trackio.projct: TrackioTracker has no argument"),
    ],
)
def test_a_wrong_option_is_refused(composed: Composed, overrides: list[str], problem: str) -> None:
    [found] = verify(composed(*overrides))
    assert found.startswith(problem)


def test_a_check_connects_to_nothing_and_writes_nothing(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = threading.active_count()
    for tracker in ("wandb", "mlflow", "trackio"):
        assert verify(composed(f"logger={tracker}")) == []
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


def test_the_address_of_the_environment_is_that_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    assert MlflowTracker(tmp_path / "run", root=str(tmp_path)).where == local
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert MlflowTracker(tmp_path / "run").where == "http://127.0.0.1:1"
    secret = MlflowTracker(tmp_path / "run", tracking_uri="https://me:password@mlflow.invalid/x")
    assert secret.where == "https://mlflow.invalid/x"
