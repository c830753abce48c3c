"""What cannot be written is reported by its file and reason; names are matched whatever their Unicode form."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcfusion import audio
from bcfusion.errors import AudioError, BcfusionError, WriteError
from bcfusion.files import (
    NamesOnDisk,
    appearing,
    appearing_folder,
    fixed_part,
    matching,
    name_below,
    normal_name,
    write_text,
)

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
LATIN = os.fsdecode(b"caf\xe9")  # a byte that is not UTF-8


def file(path: Path) -> None:
    with appearing(path) as part:
        part.write_text("new")


def folder(path: Path) -> None:
    with appearing_folder(path) as part:
        (part / "weights").write_text("new")


def text(path: Path) -> None:
    write_text(path, "new")


@pytest.mark.parametrize("write", [file, folder, text])
@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("file/below/it", errno.ENOTDIR, "file is a file, not a folder"),
        (
            "x" * 256,
            errno.ENAMETOOLONG,
            "file system: xxxxxxxxxxxxxxxxxxxxxxxx... has 256 bytes",
        ),
        ("x" * 256 + "/a", errno.ENAMETOOLONG, "the name is too long"),
    ],
)
def test_the_first_error_is_reported_with_file_and_reason(
    tmp_path: Path, write: Callable[[Path], None], name: str, number: int, reason: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError) as caught:
        write(tmp_path / name)
    assert caught.value.errno == number
    assert str(caught.value).startswith(f"cannot write {tmp_path / name}: ")
    assert reason in str(caught.value)
    assert isinstance(caught.value, BcfusionError)  # printed without a traceback
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # from a worker process


@pytest.mark.parametrize("write", [file, folder, text])
@pytest.mark.parametrize("name", [NFC * 127, "x" * 255, LATIN])
def test_every_name_that_the_file_system_takes_can_be_written(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:
    write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full: "),
        (errno.EDQUOT, "the quota of the disk at "),
        (errno.EROFS, "the file system of "),
    ],
)
def test_an_error_of_the_disk_inside_the_block_names_the_target(tmp_path: Path, number: int, reason: str) -> None:
    with pytest.raises(WriteError, match=reason) as caught, appearing(tmp_path / "a.wav"):
        raise OSError(number, os.strerror(number))  # as write() does, without a name
    assert caught.value.disk_full == (number != errno.EROFS)
    assert caught.value.filename == str(tmp_path / "a.wav")
    assert os.listdir(tmp_path) == []


def test_a_sound_of_which_the_last_bytes_do_not_fit_is_not_written(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20000)
    audio.write(tmp_path / "a.flac", noise, 16000)
    size, limits = (tmp_path / "a.flac").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for missing in (1, 4000, size):  # the last are written when the file is closed
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, limits[1]))
            with pytest.raises(AudioError, match=r"cannot write .*/b\.flac: File too large"):
                audio.write(tmp_path / "b.flac", noise, 16000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["a.flac"]


@pytest.mark.parametrize("appear", [appearing, appearing_folder])
@pytest.mark.parametrize("full", [True, False])
def test_an_error_of_a_library_is_traced_to_the_disk_by_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appear: Any, full: bool
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if full:
        monkeypatch.setattr("bcfusion.files.os.fsync", refuse)
    kind, words = (WriteError, "the disk is full") if full else (RuntimeError, "System error")
    with pytest.raises(kind, match=words), appear(tmp_path / "a"):
        raise RuntimeError("System error")
    assert os.listdir(tmp_path) == []


def test_an_error_that_is_not_the_targets_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), appearing(tmp_path / "copy"):
        (tmp_path / "missing").read_text()
    with pytest.raises(OSError, match="connection lost") as caught, appearing(tmp_path / "copy"):
        raise OSError("connection lost")
    assert not isinstance(caught.value, WriteError)


def test_what_cannot_be_deleted_does_not_hide_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ValueError, match="the first"), appearing(tmp_path / "a"):
        raise ValueError("the first")


def test_names_that_look_the_same_are_the_same(tmp_path: Path) -> None:
    assert NFC != NFD
    assert name_below(tmp_path, tmp_path / NFD / f"a.b{NFD}.wav") == f"{NFC}/a.b{NFC}"
    assert normal_name(LATIN) == r"caf\udce9"
    (tmp_path / NFD).mkdir()
    (tmp_path / NFD / f"{NFC}.wav").touch()
    for spelled in (f"{NFC}/{NFC}.wav", f"{NFC}/{NFD}.wav", f"{NFD}/{NFC}.wav"):
        assert os.path.isfile(NamesOnDisk().find(str(tmp_path / spelled)))
    (tmp_path / NFD / f"{NFD}.wav").touch()  # both spellings on one disk: each is found as it is written
    for spelled in (f"{NFD}/{NFC}.wav", f"{NFD}/{NFD}.wav"):
        assert NamesOnDisk().find(str(tmp_path / spelled)) == str(tmp_path / spelled)
    for absent in (f"{NFC}/b.wav", f"b{NFC}.wav", f"b/{NFC}.wav"):
        assert NamesOnDisk().find(str(tmp_path / absent)).endswith(absent.rpartition("/")[2])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("day [1]/*.wav", ["day [1]/a.wav"]),
        ("day [1]/[ab].wav", ["day [1]/a.wav"]),
        ("day [1]/**/*.wav", ["day [1]/a.wav", "day [1]/deep [x]/b[2].wav"]),
        ("day*/deep [x]/*.wav", ["day [1]/deep [x]/b[2].wav"]),
        ("day [1]/deep [x]/b[2].*", ["day [1]/deep [x]/b[2].wav"]),
        ("day?1*/*", ["day 1/c.wav"]),
        ("day [12]/*.wav", ["day 1/c.wav"]),
    ],
)
def test_brackets_in_the_names_of_folders_are_no_pattern(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("day [1]/a.wav", "day [1]/deep [x]/b[2].wav", "day 1/c.wav"):
        write_text(tmp_path / name, "")
    assert [path.relative_to(tmp_path).as_posix() for path in matching(tmp_path / pattern)] == found
    assert fixed_part(tmp_path / pattern) == tmp_path / ("day [1]" if pattern.startswith("day [1]") else "") / (
        "deep [x]" if pattern.startswith("day [1]/deep") else ""
    )
