"""What a session leaves in train.log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from bcfusion.errors import DataError
from bcfusion.run.log import RunLog


def test_prints_and_records_are_copied_from_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run" / "train.log"
    with RunLog() as log:
        print("before the directory exists")
        assert not file.exists()
        log.open(file, "bcfusion train")
        print("a \x1b[1mbold\x1b[0m word", file=sys.stderr)
        logging.getLogger("a.library").warning("of a library")
        log.open(file, "only once")
        print("unfinished", end="")
    print("after it")
    title, *lines = file.read_text().splitlines()
    assert title.startswith("--- 20")
    assert title.endswith(" bcfusion train")
    assert lines[:2] == ["before the directory exists", "a bold word"]
    assert lines[-2:] == ["WARNING a.library: of a library", "unfinished"]
    assert "before the directory exists" in capsys.readouterr().out  # the terminal still gets all of it


def test_a_line_that_is_redrawn_is_kept_as_it_ends(tmp_path: Path) -> None:
    with RunLog() as log:
        log.open(tmp_path / "train.log", "")
        for step in range(100):
            sys.stderr.write(f"\rstep {step}")
        sys.stderr.write("\r        \rvalidation: 0.8\n\rstep 101")
    assert (tmp_path / "train.log").read_text().splitlines()[1:] == ["validation: 0.8", "step 101"]


@pytest.mark.parametrize(
    ("error", "last", "traceback"),
    [
        (DataError("no speech in it"), "no speech in it", False),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero", True),
    ],
)
def test_the_error_that_ends_a_session_is_its_last_line(
    tmp_path: Path, error: Exception, last: str, traceback: bool
) -> None:
    def session() -> None:
        with RunLog() as log:
            log.open(tmp_path / "train.log", "")
            raise error

    with pytest.raises(type(error)):
        session()
    text = (tmp_path / "train.log").read_text()
    assert text.splitlines()[-1] == last
    assert ("Traceback" in text) == traceback
    assert text.count("---") == 1


def test_streams_stay_what_they_are_and_outlive_the_log(tmp_path: Path) -> None:
    before = sys.stdout
    with RunLog() as log:
        log.open(tmp_path / "train.log", "")
        held = sys.stdout
        assert not (tmp_path / "train.log").exists()  # nothing has been said
        held.write("said\n")
        assert held.isatty() == before.isatty()
        assert held.encoding == before.encoding
    assert sys.stdout is before
    held.write("a logger may still write\n")
    assert "may still" not in (tmp_path / "train.log").read_text()


def test_a_log_that_cannot_be_written_does_not_end_the_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def session() -> None:
        with RunLog() as log:
            log.open(Path("/dev/full"), "")
            print("first")
            print("second")
            raise DataError("the reason")

    with pytest.raises(DataError, match="the reason"):
        session()
    out, err = capsys.readouterr()
    assert out == "first\nsecond\n"
    assert err.startswith("bcfusion: cannot write /dev/full: the disk is full: ")
    assert err.count("cannot write") == 1
