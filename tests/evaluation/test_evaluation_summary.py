from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from bcfusion.evaluation.score_files import write_parquet, write_summary
from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.evaluation.summary import UNKNOWN, grouped, summarise


def scores(ratios: list[str], speakers: list[str] | None = None) -> Scores:
    """Return scores of an input and of a system that is 0.1 better, one utterance per ratio."""
    rows = []
    for number, ratio in enumerate(ratios):
        info = {"speaker": speakers[number] if speakers else "", "corpus": "", "snr": ratio}
        for system, gain in (("input", 0.0), ("enhanced", 0.1)):
            rows.append(ItemScore(f"u{number}", system, {"stoi": number / 10 + gain}, {}, info))
    return Scores(rows, {"stoi": True})


def test_few_ratios_are_a_group_each_and_many_are_put_into_steps() -> None:
    few = grouped(scores(["5.0", "-5.0", "0.0", "-0.04", "-5.0", "5.0", ""]), "snr")
    assert list(few) == ["-5 dB", "0 dB", "5 dB", UNKNOWN]
    assert [len(part.rows) for part in few.values()] == [4, 4, 4, 2]
    many = grouped(scores([f"{ratio}" for ratio in (-10.0, -5.1, -5.0, 0.0, 4.9, 5.0, 7.0, 9.9, 10.0, 14.0)]), "snr")
    assert list(many) == ["-10 to -5 dB", "-5 to 0 dB", "0 to 5 dB", "5 to 10 dB", "10 to 15 dB"]
    assert [len({row.id for row in part.rows}) for part in many.values()] == [2, 1, 2, 3, 2]


def test_ratios_that_were_drawn_are_no_groups_of_one_utterance() -> None:
    drawn = grouped(scores(["-3.2", "1.1", "1.3", "3.9"]), "snr")
    assert list(drawn) == ["-5 to 0 dB", "0 to 5 dB"]


def test_speakers_are_sorted_by_their_numbers_and_unknown_ones_come_last() -> None:
    assert list(grouped(scores([""] * 4, ["p10", "", "p9", "a"]), "speaker")) == ["a", "p9", "p10", UNKNOWN]
    with pytest.raises(ValueError, match="not by 'id'"):
        grouped(scores([""]), "id")


def test_groups_have_statistics_and_differences_of_their_own() -> None:
    summary = summarise(scores(["0.0", "0.0", "5.0", "5.0"]), ["snr"])
    assert summary.utterances == 4
    assert summary.systems["input"]["stoi"].mean == pytest.approx(0.15)
    assert summary.differences["enhanced", "input"]["stoi"].mean == pytest.approx(0.1)
    quiet = summary.groups["snr"]["5 dB"]
    assert (quiet.utterances, quiet.means["enhanced"]["stoi"]) == (2, pytest.approx(0.35))
    assert quiet.differences["enhanced", "input"]["stoi"].count == 2


def test_each_system_is_compared_with_the_inputs_and_the_systems_before_it() -> None:
    table = scores(["", ""])
    table.rows += [ItemScore(f"u{number}", "other", {"stoi": number / 10 - 0.2}) for number in range(2)]
    whole = summarise(table)
    assert list(whole.differences) == [("enhanced", "input"), ("other", "input"), ("other", "enhanced")]
    assert whole.changes["enhanced"]["stoi"] == pytest.approx(-0.3)
    assert whole.changes["input"] == pytest.approx(table.changes()["input"])


def test_the_parquet_holds_what_the_csv_holds(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet

    table = scores(["-2.5", ""], ["x, y", "z"])
    table.rows[1] = ItemScore("u0", "enhanced", {"stoi": math.nan}, {"stoi": "silent"}, table.rows[1].info)
    table.rows[3].values["stoi"] = 1 / 3
    table.write_csv(tmp_path / "scores.csv")
    write_parquet(table, tmp_path / "scores.parquet")
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    read = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    assert read.column_names == list(lines[0])
    assert [str(read.schema.field(name).type) for name in ("id", "snr", "stoi")] == ["string", "double", "double"]
    for line, row in zip(lines, read.to_pylist(), strict=True):
        for name in ("snr", "stoi"):
            assert row[name] == (pytest.approx(float(line[name]), rel=1e-5) if line[name] else None)
        for name in ("id", "system", "speaker", "corpus", "skipped"):
            assert row[name] == line[name]
    assert read.column("stoi")[3].as_py() == 1 / 3  # in full precision, where the CSV has six digits
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.parquet"]


def test_the_summary_has_a_line_for_each_group_system_and_difference(tmp_path: Path) -> None:
    table = scores(["0.0", "5.0", "5.0", "5.0"])
    table.rows[1] = ItemScore("u0", "enhanced", {"stoi": math.nan}, {"stoi": "silent"}, table.rows[1].info)
    write_summary(summarise(table, ["snr"]), tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="") as file:
        lines = {(line["group"], line["system"]): line for line in csv.DictReader(file)}
    assert list(lines) == [
        (group, system) for group in ("", "0 dB", "5 dB") for system in ("input", "enhanced", "enhanced - input")
    ]
    assert (lines["", "enhanced"]["count"], lines["", "enhanced"]["skipped"]) == ("3", "1")
    assert (lines["0 dB", "enhanced"]["mean"], lines["0 dB", "enhanced"]["low"]) == ("", "")
    assert float(lines["5 dB", "enhanced - input"]["mean"]) == pytest.approx(0.1)
