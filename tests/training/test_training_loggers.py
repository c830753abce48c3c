from __future__ import annotations

import csv
import errno
import os
import threading
import tracemalloc
from pathlib import Path

import pytest
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

from bcfusion.training.loggers import CsvLogger, TensorBoardLogger, _keep_writer_threads_quiet
from bcfusion.training.writing import WriteFailed


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_late_tag_widens_the_table(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"loss/l1": 1.0}, step=1)
    logger.log_metrics({"loss/l1": 0.5}, step=2)
    logger.log_metrics({"valid/stoi": 0.8}, step=2)
    assert rows(tmp_path) == [
        {"step": "1", "loss/l1": "1.0", "valid/stoi": ""},
        {"step": "2", "loss/l1": "0.5", "valid/stoi": "0.8"},
    ]


def test_resuming_keeps_earlier_lines_and_drops_those_of_repeated_steps(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    for step in (10, 20, 30):
        logger.log_metrics({"loss/l1": float(step)}, step=step)
    again = CsvLogger(tmp_path, first_step=20)
    again.log_metrics({"loss/l1": 3.0}, step=30)
    assert [(row["step"], row["loss/l1"]) for row in rows(tmp_path)] == [("10", "10.0"), ("20", "20.0"), ("30", "3.0")]


@pytest.mark.parametrize("torn", ["1", "12", "12,0.", "12,0.5\r"])
def test_a_line_that_was_cut_off_is_dropped_when_a_run_is_resumed(tmp_path: Path, torn: str) -> None:
    logger = CsvLogger(tmp_path)
    for step in (1, 2, 11):
        logger.log_metrics({"loss/l1": float(step)}, step=step)
    with (tmp_path / "metrics.csv").open("a", newline="") as file:
        file.write(torn)
    again = CsvLogger(tmp_path, first_step=20)
    again.log_metrics({"loss/l1": 21.0}, step=21)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "11", "21"]
    assert None not in rows(tmp_path)[-2].values()


def test_a_validation_that_is_repeated_completes_the_line_of_its_step(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    for step in (10, 20, 30):
        logger.log_metrics({"loss/l1": float(step)}, step=step)
    again = CsvLogger(tmp_path, first_step=20)
    again.log_metrics({"valid/stoi": 0.5}, step=20)
    again.log_metrics({"valid/stoi": 0.75}, step=20)
    again.log_metrics({"loss/l1": 3.0}, step=30)
    assert [list(row.values()) for row in rows(tmp_path)] == [
        ["10", "10.0", ""],
        ["20", "20.0", "0.75"],
        ["30", "3.0", ""],
    ]


def test_a_new_run_in_the_same_directory_begins_anew(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        CsvLogger(tmp_path).log_metrics({f"loss/{value:g}": value}, step=1)
    assert rows(tmp_path) == [{"step": "1", "loss/2": "2.0"}]


def test_a_long_run_takes_no_memory_for_its_lines(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    expected = []

    def log(steps: range) -> None:
        for step in steps:
            logger.log_metrics({f"loss/{name}": float(step) for name in range(20)}, step=step)
            if step % 100 == 0:
                logger.log_metrics({"valid/stoi": step / 2}, step=step)
            expected.append((str(step), f"{float(step)}", f"{step / 2}" if step % 100 == 0 else ""))

    log(range(1, 500))
    tracemalloc.start()
    log(range(500, 502))
    before = tracemalloc.take_snapshot()
    log(range(502, 1500))
    grown = tracemalloc.take_snapshot().compare_to(before, "filename")
    tracemalloc.stop()
    of_logger = sum(each.size_diff for each in grown if each.traceback[0].filename.endswith("/loggers.py"))
    assert of_logger < 20_000, "a line is 2 kB: 998 were written"
    assert [(row["step"], row["loss/7"], row["valid/stoi"]) for row in rows(tmp_path)] == expected


class Full:
    """Events that cannot be flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    close = flush


def test_a_full_disk_does_not_replace_the_error_that_ended_the_run(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger._experiment = Full()
    logger.finalize("failed")
    for write in (logger.save, lambda: logger.finalize("success")):
        with pytest.raises(WriteFailed, match=r"the disk is full(.|\n)*bcfusion train resume="):
            write()


def test_a_failed_thread_of_the_events_prints_nothing_and_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: seen.append(str(arguments.exc_value)))
    _keep_writer_threads_quiet.cache_clear()
    TensorBoardLogger(tmp_path)

    class Writer(_AsyncWriterThread):
        def __init__(self) -> None:
            threading.Thread.__init__(self)

        def run(self) -> None:
            raise OSError("events")

    def fail() -> None:
        raise OSError("other")

    for thread in (Writer(), threading.Thread(target=fail)):
        thread.start()
        thread.join()
    assert seen == ["other"]
    _keep_writer_threads_quiet.cache_clear()
