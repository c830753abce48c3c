from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bcfusion.serving.folders import private_folder, remove_left

KILLED = """
import os, signal
from bcfusion.serving.folders import private_folder
with private_folder() as folder:
    (folder / "recording.wav").write_bytes(bytes(9))
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_what_a_killed_server_has_left_is_deleted_and_nothing_else(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(temporary))
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert (left / "recording.wav").exists(), killed.stderr
    (temporary / "kept").mkdir()
    (temporary / "kept" / "file").touch()
    (temporary / "bcfusion-serve-link").symlink_to(temporary / "kept")
    (temporary / "bcfusion-serve-file").touch()
    with private_folder() as mine:
        (mine / "recording.wav").touch()
        remove_left()
        assert (mine / "recording.wav").exists(), "its server lives"
        assert not left.exists()
    names = sorted(path.name for path in temporary.iterdir())
    assert names == ["bcfusion-serve-file", "bcfusion-serve-link", "kept"]
    assert (temporary / "kept" / "file").exists()


def test_a_folder_that_another_server_has_deleted_before_it_was_locked_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, usual = [], tempfile.mkdtemp

    def taken(prefix: str) -> str:
        made.append(usual(prefix=prefix))
        if len(made) == 1:
            remove_left()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with private_folder() as folder:
        assert str(folder) == made[1]
        assert folder.is_dir()
