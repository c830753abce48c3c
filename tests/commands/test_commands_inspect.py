from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from bcfusion import cli
from bcfusion.commands.inspect_manifest import FOUND
from bcfusion.errors import WriteError

RATE = 16000


@pytest.fixture
def pairs(tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two takes with an inverted, late sensor, which the manifest does not mention."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    lines = []
    for place, file in enumerate(sorted(speech.rglob("*.flac"))[:2]):
        air = soundfile.read(file)[0]
        body = -signal.sosfilt(signal.butter(2, 900, fs=RATE, output="sos"), air)
        soundfile.write(tmp_path / f"{place}.body.wav", body[:-32], RATE)
        soundfile.write(tmp_path / f"{place}.air.wav", air[32:], RATE)
        lines.append({"id": f"take{place}", "air": f"{place}.air.wav", "body": f"{place}.body.wav", "split": "test"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_problems_come_with_advice_and_are_gone_once_fixed(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "pairs.jsonl"]) == FOUND == 1
    shown = capsys.readouterr().out
    assert "polarity of body is not the manifest's" in shown
    assert "2 of 2" in shown
    assert "bcfusion inspect pairs.jsonl --fix" in shown
    assert "body: lag +2.0" in shown
    assert "inverted in 2 of 2 lines" in shown
    assert shown.index("error") < shown.index("median of")
    before = pairs.read_text()

    assert cli.main(["inspect", "pairs.jsonl", "--fix", "--html", "out/page.html"]) == 0
    shown = capsys.readouterr().out
    assert "and lag and polarity of 2" in shown
    assert "nothing is wrong" in shown
    assert pairs.read_text() != before
    assert cli.main(["inspect", "pairs.jsonl"]) == 0


@pytest.mark.slow
def test_the_page_is_next_to_the_manifest_and_needs_no_network(pairs: Path) -> None:
    cli.main(["inspect", "pairs.jsonl"])
    page = (pairs.parent / "pairs.inspect.html").read_text(encoding="utf-8")
    assert "polarity of body" in page
    assert "http" not in page
    assert page.count("data:image/png;base64,") >= 6


@pytest.mark.slow
def test_numbers_of_each_file(pairs: Path) -> None:
    with pairs.open("a") as text:
        text.write(json.dumps({"id": "gone", "air": "gone.wav", "split": "test"}) + "\n")
    assert cli.main(["inspect", "pairs.jsonl", "--csv", "numbers.csv"]) == FOUND
    with open("numbers.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["id"] for row in rows] == ["take0", "take1", "gone"]
    assert float(rows[0]["lag_ms"]) == pytest.approx(2.0, abs=0.2)
    assert rows[0]["polarity"] == "-1"
    assert float(rows[1]["air_bandwidth_hz"]) > float(rows[1]["body_bandwidth_hz"])
    assert rows[2]["problem"].startswith("unreadable: ")
    assert rows[2]["air_level_dbfs"] == ""


@pytest.mark.slow
def test_names_of_files_are_not_folded(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "_".join(["session_of_november"] * 6)
    pairs.write_text(pairs.read_text().replace("take0", name))
    assert cli.main(["inspect", "pairs.jsonl"]) == FOUND
    assert f"{name}: +1, measured -1" in capsys.readouterr().out
    page = (pairs.parent / "pairs.inspect.html").read_text(encoding="utf-8")
    assert f"{name}: +1, measured -1" in page.replace("<wbr>", "")
    assert "<details>" not in page


def test_thousands_of_missing_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps({"air": f"{n}.wav", "split": "train"}) + "\n" for n in range(3000)))
    assert cli.main(["inspect", str(path), "--workers", "1"]) == FOUND
    shown = capsys.readouterr().out
    assert "3000 of 3000" in shown
    assert len(shown.splitlines()) < 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.jsonl"], "/gone.jsonl: it does not exist"),
        (["folder.jsonl"], "a folder; inspect reads a manifest"),
        (["empty.jsonl"], "holds no utterance: each is a line with air and split"),
        (["latin.csv"], "byte 22 is not UTF-8 text"),
        (["semicolons.csv"], "cells are separated by commas"),
        (["twice.jsonl"], "line 2: id: 'a' is also the id of line 1"),
        (["nameless.jsonl"], "the absolute path of air is no name: give the line an id"),
        (["notes.txt"], "a manifest ends in .jsonl or .csv"),
        (["broken.jsonl"], "line 1: not JSON"),
        (["nothing.csv"], "no column 'air'"),
    ],
)
def test_user_errors(pairs: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (pairs.parent / "broken.jsonl").write_text("{")
    (pairs.parent / "folder.jsonl").mkdir()
    (pairs.parent / "empty.jsonl").touch()
    (pairs.parent / "latin.csv").write_bytes("air,split,text\na.wav,dé\n".encode("latin-1"))
    (pairs.parent / "semicolons.csv").write_text("air;split\na.wav;train\n")
    line = {"air": "a.wav", "split": "test"}
    (pairs.parent / "twice.jsonl").write_text("\n".join(json.dumps({"id": "a"} | line) for _ in range(2)))
    (pairs.parent / "nameless.jsonl").write_text(json.dumps(line | {"air": "/far/a.wav"}))
    (pairs.parent / "nothing.csv").write_text("sound,split\na.wav,train\n")
    assert cli.main(["inspect", *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_the_report_comes_first_whatever_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise WriteError(errno.EROFS, "the file system at / is read-only", str(path))

    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9.wav")
    soundfile.write(os.fsencode(name), np.random.default_rng(0).uniform(-0.1, 0.1, 3200), RATE, format="WAV")
    Path("m.jsonl").write_text(json.dumps({"air": name, "split": "test"}))
    monkeypatch.setattr("bcfusion.data.inspect.fix.write_text", refuse)
    monkeypatch.setattr("bcfusion.commands.inspect_manifest.write_text", refuse)
    assert cli.main(["inspect", "m.jsonl"]) in (0, FOUND)
    shown = capsys.readouterr()
    assert "median of" in shown.out
    assert "no page: cannot write m.inspect.html: the file system at / is read-only; --html FILE" in shown.out
    assert cli.main(["inspect", "m.jsonl", "--fix", "--csv", "m.csv", "--html", "page.html"]) == 2
    shown = capsys.readouterr()
    assert "median of" in shown.out
    reason = "the file system at / is read-only"
    assert shown.err.splitlines() == [
        f"cannot write manifest {tmp_path}/m.jsonl: {reason}",
        f"cannot write m.csv: {reason}",
        f"cannot write page.html: {reason}",
    ]


@pytest.mark.slow
def test_a_page_that_cannot_be_written_is_a_user_error(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pairs.parent / "file").touch()
    assert cli.main(["inspect", "pairs.jsonl", "--html", "file/page.html"]) == 2
    assert "cannot write file/page.html" in capsys.readouterr().err
