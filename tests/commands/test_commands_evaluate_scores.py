"""Scores of earlier evaluations joined into one table, as a user types it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bcfusion import cli
from bcfusion.evaluation.pooled import pooled
from bcfusion.evaluation.scores import ItemScore, Scores

HIGHER = {"si_sdr": True, "lsd": False}


def write(path: Path, values: dict[str, tuple[float, float]], shift: float = 0.0) -> None:
    """Write scores of utterances: SI-SDR of input and of output; LSD is 1, and skipped of the output of ``u9``."""
    rows = []
    for name, (before, after) in values.items():
        rows.append(ItemScore(name, "input", {"si_sdr": before + shift, "lsd": 1.0}, info={"speaker": f"s{name}"}))
        rows.append(ItemScore(name, "enhanced", {"si_sdr": after, "lsd": 1.0}, info={"speaker": f"s{name}"}))
        if name == "u9":
            rows[-1].values["lsd"], rows[-1].skipped["lsd"] = float("nan"), "estimate is silent"
    Scores(rows, dict(HIGHER)).write_csv(path)


@pytest.fixture
def folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "f1/scores.csv", {"u1": (1.0, 2.0), "u2": (2.0, 4.0)})
    write(tmp_path / "f2/scores.csv", {"u3": (3.0, 6.0), "u9": (4.0, 8.0)})
    write(tmp_path / "g1/scores.csv", {"u1": (1.0, 1.5), "u2": (2.0, 2.5)})
    write(tmp_path / "other/scores.csv", {"u1": (1.0, 1.5)}, shift=0.5)
    return tmp_path


def test_folds_are_one_system_and_inputs_count_once(folds: Path) -> None:
    scores = pooled({"ours": [Path("f1/scores.csv"), Path("f2/scores.csv")], "theirs": [Path("g1/scores.csv")]}, HIGHER)
    assert scores.systems == ("input", "ours", "theirs")
    assert scores.mean("input")["si_sdr"] == pytest.approx(2.5)
    assert scores.mean("ours")["si_sdr"] == pytest.approx(5.0)
    assert scores.changes()["ours"]["si_sdr"] == pytest.approx(-1.0)  # over the two that both have
    assert scores.skipped("ours") == {"lsd": {"estimate is silent": 1}}
    assert scores.rows[0].info == {"speaker": "su1"}


@pytest.mark.parametrize("order", [("few", "all"), ("all", "few")])
def test_an_input_has_the_scores_of_all_files_in_any_order(folds: Path, order: tuple[str, str]) -> None:
    write(folds / "all.csv", {"u1": (1.0, 2.0)})
    table = (folds / "all.csv").read_text().splitlines()
    column = table[0].split(",").index("lsd")
    (folds / "few.csv").write_text(
        "\n".join(",".join(cell for place, cell in enumerate(line.split(",")) if place != column) for line in table)
    )
    scores = pooled({name: [folds / f"{name}.csv"] for name in order}, HIGHER)
    assert scores.mean("input") == {"si_sdr": 1.0, "lsd": 1.0}
    assert scores.skipped("input") == {}
    assert scores.skipped("few") == {"lsd": {"not in the file of scores": 1}}


def test_the_verb_prints_and_writes_the_tables(folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--scores", "ours=f1/scores.csv", "ours=f2/scores.csv", "metrics=[si_sdr,lsd]", "output=out"]
    assert cli.main(["evaluate", *words]) == 0
    printed = capsys.readouterr().out
    assert "ours, 4 utterances from 2 files of scores:" in printed
    assert "ours − input" in printed
    with (folds / "out/scores.csv").open() as file:
        assert [line["system"] for line in csv.DictReader(file)] == ["input"] * 4 + ["ours"] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ours=f1/scores.csv", "ours=f1/scores.csv"], "u1 is already in another file of ours"),
        (["ours=f1/scores.csv", "theirs=other/scores.csv"], "its input has si_sdr 1 and 1.5"),
        (["ours=nowhere.csv"], "cannot read scores nowhere.csv: No such file"),
        (["f1/scores.csv"], "must be NAME=CSV"),
        (["input=f1/scores.csv"], "'input' is reserved"),
        (["ours=f1/scores.csv", "split=test"], "split: has no effect on scores"),
        (["ours=f1/scores.csv", "sample_rate=8000"], "cannot read scores 8000"),
        (["ours=text.csv"], "holds no scores"),
    ],
)
def test_wrong_input_is_one_line(
    folds: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (folds / "text.csv").write_text("a,b\n1,2\n")
    assert cli.main(["evaluate", "--scores", *words, "metrics=[si_sdr,lsd]", "output=out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
