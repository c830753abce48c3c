"""Who is the reason that a run of several processes does not get on; without any process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch.distributed as dist

from bcfusion.errors import DataError, TrainingError
from bcfusion.run.alive import place
from bcfusion.run.processes import began, runs
from bcfusion.training import watch as module
from bcfusion.training.watch import Watch, _is_broken

SECONDS = 60.0


def words(rank: int, **changes: Any) -> dict[str, Any]:
    said = {"beat": 1, "moves": 1, "order": 6, "where": "in step 3", "waits": False, "state": "works", "problem": ""}
    return {
        **place(),
        **{"pid": os.getpid(), "began": began(os.getpid()), "blames": False, "heard_end": []},
        **said,
        **changes,
    }


class Told:
    """A watch of rank 0 that hears what it is told, at times that it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.watch = Watch(SECONDS)
        self.beats = 0

    def hear(self, seconds: float, *ranks: dict[str, Any]) -> str | None:
        """Hear from all ranks after some seconds; return the reason to end, if there is one."""
        self.now += seconds
        self.beats += 1
        self.watch._hear([{**rank, "beat": rank["beat"] if rank["beat"] < 0 else self.beats} for rank in ranks])
        fault = self.watch._find(self.now)
        return None if fault is None else f"{sorted(fault.ranks)} {fault.message}"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_who_does_not_wait_is_the_reason(told: Told) -> None:
    here = words(0, waits=True)
    there = words(1, order=6, where="reading the batch of step 4, mine.py:3 in read")
    for _ in range(7):
        reason = told.hear(10.0, here, there)
    assert reason is not None
    assert reason.startswith("[1] no progress for 60 s: the run hangs in rank 1 (process")
    assert "mine.py:3 in read" in reason


def test_who_is_behind_is_the_reason_if_nobody_or_everybody_waits(told: Told) -> None:
    for waits in (False, True):
        told.watch._peers.clear()
        for _ in range(7):
            reason = told.hear(10.0, words(0, order=7, waits=waits), words(1, order=6, waits=waits))
        assert (reason or "").startswith("[1] no progress"), waits
    told.watch._peers.clear()
    for _ in range(7):
        reason = told.hear(10.0, words(0), words(1))
    assert (reason or "").startswith("[0, 1] no progress")


def test_a_process_that_gets_on_is_waited_for_without_end(told: Told) -> None:
    for number in range(100):
        assert told.hear(10.0, words(0, waits=True), words(1, moves=number)) is None


def test_a_process_that_says_nothing_is_the_reason_whatever_the_others_do(told: Told) -> None:
    told.hear(1.0, words(0), words(1, beat=-1))
    reasons = [told.hear(10.0, words(0, moves=number), words(1, beat=-1)) for number in range(6)]
    assert reasons[:5] == [None] * 5
    assert (reasons[5] or "").startswith("[1] no answer for 60 s from rank 1")


def test_without_the_store_rank_zero_is_the_reason(told: Told) -> None:
    told.watch._rank = 1
    told.hear(1.0, words(0), words(1))
    assert told.watch._find(told.now + SECONDS - 1) is None
    fault = told.watch._find(told.now + SECONDS)
    assert fault is not None
    assert fault.ranks == {0}


@pytest.mark.slow
def test_a_process_that_is_no_more_is_reported_at_once_and_its_last_words_come_first(told: Told) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    since = began(ended.pid)
    assert runs(ended.pid, since)
    ended.communicate(b"\n")
    gone = words(1, pid=ended.pid, began=since)
    assert not runs(ended.pid, since)
    assert told.hear(0.1, words(0), gone) is None  # its last words may be on their way
    reason = told.hear(3.1, words(0), gone)
    assert reason == f"[1] rank 1 (process {ended.pid} on {gone['host']}) has died (in step 3)"
    reason = told.hear(0.1, words(0), {**gone, "state": "ended", "problem": "bad.flac: cannot be read"})
    assert (reason or "").endswith("ended with: bad.flac: cannot be read")
    assert told.hear(0.1, words(0), {**gone, "state": "done"}) is None


def test_who_fails_because_of_another_one_passes_the_reason_on(told: Told) -> None:
    told.watch._rank = 2
    first = words(0, state="ended", problem="rank 1 has died", blames=True)
    assert told.hear(1.0, first, words(1), words(2)) == "[0] rank 1 has died"
    second = words(1, state="fails", problem="a.wav: damaged")
    assert "rank 1 (process" in (told.hear(1.0, first, second, words(2)) or "")


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error: Connection reset by peer"), True),
        (dist.DistBackendError("NCCL error"), True),
        (ConnectionResetError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (DataError("gloo.wav: damaged"), False),
    ],
)
def test_errors_of_connections_are_told_from_others(error: BaseException, broken: bool) -> None:
    assert _is_broken(error) == broken


def test_with_one_process_errors_pass_as_they_are() -> None:
    before = threading.active_count()
    watch = Watch(SECONDS)
    with pytest.raises(RuntimeError, match="gloo"), watch.guarding():
        raise RuntimeError("gloo")
    assert threading.active_count() == before


@pytest.mark.slow
def test_a_process_that_was_started_and_ends_before_they_meet_is_reported(tmp_path: Any) -> None:
    """In a process of its own, which the watch ends."""
    program = (
        "import subprocess, sys, time\n"
        "from bcfusion.training.watch import Watch\n"
        "watch = Watch(5.0, lambda: 'start again')\n"
        "watch.supervise([subprocess.Popen([sys.executable, '-c', 'raise SystemExit(7)'])])\n"
        "import bcfusion.training.watch as module\n"
        "module.GRACE = 0.5\n"
        "watch.start()\n"
        "time.sleep(3600)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == module.STATUS
    assert "rank 1 (process" in done.stderr
    assert "ended with status 7 before the processes met; if it said why, it is above\nstart again" in done.stderr


def test_the_reason_is_an_error_for_users_on_the_lowest_rank_that_is_left(told: Told) -> None:
    for rank, expected in ((0, TrainingError), (2, SystemExit)):
        watch = told.watch
        watch._rank, watch._world_size, watch._threads = rank, 3, [threading.Thread()]
        watch._fault = module._Fault("rank 1 has died", frozenset({1}))
        with pytest.raises(expected), watch.guarding():
            raise RuntimeError("gloo: Connection closed by peer")
