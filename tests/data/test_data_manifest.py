from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcfusion import audio
from bcfusion.contracts import Row
from bcfusion.data.corpora.listing import ManifestCorpus
from bcfusion.data.corpora.manifest import read_manifest, write_manifest
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
        channels={"throat": 1},
        gain=-3.5,
        bandwidth=7900.0,
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
    files = {"air": "a.wav", "body": "b.wav"}
    for record in ({"paths": files}, {"paths": {"body": "b.wav"}, "air": "a.wav"}):
        path = write_lines(tmp_path / "m.jsonl", {**record, "split": "test", "id": "u"})
        assert read_manifest(path)[0].paths == {name: str(tmp_path / file) for name, file in files.items()}


def test_all_problems_are_reported_at_once_by_line(tmp_path: Path) -> None:
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
        ("line 4", "duration: -1"),
        ("line 4", "lag: 'soon'"),
        ("line 4", "polarity: 0"),
        ("line 6", "the id of line 1"),
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


@pytest.mark.parametrize(
    "content",
    [
        "air,split,,\na.wav,test,,\nb.wav,test,,\n",
        "air,split\na.wav,test,,\nb.wav,test\n,\n",
        "air,split\r\na.wav,test\r\n\r\nb.wav,test\r\n,\r\n",
        "air,split, ,\na.wav,test, ,\nb.wav,test\n , ,,\n",
        "air,,split\na.wav,,test\nb.wav,,test\n",
    ],
)
def test_empty_cells_and_lines_of_spreadsheets_mean_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.csv").write_text(content, newline="")
    assert [(entry.id, entry.split) for entry in read_manifest(tmp_path / "m.csv")] == [("a", "test"), ("b", "test")]


def test_a_cell_below_no_name_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("air,,split\na.wav,oops,train\n")
    with pytest.raises(DataError, match="line 2: 'oops' is in a column without a name"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_text_that_ends_like_a_file_is_no_sensor_and_a_mistyped_file_no_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    rows = [row(tmp_path, name, text="open test.wav", note="hm") for name in "abc"]
    write_manifest(path, rows)
    path.write_text(path.read_text().replace("hm", "like a.wav", 1))
    entries = read_manifest(path)
    assert [sorted(entry.paths) for entry in entries] == [["air", "throat"]] * 3
    assert [entry.extra["text"] for entry in entries] == ["open test.wav"] * 3
    assert [entry.extra["note"] for entry in entries] == ["like a.wav", "hm", "hm"]
    path.write_text(path.read_text().replace("/elsewhere/t.flac", "/elsewhere/t.flaq", 1))
    with pytest.raises(DataError, match=r"throat: '/elsewhere/t.flaq' is not the name of a sound file"):
        read_manifest(path)


def test_a_name_that_is_not_utf8_is_kept_in_jsonl_and_refused_in_csv(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    file = sound(tmp_path / f"{name}.wav")
    one = replace(row(tmp_path, "a"), paths={"air": str(file)}, channels={})
    write_manifest(tmp_path / "m.jsonl", [one])
    assert os.path.isfile(read_manifest(tmp_path / "m.jsonl")[0].paths["air"])
    (tmp_path / "m.jsonl").write_text(json.dumps({"air": f"{name}.wav", "split": "test"}))
    assert read_manifest(tmp_path / "m.jsonl")[0].id == r"caf\udce9"  # can be printed and written
    with pytest.raises(DataError, match=r"is not UTF-8; rename the file, or write a \.jsonl"):
        write_manifest(tmp_path / "m.csv", [one])
    assert not (tmp_path / "m.csv").exists()


def test_a_manifest_that_is_missing_empty_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00air")
    for name in ("missing.jsonl", "empty.jsonl", "bytes.csv", "m.xlsx"):
        with pytest.raises(DataError, match=name):
            read_manifest(tmp_path / name)
    with pytest.raises(DataError, match=r"\.jsonl or \.csv"):
        write_manifest(tmp_path / "m.txt", [])


def test_what_is_not_measured_is_not_written(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Row("a", {"air": "/a.wav"}, "s", "train", 16000, 1.0)])
    assert set(json.loads((tmp_path / "m.jsonl").read_text())) == {
        *("id", "split", "speaker", "air", "offset", "duration", "lag", "polarity", "gain", "sample_rate")
    }


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_sensors_may_be_channels_of_one_file(tmp_path: Path, suffix: str) -> None:
    one = Row(
        "a",
        dict.fromkeys(("air", "body"), str(tmp_path / "s.wav")),
        "s",
        "train",
        16000,
        1.0,
        channels={"air": 1, "body": 0},
    )
    other = Row("b", {"air": str(tmp_path / "m.wav")}, "s", "train", 16000, 1.0)
    write_manifest(tmp_path / f"m.{suffix}", [one, other])
    first, second = read_manifest(tmp_path / f"m.{suffix}")
    assert (first.channels, first.extra, second.channels) == ({"air": 1, "body": 0}, {}, {})


def test_a_channel_of_no_sensor_is_a_column_like_others(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", {"air": "a.wav", "split": "train", "mixer_channel": 3})
    assert read_manifest(path)[0].extra == {"mixer_channel": 3}


def test_a_manifest_of_noise_needs_noise_and_no_air(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", {"noise": "wind.flac", "split": "train"})
    [entry] = read_manifest(path, needed="noise")
    assert (entry.id, entry.paths) == ("wind", {"noise": str(tmp_path / "wind.flac")})
    with pytest.raises(DataError, match="no column 'air'; its columns: 'noise', 'split'"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"gain": 400}, "gain: 400 dB exceeds 120 dB"),
        ({"gain": "loud"}, "gain: 'loud' is not a number"),
        ({"gain": True}, "gain: True is not a number"),
        ({"duration": "NaN"}, "duration: 'NaN' is not a number"),
        ({"bandwidth": -1}, "bandwidth: -1 Hz is negative"),
        ({"air_channel": -1}, "air_channel: -1 is not the number of a channel"),
        ({"air_channel": 0.5}, "air_channel: 0.5 is not the number of a channel"),
        ({"air_channel": "left"}, "air_channel: 'left' is not the number of a channel"),
        ({"speaker": ["a", "b"]}, "speaker: ['a', 'b'] is neither text nor a number"),
        ({"id": {"n": 1}}, "id: {'n': 1} is neither text nor a number"),
        ({"air": 5}, "air: 5 is not the name of a file"),
        ({"air": " "}, "air: ' ' is not the name of a file"),
        ({"body": ["b.wav"]}, "body: ['b.wav'] is not the name of a file"),
        ({"paths": {"air": ""}}, "air: '' is not the name of a file"),
    ],
)
def test_values_of_the_wrong_type_are_reported(tmp_path: Path, wrong: dict[str, object], problem: str) -> None:
    path = write_lines(tmp_path / "m.jsonl", {"air": "a.wav", "split": "train", "id": "x", **wrong})
    with pytest.raises(DataError) as error:
        read_manifest(path)
    [line] = str(error.value).splitlines()[1:]
    assert line.startswith(f"line 1: {problem}")


def test_numbers_serve_as_names(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", {"air": "a.wav", "split": "train", "id": 7, "speaker": 103})
    [entry] = read_manifest(path)
    assert (entry.id, entry.speaker) == ("7", "103")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_column_that_is_missing_everywhere_is_reported_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    if suffix == "csv":
        path.write_text("file,speaker\n" + "a.wav,s\n" * 5000)
    else:
        path.write_text(json.dumps({"file": "a.wav", "speaker": "s"}) + "\n" + '{"file": "b.wav"}\n' * 5000)
    with pytest.raises(DataError) as error:
        read_manifest(path)
    assert (
        str(error.value) == f"manifest {path} has no column 'air' and no column 'split'; its columns: 'file', 'speaker'"
    )


def test_a_header_that_names_a_column_twice_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("air,split,air\na.wav,train,b.wav\n")
    with pytest.raises(DataError, match="line 1: the header names 'air' twice"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("extra", [{"lag": 1}, {"source": "original.WAV"}, {"paths": "x"}])
def test_other_columns_that_would_be_read_as_something_else_are_not_written(
    tmp_path: Path, extra: dict[str, object]
) -> None:
    with pytest.raises(DataError, match=r"the extra column .* would be read as something else"):
        write_manifest(tmp_path / "m.jsonl", [row(tmp_path, "a", **extra)])
    assert not (tmp_path / "m.jsonl").exists()


# ---------------------------------------------------------------- a manifest against its files


def sound(path: Path, channels: int = 1) -> Path:
    audio.write(path, np.zeros((channels, 800)), 8000)
    return path


def test_relative_paths_start_at_the_manifest_whatever_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(tmp_path / "corpus/wav/a.wav")
    elsewhere = sound(tmp_path / "elsewhere/b.wav")
    (tmp_path / "corpus/m.csv").write_text(f"air,split,id\nwav/a.wav,train,a\n{elsewhere},train,b\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    rows = ManifestCorpus(str(tmp_path / "corpus/m.csv")).rows("train")
    assert [row.paths["air"] for row in rows] == [str(tmp_path / "corpus/wav/a.wav"), str(elsewhere)]
    monkeypatch.chdir(tmp_path / "corpus")
    assert [row.duration for row in ManifestCorpus("m.csv").rows("train")] == [0.1, 0.1]


def test_channels_of_a_manifest_are_checked_against_the_files(tmp_path: Path) -> None:
    sound(tmp_path / "s.wav", channels=2)
    good = {"air": "s.wav", "air_channel": 1, "split": "train"}
    [found] = ManifestCorpus(str(write_lines(tmp_path / "m.jsonl", good))).rows("train")
    assert found.channels == {"air": 1}
    path = write_lines(
        tmp_path / "m.jsonl",
        {**good, "id": "a"},
        {"air": "s.wav", "split": "train", "id": "b"},
        {**good, "air_channel": 2, "id": "c"},
    )
    with pytest.raises(DataError) as error:
        ManifestCorpus(str(path)).rows("train")
    lines = str(error.value).splitlines()
    assert "2 problem(s)" in lines[0]
    assert lines[1].endswith("s.wav has 2 channels: name one in the column air_channel, from 0")
    assert lines[2].endswith("s.wav has 2 channel(s), but air_channel is 2, counted from 0")


def test_thousands_of_missing_files_of_a_manifest_are_one_message(tmp_path: Path) -> None:
    records = [{"air": f"wav/{number}.wav", "split": "train"} for number in range(3000)]
    with pytest.raises(DataError) as error:
        ManifestCorpus(str(write_lines(tmp_path / "m.jsonl", *records))).rows("train")
    message = str(error.value)
    assert len(message.splitlines()) <= 3
    assert "3000 of 3000 files are unreadable" in message
    assert f"wav/0.wav does not exist; {tmp_path} is the last folder on the way that exists" in message
    assert message.endswith("and 2997 more")


def test_speakers_in_two_splits_of_a_manifest_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound(tmp_path / "a.wav")
    lines = [
        {"air": "a.wav", "split": split, "speaker": speaker, "id": f"{split} {speaker}"}
        for split, speaker in (
            ("train", "p1"),
            ("test", "p1"),
            ("valid", "p2"),
            ("train", "unknown"),
            ("test", "unknown"),
        )
    ]
    ManifestCorpus(str(write_lines(tmp_path / "m.jsonl", *lines))).rows("train")
    assert "1 speaker(s) are in several splits (p1 in test and train)" in caplog.text
