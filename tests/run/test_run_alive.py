"""Whether a run is trained now."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bcfusion.errors import WriteError
from bcfusion.files import write_text
from bcfusion.run.alive import claim, is_alive, mark_alive, owner, unmark_alive
from bcfusion.run.layout import RunDir


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    run = RunDir(tmp_path / "run")
    mark_alive(run)
    yield run
    unmark_alive(run)


def age(run: RunDir, seconds: float) -> None:
    for file in (run.path, *run.path.rglob("*")):
        os.utime(file, (time.time() - seconds,) * 2)


def rewrite(run: RunDir, **changes: object) -> None:
    """Replace the mark by another one, which nobody has locked."""
    write_text(run.running, json.dumps({**json.loads(run.running.read_text()), **changes}))


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("locks", [True, False])
def test_a_run_lives_as_long_as_its_process(tmp_path: Path, locks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not locks:
        no_locks(monkeypatch)
    run = RunDir(tmp_path / "run")
    assert claim(run) is None
    age(run, 1e6)  # a process that hangs is a process
    assert is_alive(run)
    assert str(os.getpid()) in str(owner(run))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    rewrite(run, pid=ended.pid)
    assert not is_alive(run)
    assert owner(run) is None


HOLDS = """
import os, sys, time
from pathlib import Path
from bcfusion.run.alive import claim
from bcfusion.run.layout import RunDir
run = RunDir(Path(sys.argv[1]))
assert claim(run) is None
if sys.argv[2] == "child":  # a reader of data, which outlives its trainer for a moment
    if os.fork():
        sys.stdin.readline()
        os._exit(1)
    print(os.getppid(), flush=True)  # once it runs: only then has it left the lock to its parent
    time.sleep(600)
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that trains the run in the folder ``run``."""
    begun = []

    def start(kind: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDS, str(tmp_path / "run"), kind]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid}\n"
        return process

    yield start
    for process in begun:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere"},  # of a machine that shares the file system
        {"numbers": "pid:[1]"},  # of another container
        {"began": "1"},
    ],
)
def test_what_is_locked_is_trained_whoever_the_process_is(
    tmp_path: Path, holder: Callable[[str], subprocess.Popen[str]], changes: dict[str, str]
) -> None:
    process = holder("alone")
    run = RunDir(tmp_path / "run")
    mark = json.loads(run.running.read_text())
    assert mark["locked"] is True
    run.running.write_text(json.dumps({**mark, **changes}))  # in place: the file is still the one that is locked
    age(run, 1e6)
    assert is_alive(run)
    named = f"process {process.pid} on {changes.get('host', mark['host'])}"
    assert owner(run) == named
    assert claim(run) == named
    process.kill()
    process.wait()
    assert not is_alive(run)
    assert claim(run) is None
    unmark_alive(run)


@pytest.mark.slow
def test_the_children_of_a_dead_process_do_not_keep_its_lock(
    tmp_path: Path, holder: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = holder("child")
    run = RunDir(tmp_path / "run")
    assert owner(run) == f"process {process.pid} on {json.loads(run.running.read_text())['host']}"
    process.kill()
    process.wait()
    os.killpg(process.pid, 0)  # raises if no process of the group is left
    assert claim(run) is None
    unmark_alive(run)


def test_a_copy_of_a_run_is_not_trained(run: RunDir, tmp_path: Path) -> None:
    copy = RunDir(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    assert owner(run) is not None
    assert owner(copy) is None
    assert not is_alive(copy)
    assert claim(copy) is None
    unmark_alive(copy)
    assert owner(run) is not None


def test_a_later_process_with_the_number_of_a_dead_one_does_not_keep_its_lock(run: RunDir) -> None:
    rewrite(run)  # the mark names this process, which lives, but has not locked it
    assert owner(run) is None
    rewrite(run, locked=None)  # where there are no locks, the process decides
    assert owner(run) is not None


def test_a_mark_that_another_process_has_replaced_stays(run: RunDir) -> None:
    rewrite(run, host="elsewhere")  # which could not see this one
    unmark_alive(run)
    assert json.loads(run.running.read_text())["host"] == "elsewhere"


def test_a_mark_that_was_not_written_leaves_no_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place in ("write", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, place, refuse)
            with pytest.raises(WriteError, match="the disk is full"):
                mark_alive(RunDir(tmp_path / "run"))
        assert os.listdir(tmp_path / "run") == []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the folder itself
            assert not str(descriptor.readlink()).startswith(str(tmp_path))


CLAIMS = """
import sys, time
from pathlib import Path
from bcfusion.run.alive import claim
from bcfusion.run.layout import RunDir
print("ready", flush=True)
sys.stdin.readline()
print(claim(RunDir(Path("new/run"))), flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_one_of_several_processes_that_begin_together_gets_a_run_and_its_death_frees_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIMS]
    pipe = subprocess.PIPE
    begun = [subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
    try:
        for process in begun:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in begun:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in begun if process.stdout is not None]
        [winner] = [process for process, answer in zip(begun, answers, strict=True) if answer == "None"]
        assert all(f"process {winner.pid} on" in answer for answer in answers if answer != "None")
    finally:
        for process in begun:
            process.kill()
            process.communicate()
    run = RunDir(tmp_path / "new" / "run")
    assert run.running.is_file()
    assert claim(run) is None
    assert str(os.getpid()) in str(claim(run))


def test_a_later_process_with_the_same_number_is_another(run: RunDir) -> None:
    rewrite(run, began="1", locked=None)
    assert not is_alive(run)


def test_a_run_of_another_machine_lives_for_a_day_after_its_last_change(run: RunDir) -> None:
    rewrite(run, host="elsewhere")
    assert is_alive(run)
    assert owner(run) is None  # not certain, so a requeued job may resume it
    age(run, 90_000)
    assert not is_alive(run)


def test_a_run_that_names_no_process_lives_for_minutes(run: RunDir) -> None:
    unmark_alive(run)
    run.metrics.write_text("step\n")
    run.hydra_config.parent.mkdir()  # all that a job of a sweep has while it is checked
    age(run, 3600)
    assert not is_alive(run)
    run.hydra_config.touch()
    assert is_alive(run)
    age(run, 3600)
    assert not is_alive(run)


def test_a_directory_that_may_not_be_created_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.mkdir", denied)  # root may write everywhere
    with pytest.raises(WriteError, match=r"^cannot write .*/run: Permission denied$"):
        claim(RunDir(tmp_path / "run"))
