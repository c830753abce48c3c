from __future__ import annotations

import csv
from pathlib import Path

from bcfusion.training.loggers import CsvLogger


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
