"""What belongs to a machine or to a person is found before it is uploaded."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bcfusion.errors import CheckpointError
from bcfusion.hub.private import private_place, require_public, write_public_scores


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("in /data/speech", "/data/speech"),
        ("data.root=/data/speech,x", "/data/speech"),
        ("file:///data", "file:///data"),
        ("<code>/data/x</code>", "/data/x"),
        ("|/data/x|", "/data/x"),
        ("{/a/b}", "/a/b"),
        ("cc -I/data/a/b", "/data/a/b"),
        ("see ~/x", "~/x"),
        ("see ~alice/x", "~alice/x"),
        ("root: ../x", "../x"),
        (r"on \\server\share", r"\\server\share"),
        (r"in C:\Users\alice", r"C:\Users\alice"),
        ("smb://server/share", "smb://server/share"),
        ("git clone https://me:secret@host/x", "https://me:secret@host/x"),
    ],
)
def test_places_are_found_however_they_are_written(text: str, place: str) -> None:
    assert private_place(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/me/x/resolve/main/a.csv",
        "doi:10.1109/TASLP.2021/3",
        "[x](/docs/models.md)",
        "speech and/or noise at 1/2/3 dB, 16 kHz / 8 kHz",
        "<b>a</b>, <i>b</i>",
        "data.root=DIR/sub/part **/*.wav ${root}/a/b",
        "at ~5/10 of the files, about ~3 dB",
        "http://host:8080/a",
        "Cnam-LMSSC/vibravox and so on ...",
    ],
)
def test_other_words_with_strokes_are_none(text: str) -> None:
    assert private_place(text) is None


def test_the_home_folder_is_found_by_its_other_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk" / "alice").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "alice"))
    file = tmp_path / "model.onnx"
    for home in ("home", "disk"):
        file.write_bytes(b"\xff\x00" + str(tmp_path / home / "alice").encode())
        with pytest.raises(CheckpointError, match=r"model\.onnx would tell everybody"):
            require_public(file)
    file.write_bytes(b"\xff\x00")
    require_public(file)


def test_scores_lose_the_names_of_recordings_and_speakers(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(
        "id,system,speaker,corpus,file,stoi,skipped\n"
        "alice_01,input,alice,TAPS,alice.wav,0.5,\n"
        "alice_01,enhanced,alice,TAPS,alice.wav,0.6,\n"
        "bob_01,input,bob,TAPS,bob.wav,,stoi: estimate is silent\n"
        "bob_01,enhanced,bob,TAPS,bob.wav,0.7,\n"
        "alice_02,input,alice,TAPS,alice.wav,0.4,\n"
    )
    write_public_scores(tmp_path / "scores.csv", tmp_path / "public.csv")
    with (tmp_path / "public.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["id", "system", "speaker", "corpus", "stoi", "skipped"]
    assert rows == [
        ["1", "input", "1", "TAPS", "0.5", ""],
        ["1", "enhanced", "1", "TAPS", "0.6", ""],
        ["2", "input", "2", "TAPS", "", "stoi: estimate is silent"],
        ["2", "enhanced", "2", "TAPS", "0.7", ""],
        ["3", "input", "1", "TAPS", "0.4", ""],
    ]
