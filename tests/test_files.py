from __future__ import annotations

from pathlib import Path

import pytest

from bcfusion.files import appearing, appearing_folder, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(file: Path) -> None:
    file.write_text("half")
    raise ZeroDivisionError


@pytest.mark.parametrize("fsync", [False, True])
def test_a_file_appears_when_it_is_complete_and_never_by_its_suffix_before(tmp_path: Path, fsync: bool) -> None:
    target = tmp_path / "new/scores.csv"
    with appearing(target, fsync=fsync) as part:
        part.write_text("whole")
        assert not target.exists()
        assert not list(target.parent.glob("*.csv"))
    assert target.read_text() == "whole"
    assert names(target.parent) == ["scores.csv"]


def test_a_failure_leaves_the_previous_file_and_no_other(tmp_path: Path) -> None:
    target = write_text(tmp_path / "a.txt", "first\r\n", newline="")
    with pytest.raises(ZeroDivisionError), appearing(target) as part:
        interrupted(part)
    assert target.read_bytes() == b"first\r\n"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_replaces_the_previous_one_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for content in ("first", "second"):
        with appearing_folder(target) as part:
            (part / content).touch()
    assert names(target) == ["second"]
    with pytest.raises(ZeroDivisionError), appearing_folder(target) as part:
        interrupted(part / "third")
    assert names(target) == ["second"]
    assert names(tmp_path) == ["bundle"]


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
    assert names(tmp_path) == ["corpus"]
