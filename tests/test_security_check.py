"""scripts/security_check.py: what fails, what is reported, and what is said where a service is not reachable."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from script_loading import load_script

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("security_check")
    monkeypatch.setattr(script.shutil, "which", lambda name: f"/bin/{name}")
    return script


def answer(monkeypatch: pytest.MonkeyPatch, script: ModuleType, stdout: str, code: int = 0) -> None:
    done = subprocess.CompletedProcess([], code, stdout, "")
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: done)


def test_a_finding_in_the_source_fails(monkeypatch: pytest.MonkeyPatch, script: ModuleType, capsys: Any) -> None:
    answer(monkeypatch, script, ">> Issue: [B301:blacklist]", 1)
    assert script.findings() == [">> Issue: [B301:blacklist]"]
    assert script.main() == 1
    answer(monkeypatch, script, "{}")
    assert script.main() == 0
    assert "bandit: nothing of medium severity" in capsys.readouterr().out


def test_without_bandit_nothing_passes(monkeypatch: pytest.MonkeyPatch, script: ModuleType) -> None:
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    assert script.findings() == ["bandit is not installed: pip install bandit"]
    assert script.known_weaknesses() == ["pip-audit: not installed, no package is looked up"]


@pytest.mark.parametrize("stdout", ["", "no network", "[]", "{}", '{"dependencies": []}'])
def test_a_service_that_does_not_answer_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, script: ModuleType, stdout: str
) -> None:
    answer(monkeypatch, script, stdout)
    assert script.known_weaknesses() == ["pip-audit: its service gives no answer, no package is looked up"]
    assert script.main() == 0


def test_a_tool_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, script: ModuleType) -> None:
    def hang(*_: Any, **given: Any) -> None:
        raise subprocess.TimeoutExpired("tool", given["timeout"])

    monkeypatch.setattr(script.subprocess, "run", hang)
    assert script.findings() == ["bandit takes longer than 600 s"]
    assert "no answer" in script.known_weaknesses()[0]


def test_known_weaknesses_are_counted_and_fail_nothing(monkeypatch: pytest.MonkeyPatch, script: ModuleType) -> None:
    packages = [
        {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}, {"id": "CVE-2"}]},
        {"name": "b", "version": "1", "vulns": []},
        {"name": "c", "skip_reason": "not found"},
    ]
    answer(monkeypatch, script, json.dumps({"dependencies": packages}), 1)
    assert script.known_weaknesses() == [
        "pip-audit: a 1: CVE-1, fixed in 2",
        "pip-audit: a 1: CVE-2",
        "pip-audit: 2 of 3 packages looked up, 2 known weaknesses",
    ]


def test_every_exception_for_bandit_names_the_finding_and_the_reason() -> None:
    lines = [
        line
        for folder in ("bcfusion", "scripts")
        for file in (ROOT / folder).rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "nosec" in line and "``" not in line
    ]
    assert lines
    assert [line for line in lines if not re.search(r"# nosec B\d{3} # \S", line)] == []
