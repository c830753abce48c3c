"""Folders that are full, missing or not one's own, caches, and a token that nobody may see."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bcfusion.doctor import installation, storage
from bcfusion.doctor.finding import FAIL, NOTE, OK, Finding

GB = 10**9
SECRET = "hf_" + "s3cret" * 5


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("XDG_CACHE_HOME", "HF_HUB_CACHE", "TORCH_HOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BCFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))


def disk(monkeypatch: pytest.MonkeyPatch, free: float, files: int = 1000) -> None:
    state = SimpleNamespace(f_bavail=int(free * GB) // 4096, f_frsize=4096, f_files=10_000, f_favail=files)
    monkeypatch.setattr(storage.os, "statvfs", lambda _: state)


@pytest.mark.parametrize("check", [storage.runs, storage.cache])
@pytest.mark.parametrize(("free", "status"), [(0.2, FAIL), (3, NOTE), (50, OK)])
def test_a_disk_without_space(check: object, free: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, free)
    [found] = check()  # type: ignore[operator]
    assert found.status == status
    assert ("another disk" in found.remedy) == (status != OK)


def test_a_disk_that_can_hold_no_more_files(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 50, files=0)
    [found] = storage.runs()
    assert (found.status, found.text.partition(", but ")[2]) == (FAIL, "the disk can hold no more files")


def test_nothing_is_left_where_it_is_tried_to_write(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    findings = [*storage.runs(), *storage.cache(), *storage.temporary(), *storage.library_caches()]
    assert FAIL not in {finding.status for finding in findings}
    assert sorted(tmp_path.rglob("*")) == before


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(**_: object) -> Iterator[None]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, number)
    [found] = storage.runs()
    assert found.status == FAIL
    assert found.text.endswith(f"cannot be written to: {os.strerror(number).lower()}")
    assert "output_root=FOLDER" in found.remedy
    [found] = storage.cache()
    assert (found.status, found.remedy) == (FAIL, "export BCFUSION_CACHE=FOLDER")
    assert {finding.status for finding in storage.library_caches()} == {NOTE}, "not every run needs them"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "work").chmod(0o555)
    [found] = storage.runs()
    (tmp_path / "work").chmod(0o755)
    assert (found.status, found.text.endswith("permission denied")) == (FAIL, True)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "work" / "runs").write_text("")
    [found] = storage.runs()
    assert (found.status, found.text.endswith("is a file")) == (FAIL, True)


def test_a_working_directory_that_was_deleted(tmp_path: Path) -> None:
    (tmp_path / "work").rmdir()
    [found] = installation.working_directory()
    os.chdir(tmp_path)
    assert (found.status, found.remedy) == (FAIL, "cd to a folder that exists")


def test_a_link_to_nothing_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "runs").symlink_to(tmp_path / "unmounted")
    [found] = storage.runs()
    assert (found.status, found.text.endswith("/runs is a link to nothing")) == (FAIL, True)
    monkeypatch.setenv("BCFUSION_CACHE", str(tmp_path / "work" / "runs" / "below"))
    assert [finding.status for finding in storage.cache()] == [FAIL]


def test_a_cache_that_has_the_demo_corpus_may_be_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / "cache" / "demo_16000_0123"
    corpus.mkdir(parents=True)
    (corpus / "index.json").write_text("[]")
    refusing(monkeypatch, errno.EROFS)
    assert [finding.status for finding in storage.cache()] == [NOTE]


def test_a_cache_that_takes_long_to_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MEASURED", -1.0)
    assert storage._used(tmp_path) == "not measured"


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    [found] = storage.temporary()
    assert (found.status, found.remedy) == (FAIL, "export TMPDIR=FOLDER")


def test_runs_go_where_the_configuration_says() -> None:
    [found] = storage.runs()
    assert found.text.startswith(f"{Path.cwd()}/runs, ")


def by_name() -> dict[str, Finding]:
    return {finding.name: finding for finding in storage.library_caches()}


def test_caches_are_found_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub" / "hub" / "blobs").mkdir(parents=True)
    (tmp_path / "hub" / "hub" / "blobs" / "weights").write_bytes(bytes(3_000_000))
    (tmp_path / "hub" / "hub" / "link").symlink_to(tmp_path)  # into itself
    assert by_name()["hub cache"].text == f"{tmp_path}/hub/hub, 3.0 MB in it"
    assert by_name()["compiled networks"].text == f"{tmp_path}/compiled, empty"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert by_name()["hub cache"].text == f"{tmp_path}/elsewhere, empty"
    monkeypatch.setattr(storage, "COUNTED", 1)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub" / "hub" / "blobs"))
    assert "more than 3.0 MB" in by_name()["hub cache"].text


@pytest.mark.slow
def test_the_places_of_caches_are_those_of_their_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process without any of the variables, so that the libraries choose themselves."""
    pytest.importorskip("huggingface_hub")
    code = (
        "import torch.hub; from torch._inductor.runtime.cache_dir_utils import cache_dir\n"
        "from huggingface_hub.constants import HF_HUB_CACHE\n"
        "print(HF_HUB_CACHE, torch.hub.get_dir(), cache_dir(), sep='\\n')"
    )
    for name in ("HF_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    ours = [finding.text.rpartition(", ")[0].replace("~", str(tmp_path)) for finding in storage.library_caches()]
    assert ours == done.stdout.split()


# ---------------------------------------------------------------- the token


def test_a_token_is_found_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [without] = storage.token()
    assert (without.status, without.text[:5]) == (OK, "none:")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text(SECRET)
    [in_file] = storage.token()
    assert in_file.text == f"present, in {tmp_path}/hub/token"
    monkeypatch.setenv("HF_TOKEN", SECRET)
    [in_variable] = storage.token()
    assert in_variable.text == "present, in HF_TOKEN"
    assert SECRET not in repr((in_file, in_variable))
