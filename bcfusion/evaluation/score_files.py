"""Files of scores and statistics for other programs; :meth:`Scores.write_csv` writes the CSV of the scores."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from bcfusion.evaluation.scores import Scores, skipped_cell
from bcfusion.evaluation.summary import ScoreSummary
from bcfusion.files import appearing

__all__ = ["write_parquet", "write_summary"]

_SUMMARY = ("group_by", "group", "system", "metric", "count", "skipped", "mean", "median", "q1", "q3", "low", "high")


def write_parquet(scores: Scores, path: Path) -> None:
    """Write the columns and rows of :meth:`Scores.write_csv` as Parquet, with numbers in full precision.

    Metrics and ``snr`` are float64, null if unknown; everything else is text. The file appears whole or not at all.

    Raises:
        ImportError: pyarrow is not installed.
    """
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, pyarrow.Array] = {
        "id": pyarrow.array([row.id for row in scores.rows], pyarrow.string()),
        "system": pyarrow.array([row.system for row in scores.rows], pyarrow.string()),
    }
    for name in scores.info_names:
        texts = [row.info.get(name, "") for row in scores.rows]
        if name == "snr":
            columns[name] = pyarrow.array([float(text) if text else None for text in texts], pyarrow.float64())
        else:
            columns[name] = pyarrow.array(texts, pyarrow.string())
    for name in scores.names:
        values = [None if name in row.skipped else row.values[name] for row in scores.rows]
        columns[name] = pyarrow.array(values, pyarrow.float64())
    columns["skipped"] = pyarrow.array([skipped_cell(row.skipped) for row in scores.rows], pyarrow.string())
    with appearing(path) as part:
        pyarrow.parquet.write_table(pyarrow.table(columns), part)


def write_summary(summary: ScoreSummary, path: Path) -> None:
    """Write the statistics as CSV: one line per group, system and metric.

    ``low`` and ``high`` are the ends of the 95 % bootstrap interval of the mean; ``group_by`` and ``group`` are empty
    for all utterances together; a system ``A - B`` is the paired difference, without median and quartiles.
    """
    with appearing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_SUMMARY)
        writer.writerows(_lines(summary, "", ""))
        for by, groups in summary.groups.items():
            for label, group in groups.items():
                writer.writerows(_lines(group, by, label))


def _lines(summary: ScoreSummary, by: str, label: str) -> Iterator[list[str]]:
    for system, metrics in summary.systems.items():
        for metric, s in metrics.items():
            skipped = sum(summary.skipped[system].get(metric, {}).values())
            numbers = (s.mean, s.median, s.q1, s.q3, s.low, s.high)
            yield [by, label, system, metric, str(s.count), str(skipped), *map(_text, numbers)]
    for (system, before), differences in summary.differences.items():
        for metric, d in differences.items():
            ends = (_text(d.mean), "", "", "", _text(d.low), _text(d.high))
            yield [by, label, f"{system} - {before}", metric, str(d.count), "", *ends]


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
