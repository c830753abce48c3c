"""``bcfusion doctor``, as a user meets it: real processes, real exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from bcfusion.commands import doctor, exit_status
from bcfusion.doctor.checks import CHECKS
from bcfusion.doctor.examination import Examined
from bcfusion.doctor.finding import STATUSES, Check, Finding, fail, note, ok
from bcfusion.doctor.report import coloured, lines

ROOT = Path(__file__).resolve().parents[2]


def run(cwd: Path, *arguments: str, first: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, filter(None, [first, ROOT])))
    return subprocess.run(
        [sys.executable, "-P", "-m", "bcfusion", "doctor", *arguments],
        cwd=cwd,
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_here_nothing_is_wrong_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    for name in ("BCFUSION_CACHE", "MPLCONFIGDIR", "ORT_DISABLE_TELEMETRY", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    done = run(tmp_path, "--json", **own)
    report = json.loads(done.stdout)
    # a small machine may lack memory or space indeed
    faults = [each for each in report["findings"] if each["group"] not in ("Machine", "Storage")]
    assert [each for each in faults if each["status"] == "fail"] == []
    assert done.returncode == (1 if report["status"] == "fail" else 0)
    assert done.stderr == ""
    [compiled] = [each["text"] for each in report["findings"] if each["name"] == "compiled networks"]
    assert compiled.startswith("~/torchinductor_"), "the place of the user, not that of the doctor"
    assert list(tmp_path.rglob("*")) == []
    assert {each["check"] for each in report["findings"]} == {check.name for check in CHECKS}


@pytest.mark.slow
def test_it_works_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    torch = tmp_path / "first" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("raise ImportError('libtorch_global_deps.so: cannot open shared object file')")
    done = run(tmp_path, first=tmp_path / "first")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "\n  FAIL  torch  " in done.stdout
    assert "libtorch_global_deps.so" in done.stdout
    assert re.search(r"\n +→ .*pip install .*--force-reinstall 'torch", done.stdout)
    for name in ("torchaudio", "lightning", "GPU", "precision", "configuration", "shipped models", "stream"):
        assert re.search(rf"\n  note  {name} +skipped, because torch failed\n", done.stdout), name
    assert "\n  ok    sound files  " in done.stdout, "what needs no torch is looked at"
    assert done.stdout.endswith("notes\n")
    assert "\ntraining or streaming would fail: 1 problem above; " in done.stdout


@pytest.mark.slow
def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    """A batch system ends a job by SIGTERM, and a terminal that is closed by SIGHUP."""
    torch = tmp_path / "first" / "torch"
    torch.mkdir(parents=True)
    told = tmp_path / "told"
    (torch / "__init__.py").write_text(
        f"import os, time\nopen({os.fspath(told)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    os.mkfifo(told)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bcfusion", "doctor"],
        env={**os.environ, "PYTHONPATH": f"{torch.parent}{os.pathsep}{ROOT}"},
        stdout=subprocess.DEVNULL,
    )
    other = int(told.read_text())
    process.terminate()
    assert process.wait(120) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


def test_nobody_has_to_read_it(found: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Started with a closed output, as ``>&-`` does, a process has none."""
    found(ok("disk", "empty"))
    monkeypatch.setattr(sys, "stdout", None)
    assert exit_status(doctor.main, []) == 0


# ---------------------------------------------------------------- without other processes

CHECK = Check("disk", "Storage", lambda: [], purposes=("train",))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets what is found."""

    def set_to(*findings: Finding) -> None:
        def examine(checks: object, purposes: object = None) -> Generator[Examined]:
            yield Examined(CHECK, findings)

        monkeypatch.setattr(doctor, "examine", examine)

    return set_to


def test_a_problem_is_status_1_and_a_note_is_not(
    found: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    found(ok("disk", "empty"), note("card", "old", "buy one"))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out == (
        "Storage\n"
        "  ok    disk                empty\n"
        "  note  card                old\n"
        "                            → buy one\n"
        "\n"
        "training and streaming should work; 1 note\n"
    )
    found(note("sound cards", "no output"))
    assert doctor.main([]) == doctor.main(["--for", "train"]) == 0
    assert re.findall(r"work; 1 note(.*)", capsys.readouterr().out) == ["; no sound card: stream --file only", ""]
    found(fail("disk", "full", "delete"), note("card", "old"))
    assert doctor.main(["--for", "train"]) == 1
    assert capsys.readouterr().out.endswith("\ntraining would fail: 1 problem above; 1 note\n")
    found(fail("disk", "full", "delete"), fail("card", "gone", "look for it"))
    assert doctor.main([]) == 1
    assert capsys.readouterr().out.endswith("\ntraining or streaming would fail: 2 problems above\n")


def test_the_json_has_one_form(found: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    found(ok("disk", "empty"), fail("Größe", "full", "delete"))
    assert doctor.main(["--json"]) == 1
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report.keys() == {"bcfusion", "status", "findings"}
    assert report["status"] == "fail"
    first, second = report["findings"]
    assert first == {
        "group": "Storage",
        "check": "disk",
        "name": "disk",
        "status": "ok",
        "text": "empty",
        "remedy": "",
        "concerns": ["train"],
    }
    assert second["name"] == "Größe"
    assert {each["status"] for each in report["findings"]} <= set(STATUSES)


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured(True)
    assert not coloured(False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(True)
    examined = [Examined(CHECK, (ok("disk", "empty"), fail("card", "gone", "look for it")))]
    plain, in_colour = list(lines(examined, False)), list(lines(examined, True))
    assert "\x1b" not in "".join(plain)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in in_colour] == plain
    assert "\x1b[1;31mFAIL\x1b[0m" in in_colour[2]


def test_a_purpose_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--for", "fun"])
    assert ended.value.code == 2
    assert "invalid choice: 'fun'" in capsys.readouterr().err


def test_names_fit_into_their_column() -> None:
    from bcfusion.doctor.report import WIDTH

    assert max(len(check.name) for check in CHECKS) <= WIDTH
