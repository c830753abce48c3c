from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import pytest

from bcfusion.evaluation.scores import ItemScore, Scores


def table() -> Scores:
    rows = [
        ItemScore("a", "estimate", {"stoi": 0.5, "lag": 1.0}, {}, {"speaker": "x, y"}),
        ItemScore("b", "estimate", {"stoi": 0.9, "lag": 1.0}, {}, {}),
        ItemScore("c", "estimate", {"stoi": 1.0, "lag": 4.0}, {}, {"noise": "bus"}),
        ItemScore("d", "estimate", dict.fromkeys(("stoi", "lag"), math.nan), dict.fromkeys(("stoi", "lag"), "silent")),
    ]
    return Scores(rows, {"stoi": True, "lag": None})


def test_means_are_over_scored_utterances() -> None:
    scores = table()
    assert scores.mean("estimate") == pytest.approx({"stoi": 0.8, "lag": 2.0})
    assert scores.count("stoi", "estimate") == 3
    assert scores.skipped("estimate") == {"stoi": {"silent": 1}, "lag": {"silent": 1}}
    assert all(math.isnan(value) for value in scores.mean("input").values())


def test_changes_are_over_the_utterances_that_both_systems_were_scored_on() -> None:
    scores = Scores(
        [
            ItemScore("easy", "input", {"stoi": 0.9}),
            ItemScore("easy", "estimate", {"stoi": math.nan}, {"stoi": "silent"}),
            ItemScore("hard", "input", {"stoi": 0.2}),
            ItemScore("hard", "estimate", {"stoi": 0.3}),
        ],
        {"stoi": True},
    )
    assert scores.mean("estimate")["stoi"] < scores.mean("input")["stoi"]
    assert scores.changes() == {"input": {"stoi": pytest.approx(0.1)}}


def test_the_csv_has_a_line_for_each_utterance_and_system(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.csv"
    table().write_csv(path)
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["id", "system", "speaker", "noise", "stoi", "lag", "skipped"],
        ["a", "estimate", "x, y", "", "0.5", "1", ""],
        ["b", "estimate", "", "", "0.9", "1", ""],
        ["c", "estimate", "", "bus", "1", "4", ""],
        ["d", "estimate", "", "", "", "", "stoi, lag: silent"],
    ]
    assert os.listdir(path.parent) == ["scores.csv"]


def test_a_csv_that_fails_midway_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("old")
    broken = table()
    del broken.rows[2].values["lag"]
    with pytest.raises(KeyError):
        broken.write_csv(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_an_utterance_that_two_processes_scored_counts_once() -> None:
    one, two = table(), table()
    two.rows[0] = ItemScore("e", "estimate", {"stoi": 0.0, "lag": 0.0})
    # in the order of one process: every second utterance is that of the second
    assert [row.id for row in Scores.merged([one, two]).rows] == ["a", "e", "b", "c", "d"]
    with pytest.raises(ValueError, match="same metrics"):
        Scores.merged([one, Scores([], {"stoi": True})])
