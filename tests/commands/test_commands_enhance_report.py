from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_commands_enhance import record, run, workplace

from bcfusion.commands.enhance_report import COLUMNS, ReportFile
from bcfusion.errors import AudioError, WriteError
from bcfusion.generators.bilstm_mapping import BiLSTMMapping
from bcfusion.run.bundle import save_bundle

__all__ = ["workplace"]  # a fixture that every test here uses


def rows(path: str) -> list[dict[str, Any]]:
    if path.endswith(".csv"):
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("batch", ["1", "4"])
def test_a_row_for_each_recording_with_what_was_done_to_it(batch: str) -> None:
    record("rec/a.wav")
    record("rec/b.wav", 0.75, rate=8000)
    record("rec/c.wav", channels=2)
    Path("rec/d.wav").write_bytes(b"no sound" * 99)
    assert run("model", "rec", "none.wav", "--strength", "1", "--report", "deep/r.jsonl", "--batch", batch) == 2
    found = {tuple(row["sources"]): row for row in rows("deep/r.jsonl")}
    assert all(set(row) == set(COLUMNS) for row in found.values())
    assert set(found) == {(name,) for name in ("rec/a.wav", "rec/b.wav", "rec/c.wav", "rec/d.wav", "none.wav")}
    b = found["rec/b.wav",]
    assert {name: b[name] for name in ("target", "seconds", "rate", "protection", "joined", "model", "error")} == {
        "target": "enhanced/rec/b.wav",
        "seconds": 0.1,
        "rate": 16000,
        "protection": "scale",
        "joined": "whole",
        "model": "model",
        "error": None,
    }
    assert b["overs"] > 1500
    assert b["gain"] == pytest.approx(1 / b["peak"], rel=1e-4)
    assert b["real_time_factor"] > 0
    assert (found["rec/a.wav",]["overs"], found["rec/a.wav",]["gain"]) == (0, 1)
    assert "has 2 channels" in found["rec/c.wav",]["error"]
    assert "rec/d.wav" in found["rec/d.wav",]["error"]
    assert "no such file" in found["none.wav",]["error"]


def test_a_report_is_continued_or_replaced() -> None:
    record("rec/a.wav")
    assert run("model", "rec", "--report", "r.csv", "--limit-db", "20") == 0
    with open("r.csv", "a", encoding="utf-8") as file:
        file.write("half a ro")  # of a machine that lost its power
    record("rec/b, c.wav")
    assert run("model", "rec", "--report", "r.csv") == 2  # a.wav exists
    assert [(row["sources"], row["strength"], row["status"]) for row in rows("r.csv")] == [
        ("rec/a.wav", "0.9", "restored"),
        ("rec/b, c.wav", "1.0", "restored"),
    ]
    assert run("model", "rec", "--report", "r.csv", "--overwrite") == 0
    assert [row["sources"] for row in rows("r.csv")] == ["rec/a.wav", "rec/b, c.wav"]


@pytest.mark.parametrize("report", ["r.jsonl", "r.csv"])
def test_what_exists_has_one_row_and_no_error(report: str) -> None:
    record("rec/a.wav")
    os.rename("rec/a.wav", b"rec/a, \n\xff.wav")
    record("rec/b.wav", channels=2)
    assert run("model", "rec") == 2
    for _ in range(3):
        assert run("model", "rec", "--report", report) == 2
    found = rows(report)
    (a,) = [row for row in found if "/a, " in row["target"]]
    others = [row for row in found if row is not a]
    assert (a["status"], a["error"] or None) == ("exists", None)
    assert [(row["status"], row["target"], "2 channels" in row["error"]) for row in others] == [
        ("failed", "enhanced/b.wav", True)
    ] * 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.jsonl", '{"body": "a.wav", "air": "b.wav"}\n{"body": "c.wav", "air": "d.wav"}'),
        ("pairs.jsonl", '{"body": "a.wav", "air": "b.wav"}'),
        ("pairs.jsonl", "{"),
        ("list.jsonl", '["sources"]\n'),
        ("pairs.csv", "sources,target\na.wav,b.wav"),
        ("pairs.csv", ",".join(COLUMNS) + "\na.wav,b.wav\n"),
        ("pairs.csv", "s"),
    ],
)
def test_another_file_that_looks_alike_is_left_alone(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    record("rec/a.wav")
    Path(name).write_text(text)
    assert run("model", "rec", "--report", name) == 2
    assert f"--report {name}: is no report of bcfusion enhance" in capsys.readouterr().err
    assert Path(name).read_text() == text
    assert not Path("enhanced").exists()


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_a_first_row_that_is_not_whole_is_cut_off(name: str) -> None:
    report = ReportFile(Path(name))
    report.add(sources=["a.wav"], target="b.wav", status="restored")
    report.close()
    present = Path(name).read_bytes()
    for size in (len(present) - 1, 20):
        os.truncate(name, size)
        report = ReportFile(Path(name))
        assert not report.holds("b.wav")
        report.add(sources=["a.wav"], target="b.wav", status="restored")
        assert report.holds("b.wav")
        report.close()
        assert Path(name).read_bytes() == present


def test_what_is_wrong_with_the_options_is_said_before_a_model_is_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for options, says in (
        (["--report", "x.txt"], "--report x.txt: the name must end in .jsonl or .csv"),
        (["--strength", "0.5", "--limit-db", "3"], "--strength 0.5 --limit-db 3: give either"),
    ):
        assert run("no_such_model", "rec", *options) == 2
        said = capsys.readouterr().err
        assert says in said
        assert "no_such_model" not in said


def test_what_is_no_report_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    record("rec/a.wav")
    Path("r.csv").write_text("my,own,table\n1,2,3\n")
    assert run("model", "rec", "--report", "r.csv") == 2
    assert "is no report of bcfusion enhance" in capsys.readouterr().err
    assert Path("r.csv").read_text() == "my,own,table\n1,2,3\n"
    with pytest.raises(AudioError, match=r"must end in \.jsonl or \.csv"):
        ReportFile(Path("r.txt"))
    with pytest.raises(WriteError, match=r"rec/a\.wav is a file"):
        ReportFile(Path("rec/a.wav/r.csv"))


def test_a_full_disk_leaves_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    report, write = ReportFile(Path("r.jsonl")), os.write
    report.add(sources=["a.wav"], seconds=1.0)

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:-20])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(WriteError, match=r"cannot write r\.jsonl: the disk is full"):
            report.add(sources=["b.wav"], remarks=["x" * 100])
    report.close()
    assert [row["sources"] for row in rows("r.jsonl")] == [["a.wav"]]


def test_networks_that_need_the_whole_file_say_when_it_was_cut(capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("a.wav", 0.1 * np.ones(16000), 16000)
    config = {"_target_": "bcfusion.generators.bilstm_mapping.BiLSTMMapping", "hidden_size": 4, "num_layers": 1}
    save_bundle(Path("lstm"), BiLSTMMapping(hidden_size=4, num_layers=1), config, ["body"], {})
    assert run("lstm", "a.wav", "--chunk", "0.5", "--report", "r.jsonl") == 0
    assert "1 file longer than a chunk of 0.5 s: the network needs the whole of a file" in capsys.readouterr().out
    assert rows("r.jsonl")[0]["joined"] == "cross-faded"
    assert run("lstm", "a.wav", "--overwrite") == 0
    assert "longer than a chunk" not in capsys.readouterr().out
