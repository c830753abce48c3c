"""Atomic writes: a file or folder appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bcfusion.files import appearing, appearing_folder, remove_folder, remove_unfinished, write_text


def interrupted(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("interrupted")


@pytest.mark.parametrize("fsync", [False, True])
def test_a_file_appears_when_it_is_complete(tmp_path: Path, fsync: bool) -> None:
    path = tmp_path / "new" / "table.csv"
    with appearing(path, fsync=fsync) as part:
        part.write_text("complete")
        assert not path.exists()
    assert path.read_text() == "complete"
    assert os.listdir(path.parent) == ["table.csv"]


@pytest.mark.parametrize("fsync", [False, True])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, fsync: bool) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"), appearing(path, fsync=fsync) as part:
        interrupted(part)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_replacement_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(OSError, match=r"table\.csv"), appearing(tmp_path / "table.csv") as part:
        part.write_text("new")
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_search_for_the_suffix_never_finds_an_unfinished_file(tmp_path: Path) -> None:
    with appearing(tmp_path / "last.ckpt") as part:
        part.write_text("half")
        assert list(tmp_path.glob("*.ckpt")) == []
        assert part.parent == tmp_path  # on the same disk, so that it can be renamed


def test_line_ends_are_kept_on_request(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.csv", "a\r\nb\n", newline="") == tmp_path / "a.csv"
    assert (tmp_path / "a.csv").read_bytes() == b"a\r\nb\n"


def filled(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(text)
    return folder


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    bundle = filled(tmp_path / "bundle", "old")
    (bundle / "leftover").touch()
    with appearing_folder(bundle) as part:
        filled(part, "new")
        assert (bundle / "weights").read_text() == "old"
    assert os.listdir(tmp_path) == ["bundle"]
    assert os.listdir(bundle) == ["weights"]
    assert (bundle / "weights").read_text() == "new"


def test_a_folder_that_is_not_completed_leaves_the_old_one(tmp_path: Path) -> None:
    bundle = filled(tmp_path / "bundle", "old")
    with pytest.raises(RuntimeError, match="interrupted"), appearing_folder(bundle) as part:
        interrupted(part / "weights")
    assert os.listdir(tmp_path) == ["bundle"]
    assert (bundle / "weights").read_text() == "old"


def test_a_replacement_of_a_folder_that_fails_restores_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = filled(tmp_path / "bundle", "old")
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".part"):
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr("bcfusion.files.os.replace", failing)
    with pytest.raises(OSError, match="no space left"), appearing_folder(bundle) as part:
        filled(part, "new")
    assert os.listdir(tmp_path) == ["bundle"]
    assert (bundle / "weights").read_text() == "old"


@pytest.mark.parametrize(("complete", "kept"), [(True, "theirs"), (False, "ours")])
def test_a_complete_folder_that_another_process_made_meanwhile_is_not_moved(
    tmp_path: Path, complete: bool, kept: str
) -> None:
    target = tmp_path / "corpus"
    with appearing_folder(target, keep=lambda folder: (folder / "index").exists()) as part:
        (part / "ours").touch()
        target.mkdir()
        (target / ("index" if complete else "damaged")).touch()
        (target / "theirs").touch()
        before = target.stat().st_ino
    assert (target / kept).exists()
    assert (target.stat().st_ino == before) == complete
    assert os.listdir(tmp_path) == ["corpus"]


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    inner = tmp_path / "checkpoints"
    kept = [tmp_path / "metrics.csv", inner / "last.ckpt", tmp_path / ".hydra", tmp_path / ".a.part", inner / "x.old"]
    left = [inner / ".last.ckpt.0123abcd.part", tmp_path / ".metrics.csv.89abcdef.part"]
    folders = [tmp_path / ".bundle.00000000.part", tmp_path / ".bundle.11111111.old"]
    deeper = tmp_path / "evaluation" / ".scores.csv.22222222.part"  # another process may write it
    for path in (*kept, *left, deeper):
        write_text(path, "text")
    for folder in folders:
        filled(folder, "half")
    found = remove_unfinished([tmp_path, inner, tmp_path / "missing"])
    assert sorted(found) == sorted([*left, *folders])
    assert all(path.exists() for path in (*kept, deeper))
    assert not any(path.exists() for path in (*left, *folders))
    assert remove_unfinished([tmp_path, inner]) == []


def test_a_folder_is_deleted_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_folder(tmp_path / "missing")
    filled(tmp_path / "bundle", "old")
    seen: list[list[str]] = []
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: seen.append(os.listdir(tmp_path)))  # as if killed before it
    remove_folder(tmp_path / "bundle")
    assert "bundle" not in seen[0]
    monkeypatch.undo()
    assert len(remove_unfinished([tmp_path])) == 1
    assert os.listdir(tmp_path) == []
