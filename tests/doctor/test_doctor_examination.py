"""The checks run apart: what crashes, hangs or raises costs its own answer; needs, purposes, and what is loaded."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bcfusion.doctor.answering import found_by
from bcfusion.doctor.checks import CHECKS
from bcfusion.doctor.examination import _Process, examine
from bcfusion.doctor.finding import FAIL, NOTE, OK, Check, Finding, fail, note, ok, worst
from bcfusion.doctor.remedies import MEMORY, reinstall

ROOT = Path(__file__).resolve().parents[2]


def healthy() -> Iterator[Finding]:
    print("what a library prints is no answer")
    yield ok("healthy", f"process {os.getpid()}")


def ill() -> Iterator[Finding]:
    yield fail("ill", "does not work", "mend it")


def partly() -> Iterator[Finding]:
    yield fail("partly", "too little", "add some", ("train",))


def illegal_instruction() -> Iterator[Finding]:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("about to use AVX-9000", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGILL)
    yield ok("illegal", "never said")


def gives_up() -> Iterator[Finding]:
    os._exit(3)
    yield ok("gives up", "never said")


def killed() -> Iterator[Finding]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield ok("killed", "never said")


def stuck() -> Iterator[Finding]:
    time.sleep(600)
    yield ok("stuck", "never said")


def mistaken() -> Iterator[Finding]:
    yield ok("mistaken", "half of it")
    raise KeyError("other half")


HEALTHY = Check("healthy", "First", healthy)
ILL = Check("ill", "First", ill, purposes=("stream",))
PARTLY = Check("partly", "First", partly)
AFTER = Check("after", "First", healthy, needs=("ill",))
LAST = Check("last", "First", healthy, needs=("after",))
ILLEGAL = Check("illegal", "First", illegal_instruction, packages=("numpy",))
GIVES_UP = Check("gives up", "First", gives_up)
KILLED = Check("killed", "First", killed, packages=("numpy",))
STUCK = Check("stuck", "First", stuck, repair="unplug it")
MISTAKEN = Check("mistaken", "First", mistaken)
TABLE = (HEALTHY, ILL, PARTLY, AFTER, LAST, ILLEGAL, GIVES_UP, KILLED, STUCK, MISTAKEN)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Finding, ...]]]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def examined(*checks: Check, **options: object) -> list[tuple[Finding, ...]]:
        found = examine(checks, table=f"{Path(__file__).stem}:TABLE", **options)  # type: ignore[arg-type]
        return [each.findings for each in found]

    return examined


@pytest.mark.slow
def test_a_check_that_ends_python_is_named_and_the_others_go_on(run: Callable[..., list[tuple[Finding, ...]]]) -> None:
    before, [crashed], [gone], after = run(HEALTHY, ILLEGAL, GIVES_UP, HEALTHY)
    assert crashed.status == gone.status == FAIL
    assert crashed.text == "crashes Python (SIGILL): about to use AVX-9000"
    assert crashed.remedy == reinstall("numpy")
    assert gone.text == "ends Python with status 3"
    assert [finding.status for finding in (*before, *after)] == [OK, OK]
    assert before != after, "another process"


@pytest.mark.slow
def test_a_check_that_hangs_is_given_up_and_its_process_ended(
    run: Callable[..., list[tuple[Finding, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is stuck alone has little time, whatever else the machine does."""
    patience = dict.fromkeys((HEALTHY.name,), 120.0) | {STUCK.name: 2.0}
    ask = _Process.ask
    monkeypatch.setattr(_Process, "ask", lambda self, check, _: ask(self, check, patience[check.name]))
    [first], [stuck], [last] = run(HEALTHY, STUCK, HEALTHY)
    assert (stuck.status, stuck.text, stuck.remedy) == (FAIL, "does not answer within 2 s", "unplug it")
    assert last.status == OK
    for finding in (first, last):
        with pytest.raises(ProcessLookupError):
            os.kill(int(finding.text.split()[-1]), 0)


@pytest.mark.slow
def test_a_process_that_the_kernel_kills_lacks_memory(run: Callable[..., list[tuple[Finding, ...]]]) -> None:
    [[killed]] = run(KILLED)
    assert (killed.text, killed.remedy) == ("crashes Python (SIGKILL)", MEMORY)


@pytest.mark.slow
def test_healthy_checks_share_a_process(run: Callable[..., list[tuple[Finding, ...]]]) -> None:
    first, second = run(HEALTHY, HEALTHY)
    assert first == second
    assert first[0].text != f"process {os.getpid()}"


@pytest.mark.slow
def test_what_needs_something_that_failed_is_not_tried(run: Callable[..., list[tuple[Finding, ...]]]) -> None:
    [_], [after], [last] = run(ILL, AFTER, LAST)
    assert (after.status, last.status) == (NOTE, NOTE)
    assert after.text == last.text == "skipped, because ill failed"


@pytest.mark.slow
def test_what_the_purpose_does_not_need_is_a_note(run: Callable[..., list[tuple[Finding, ...]]]) -> None:
    assert run(ILL, purposes=("train",)) == [(note("ill", "does not work", "mend it"),)]
    assert run(ILL, purposes=("stream",)) == [(fail("ill", "does not work", "mend it"),)]


@pytest.mark.slow
def test_a_finding_may_concern_less_than_its_check(run: Callable[..., list[tuple[Finding, ...]]]) -> None:
    assert [run(PARTLY, purposes=(purpose,))[0][0].status for purpose in ("train", "stream")] == [FAIL, NOTE]


@pytest.mark.slow
def test_it_needs_no_place_for_temporary_files(
    run: Callable[..., list[tuple[Finding, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    [healthy], [crashed] = run(HEALTHY, ILLEGAL)
    assert (healthy.status, crashed.text) == (OK, "crashes Python (SIGILL)")


def test_a_fault_of_a_check_is_no_fault_of_the_machine() -> None:
    first, second = found_by(MISTAKEN)
    assert first == ok("mistaken", "half of it")
    assert second.status == NOTE
    assert "KeyError" in second.text


def test_the_worst_counts() -> None:
    assert worst([]) == OK
    assert worst([ok("a", ""), note("b", "")]) == NOTE
    assert worst([fail("a", "", "x"), note("b", ""), ok("c", "")]) == FAIL


# ---------------------------------------------------------------- the table


def test_checks_need_only_earlier_ones_and_have_names_of_their_own() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for number, check in enumerate(CHECKS):
        assert set(check.needs) <= set(names[:number]), check.name
        assert check is CHECKS[0] or "working directory" in check.needs


def test_groups_are_not_interrupted() -> None:
    groups = [check.group for check in CHECKS]
    changes = [group for before, group in zip(["", *groups], groups, strict=False) if before != group]
    assert len(changes) == len(set(groups))


def test_whatever_imports_lightning_waits_until_it_is_known_not_to_be_compromised() -> None:
    needs = {check.name: check.needs for check in CHECKS}
    assert "releases" in needs["lightning"]
    assert "lightning" in needs["configuration"]


@pytest.mark.slow
def test_nothing_but_the_standard_library_is_loaded_before_a_check_looks() -> None:
    code = (
        "import sys, json, pkgutil, importlib\n"
        "before = set(sys.modules)\n"
        "import bcfusion.doctor, bcfusion.commands.doctor\n"
        "for module in pkgutil.iter_modules(bcfusion.doctor.__path__):\n"
        "    importlib.import_module(f'bcfusion.doctor.{module.name}')\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(names - set(sys.stdlib_module_names))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout) == ["bcfusion"]


@pytest.mark.slow
def test_no_check_loads_lightning_that_does_not_wait_for_it() -> None:
    """A compromised release is harmful as soon as it is imported."""
    code = (
        "import sys\n"
        "from bcfusion.doctor.checks import CHECKS\n"
        "for check in CHECKS:\n"
        "    if check.name not in ('lightning', 'configuration'):\n"
        "        list(check.look())\n"
        "assert 'torch' in sys.modules\n"
        "assert not {'lightning', 'pytorch_lightning'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
