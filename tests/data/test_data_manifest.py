from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from bcfusion.contracts import Row
from bcfusion.data.manifest import read_manifest, write_manifest
from bcfusion.errors import DataError


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def row(folder: Path, name: str, **more: object) -> Row:
    return Row(
        id=name,
        paths={"air": str(folder / "air" / f"{name}.wav"), "throat": "/elsewhere/t.flac"},
        speaker="s1",
        split="valid",
        sample_rate=16000,
        duration=1.25,
        offset=0.5,
        lag=-0.0014,
        polarity=-1,
        extra=dict(more),
    )


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_survive_writing_and_reading(tmp_path: Path, suffix: str) -> None:
    rows = [row(tmp_path, "a", text="ça, «va»"), row(tmp_path, "b")]
    write_manifest(tmp_path / f"m.{suffix}", rows)
    entries = read_manifest(tmp_path / f"m.{suffix}")
    assert [entry.row(entry.duration or 0, entry.sample_rate or 0) for entry in entries] == rows


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_manifest_can_be_moved_with_its_files(tmp_path: Path, suffix: str) -> None:
    write_manifest(tmp_path / f"m.{suffix}", [row(tmp_path, "a")])
    moved = tmp_path / "other"
    moved.mkdir()
    (tmp_path / f"m.{suffix}").rename(moved / f"m.{suffix}")
    [entry] = read_manifest(moved / f"m.{suffix}")
    assert entry.paths == {"air": str(moved / "air/a.wav"), "throat": "/elsewhere/t.flac"}


def test_columns_of_audio_files_are_sensors_and_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    with path.open("w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["air", "split", "noisy", "licence", "body", "offset"])
        table.writerow(["x/a.wav", "train", "x/n.OGG", "CC0", "", "2"])
    [entry] = read_manifest(path)
    assert entry.paths == {"air": str(tmp_path / "x/a.wav"), "noisy": str(tmp_path / "x/n.OGG")}
    assert entry.extra == {"licence": "CC0"}
    assert (entry.id, entry.speaker, entry.offset, entry.lag, entry.polarity) == ("x/a@2", "unknown", 2.0, 0.0, 1)
    assert (entry.duration, entry.sample_rate) == (None, None)


def test_paths_may_be_one_object(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", {"paths": {"air": "a.wav", "body": "b.wav"}, "split": "test", "id": "u"})
    assert read_manifest(path)[0].paths == {"air": str(tmp_path / "a.wav"), "body": str(tmp_path / "b.wav")}


def test_all_problems_are_told_at_once_by_line(tmp_path: Path) -> None:
    good = {"air": "a.wav", "split": "train"}
    path = write_lines(
        tmp_path / "m.jsonl",
        good,
        "{broken",
        {"split": "dev"},
        {**good, "id": "x", "duration": -1, "polarity": 0, "lag": "soon"},
        "",
        good,
        {"air": "/absolute/a.wav", "split": "test"},
        [1],
        {"paths": ["a.wav"], "split": "test"},
    )
    with pytest.raises(DataError) as error:
        read_manifest(path)
    lines = str(error.value).splitlines()
    assert "10 problem(s)" in lines[0]
    expected = [
        ("line 2", "not JSON"),
        ("line 3", "air: missing"),
        ("line 3", "split: 'dev'"),
        ("line 4", "lag: 'soon'"),
        ("line 4", "duration: -1"),
        ("line 4", "polarity: 0"),
        ("line 6", "that of line 1"),
        ("line 7", "absolute"),
        ("line 8", "not an object"),
        ("line 9", "paths"),
    ]
    assert len(lines) == len(expected) + 1
    for line, (place, problem) in zip(lines[1:], expected, strict=True):
        assert line.startswith(place)
        assert problem in line


def test_of_many_problems_ten_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", *[{"air": f"{i}.wav", "split": "?"} for i in range(25)])
    with pytest.raises(DataError) as error:
        read_manifest(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "and 15 more"


def test_a_csv_line_with_too_many_cells_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("air,split\na.wav,train,oops\n")
    with pytest.raises(DataError, match="line 2: 1 cell"):
        read_manifest(tmp_path / "m.csv")


def test_a_manifest_that_is_missing_empty_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00air")
    for name in ("missing.jsonl", "empty.jsonl", "bytes.csv", "m.xlsx"):
        with pytest.raises(DataError, match=name):
            read_manifest(tmp_path / name)
    with pytest.raises(DataError, match=r"\.jsonl or \.csv"):
        write_manifest(tmp_path / "m.txt", [])
