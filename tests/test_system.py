"""What is not on every system is used in one module alone, and every module is imported and works without it."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bcfusion import system

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600  # seconds after which a process that hangs is ended

#: modules that Windows does not have
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "crypt", "spwd", "posix")
#: what Windows does not have; macOS lacks sched_getaffinity
OF_OS = (
    *("sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "killpg", "getuid", "geteuid", "getgid", "getpgid"),
    *("setsid", "setpgid", "nice", "statvfs", "fstatvfs", "mkfifo", "mknod", "chown", "getloadavg", "wait3", "wait4"),
    *(
        "memfd_create",
        "O_DIRECTORY",
        "O_NOFOLLOW",
        "O_NONBLOCK",
        "O_CLOEXEC",
        "posix_fadvise",
        "pread",
        "preadv",
        "pwrite",
        "sendfile",
        "uname",
    ),
    *("sysconf", "register_at_fork", "set_blocking", "pipe2", "fchmod", "fdatasync"),
)
OF_SIGNAL = (
    *("SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGCONT", "SIGCHLD"),
    *(
        "SIGPIPE",
        "SIGWINCH",
        "pthread_sigmask",
        "setitimer",
        "ITIMER_REAL",
        "alarm",
        "pause",
        "sigwait",
        "siginterrupt",
    ),
)

#: place and name, with the reason for which it is used outside of bcfusion/system.py
ALLOWED = {
    ("bcfusion/commands/shared/signals.py", "signal.setitimer"): "only where there is a SIGALRM",
    ("bcfusion/commands/shared/signals.py", "signal.ITIMER_REAL"): "only where there is a SIGALRM",
    ("bcfusion/doctor/machine.py", "resource"): "imported where it is there",
    ("bcfusion/audio/messages.py", "os.register_at_fork"): "only where processes can be forked",
    ("bcfusion/run/alive.py", "os.register_at_fork"): "only where processes can be forked",
    ("bcfusion/run/processes.py", "os.sysconf"): "only after /proc has been read",
}


def uses(source: str) -> list[str]:
    """Return what a file uses that is not on every system."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            found.append(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "signal"):
            names = OF_OS if node.module == "os" else OF_SIGNAL
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name in names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = {"os": OF_OS, "signal": OF_SIGNAL}.get(node.value.id, ())
            found += [f"{node.value.id}.{node.attr}"] if node.attr in names else []
    return found


def test_what_is_not_on_every_system_is_used_in_one_module() -> None:
    places = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "bcfusion").rglob("*.py")
        if path.name != "system.py"
        for name in uses(path.read_text(encoding="utf-8"))
    }
    assert places == set(ALLOWED)


@pytest.mark.parametrize(
    "source",
    ["import fcntl", "from resource import getrlimit", "import os\nos.fork()", "import signal\nsignal.SIGHUP",
     "from os import getuid"],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert len(uses(source)) == 1
    assert uses("import os\nos.replace('a', 'b')\nimport signal\nsignal.SIGTERM") == []


def test_times_in_names_of_files_hold_no_colon() -> None:
    """Windows takes none; those of a log or of a record are no names."""
    texts = {"bcfusion/run/log.py", "bcfusion/run/record.py", "bcfusion/commands/compare_dead.py"}
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bcfusion").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "strftime"
        for argument in node.args
        if isinstance(argument, ast.Constant) and ":" in str(argument.value)
    }
    assert found == texts


# The libraries are imported before: they look for themselves. What then is missing is so for bcfusion alone.
WITHOUT = """
import builtins, importlib, os, pkgutil, signal, sys, pathlib, json
import torch, lightning.pytorch, hydra, omegaconf, scipy.signal, soundfile, soxr, multiprocessing.pool
import concurrent.futures.process, multiprocessing.popen_spawn_posix, multiprocessing.resource_tracker, subprocess
import torch.multiprocessing, yaml, rich.console, matplotlib, tensorboard, torch.utils.tensorboard, importlib.metadata
for name in ("fastapi", "uvicorn", "optuna.storages.journal", "webdataset", "pesq", "torchaudio",
             "uvicorn.protocols.websockets.websockets_sansio_impl"):
    try:
        importlib.import_module(name)
    except Exception:
        pass
modules, of_os, of_signal = json.loads(sys.argv[1])
for name in modules:
    sys.modules[name] = None
if "statvfs" in of_os:  # Windows' own function needs none
    import shutil
    shutil.disk_usage = lambda folder: type("Usage", (), {"free": 10**10, "total": 10**11, "used": 0})()
for module, names in ((os, of_os), (signal, of_signal)):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""
EVERY = """
import bcfusion
failed = []
for found in pkgutil.walk_packages(bcfusion.__path__, "bcfusion."):
    if found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
    except (ImportError, AttributeError) as error:
        failed.append(f"{found.name}: {error!r}")
assert not failed, failed
"""


Names = tuple[str, ...]


def run_without(code: str, folder: Path, modules: Names, of_os: Names, of_signal: Names) -> str:

    names = json.dumps([modules, of_os, of_signal])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code, names],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


LACKS = {
    "macos": ((), ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "pipe2"), ()),
    "windows": (MODULES, OF_OS, OF_SIGNAL),
}


WORK = """
import numpy as np
from bcfusion import system, audio
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.data.preparation.journal import Journal
from bcfusion.doctor import limits, machine, storage
from bcfusion.evaluation.pool import Scorer
from bcfusion.files import appearing, in_use, remove_leftovers, write_text
from bcfusion.metrics.lsd import Lsd
from bcfusion.run.alive import claim, is_alive, unmark_alive
from bcfusion.run.layout import RunDir
from bcfusion.serving.folders import private_folder, remove_left

done = [system.cores() >= 1, system.own_user() is None or True]
with cleaning_up_when_ended(), appearing("a/b.txt", fsync=True) as part, in_use(part):
    part.write_text("x")
done.append(pathlib.Path("a/b.txt").read_text() == "x" and remove_leftovers(["a/b.txt"]) == [])
run = RunDir(pathlib.Path("run"))
done.append(claim(run) is None and is_alive(run))
unmark_alive(run)
with Journal(pathlib.Path("j"), {"a": 1}) as journal:
    journal.add([{"id": "x"}])
with private_folder() as folder:
    done.append(folder.is_dir())
done.append(not folder.exists())
remove_left()
for check in (machine.processor, machine.memory, machine.threads, machine.shared_memory, machine.open_files):
    done.append(len(list(check())) >= 1)
done.append(system.space(pathlib.Path(".")).free > 0 and bool(storage._user()))
audio.write("x.wav", np.zeros((1, 800), np.float32), 8000)
done.append(audio.info("x.wav").frames == 800)
sound = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
with Scorer({"lsd": Lsd()}, 16000, workers=0) as scorer:
    scorer.submit("x", {"enhanced": sound}, sound)
    done.append(len(scorer.collect().rows) == 1)
print(json.dumps([bool(each) for each in done]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", LACKS)
def test_every_module_is_imported_and_works_without_what_other_systems_lack(name: str, tmp_path: Path) -> None:

    assert set(json.loads(run_without(EVERY + WORK, tmp_path, *LACKS[name]))) == {True}


# ---------------------------------------------------------------- the module itself


def test_the_cores_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert system.cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.cores() == 1


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as mine, (tmp_path / "x").open("w") as theirs:
        system.lock(mine)
        with pytest.raises(BlockingIOError):
            system.lock(theirs)
        mine.close()
        system.lock(theirs, wait=True)


def test_where_there_are_no_locks_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "fcntl", None)
    with (tmp_path / "x").open("w") as mine, (tmp_path / "x").open("w") as theirs:
        system.lock(mine)
        system.lock(theirs, wait=True)


@pytest.mark.slow
def test_a_process_is_running_until_it_has_ended() -> None:
    assert system.is_running(os.getpid())
    assert system.is_running(1)  # of another user, as a rule
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        assert system.is_running(process.pid)
    finally:
        system.kill_group(process)
        process.wait(PATIENCE)
        assert process.stdin is not None
        process.stdin.close()
    assert not system.is_running(process.pid)
    assert not system.is_running(2**40)


def test_on_windows_a_process_is_looked_up_in_a_list_and_never_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """There ``os.kill`` with signal 0 ends a process, or sends Ctrl-C to it."""
    monkeypatch.setattr(system, "_WINDOWS", True)
    monkeypatch.setattr(system.os, "kill", lambda *_: pytest.fail("it is signalled"))
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "python.exe   4711 Console  1   9,000 K", "")

    monkeypatch.setattr(system.subprocess, "run", run)
    assert system.is_running(4711)
    assert not system.is_running(471)
    assert asked[0] == ["tasklist", "/NH", "/FI", "PID eq 4711"]
    assert system.open_folder(Path()) is None


def test_a_link_is_no_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    held = system.open_folder(tmp_path / "link")
    assert held is not None
    os.close(held)
    with pytest.raises(OSError, match="link"):
        system.open_folder(tmp_path / "link", follow=False)


def test_signals_are_late_and_not_lost() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        with system.held_back(signal.SIGTERM):
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # other threads would take it
            assert got == []
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("own", [False, True], ids=["of the system", "for windows"])
def test_a_part_of_a_file_is_read_wherever_the_file_stands(tmp_path: Path, own: bool) -> None:
    pread, preadv = (system._pread, system._preadv) if own else (os.pread, os.preadv)
    (tmp_path / "x").write_bytes(bytes(range(100)))
    with (tmp_path / "x").open("rb", buffering=0) as file:
        file.seek(7)
        assert pread(file.fileno(), 5, 90) == bytes(range(90, 95))
        assert pread(file.fileno(), 50, 90) == bytes(range(90, 100))
        assert pread(file.fileno(), 5, 200) == b""
        buffer = bytearray(4)
        assert preadv(file.fileno(), (memoryview(buffer),), 98) == 2
        assert bytes(buffer) == b"\x62\x63\0\0"
        assert file.tell() == 7


def test_the_memory_of_the_machine_is_not_known_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (system.memory() or 0) > 1e8
    monkeypatch.delattr(os, "sysconf")
    assert system.memory() is None


def test_the_space_of_a_disk_is_known_without_statvfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.space(tmp_path).free > 0
    monkeypatch.delattr(os, "statvfs")
    monkeypatch.setattr(system.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 7})())
    assert system.space(tmp_path) == (7, False)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_a_signal_that_another_thread_gets_waits_for_the_end_of_the_block() -> None:
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    reached = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            with system.held_back(signal.SIGINT, signal.SIGTERM):
                signal.pthread_kill(other.ident or 0, signal.SIGINT)
                for _ in range(20):
                    time.sleep(0.01)
                reached.append("end of the block")
            reached.append("after it")
    finally:
        signal.signal(signal.SIGINT, before)
        done.set()
        other.join()
    assert reached == ["end of the block"]
