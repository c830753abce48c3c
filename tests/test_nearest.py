"""The nearest known name to one that does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcfusion.nearest import did_you_mean, nearest, nearest_path

NAMES = ["seanet", "mr_stft", "l1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("senet", "seanet"), ("SEANet", "seanet"), ("mrstft", "mr_stft"), ("mr", "mr_stft"), ("m", None), ("xyz", None)],
)
def test_nearest_name(name: str, expected: str | None) -> None:
    assert nearest(name, NAMES) == expected


def test_a_higher_cutoff_asks_for_more_than_a_common_beginning() -> None:
    assert nearest("sea", NAMES, cutoff=0.8) is None
    assert nearest("seanett", NAMES, cutoff=0.8) == "seanet"


def test_the_end_of_a_message() -> None:
    assert did_you_mean("senet", NAMES) == "; did you mean 'seanet'?"
    assert did_you_mean("xyz", NAMES) == ""


def test_a_missing_path_gets_the_nearest_name_or_the_last_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    assert nearest_path(tmp_path / "speach" / "a.wav") == f"; did you mean {tmp_path / 'speech'}?"
    assert nearest_path(tmp_path / "xyz") == f"; {tmp_path} is the last folder on the way that exists"


@pytest.mark.parametrize("path", [r"C:\Users\me\speech", "C:Usersmespeech", "/home/me/C:/speech"])
def test_a_path_of_windows_is_explained(path: str) -> None:
    assert nearest_path(path) == "; this is a path of Windows: in Linux on Windows (WSL) drive C: is /mnt/c"
