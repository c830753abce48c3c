"""Several test sets in one table, beside published figures, as a user types it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bcfusion import cli
from bcfusion.commands.completion import candidates
from bcfusion.evaluation.scores import ItemScore, Scores

HIGHER = {"lsd": False, "stoi": True}
PUBLISHED = """\
set,system,stoi,n_mos,source
throat,EBEN,0.8338,3.862,https://example.org/throat
forehead,EBEN,0.8549,4.25,https://example.org/forehead
temple,EBEN,,,
"""


def write(path: Path, before: float, after: float, items: tuple[str, ...] = ("u1", "u2")) -> None:
    """Write scores of utterances: STOI of input and output; LSD of the second utterance is skipped."""
    rows = []
    for position, name in enumerate(items):
        for system, stoi in (("input", before), ("enhanced", after)):
            rows.append(ItemScore(name, system, {"lsd": 1.0, "stoi": stoi + 0.1 * position}, info={"speaker": "s"}))
            if position == 1:
                rows[-1].values["lsd"], rows[-1].skipped["lsd"] = float("nan"), "estimate is silent"
    Scores(rows, dict(HIGHER)).write_csv(path)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "throat.csv", 0.6, 0.7)
    write(tmp_path / "forehead.csv", 0.7, 0.8)
    write(tmp_path / "forehead2.csv", 0.7, 0.8, items=("u3",))
    (tmp_path / "paper.csv").write_text(PUBLISHED)
    return tmp_path


def evaluate(*words: str) -> int:
    return cli.main(["evaluate", *words, "metrics=[lsd,stoi]", "output=out"])


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_set_has_its_own_input_though_the_utterances_are_the_same(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--sets", "throat=throat.csv", "forehead=forehead.csv", "forehead=forehead2.csv") == 0
    assert "2 test sets: throat, forehead:" in capsys.readouterr().out
    table = {(line["set"], line["system"]): line for line in lines(place / "out/sets.csv")}
    assert {key: line["stoi"] for key, line in table.items()} == {
        ("throat", "input"): "0.65",
        ("throat", "enhanced"): "0.75",
        ("forehead", "input"): "0.733333",
        ("forehead", "enhanced"): "0.833333",
    }
    assert [table[name, "input"]["utterances"] for name in ("throat", "forehead")] == ["2", "3"]
    assert [line["id"] for line in lines(place / "out/scores.csv")][:2] == ["throat/u1", "throat/u2"]
    spread = [line for line in lines(place / "out/summary.csv") if line["group"] == "throat"]
    assert {line["system"] for line in spread} == {"input", "enhanced", "enhanced - input"}


def test_published_figures_stand_below_ours_with_their_source(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--sets", "throat=throat.csv", "temple=forehead.csv", "--published", "paper.csv") == 0
    printed = capsys.readouterr().out
    assert "EBEN *" in printed
    assert "* published, from paper.csv" in printed
    page = (place / "out/sets.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    assert [row[5] for row in rows] == ["N-MOS", "---:", "–", "–", "3.86", "–", "–", "–"]
    assert rows[0][4] == "STOI ↑"
    assert rows[2][4].startswith("0.650 [")  # ours has an interval, theirs has none
    assert rows[4][2:5] == ["EBEN *", "–", "0.834"]
    assert "- throat, EBEN *: https://example.org/throat" in page
    assert "forehead" not in page
    theirs = [line for line in lines(place / "out/sets.csv") if line["published"] == "yes"]
    assert [(line["set"], line["stoi"], line["n_mos"]) for line in theirs] == [
        ("throat", "0.8338", "3.862"),
        ("temple", "", ""),
    ]


def test_published_figures_of_other_sets_cause_a_warning(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--sets", "jaw=throat.csv", "--published", "paper.csv") == 0
    assert "warning: paper.csv has none of these sets; it has throat, forehead, temple" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sets", "throat=nowhere.csv"], "cannot read scores nowhere.csv: No such file"),
        (["--sets", "throat=throat.csv", "throat=throat.csv"], "u1 is already in another file"),
        (["--sets", "throat.csv"], "--sets: 'throat.csv' must be NAME=CSV"),
        (["--sets", "throat=throat.csv", "--published", "nowhere.csv"], "cannot read nowhere.csv: No such file"),
        (["--sets", "throat=throat.csv", "--published", "throat.csv"], "throat.csv has no column set"),
        (["--sets", "throat=throat.csv", "--published", "odd.csv"], "odd.csv, line 2: stoi is 'high', not a number"),
        (["--published", "paper.csv"], "--published: give scores to compare with"),
        (["--sets", "throat=throat.csv", "group_by=speaker"], "group_by: the sets are the groups"),
    ],
)
def test_wrong_input_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (place / "odd.csv").write_text("set,system,stoi\nthroat,EBEN,high\n")
    assert evaluate(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_shell_completes_the_options() -> None:
    assert {"--sets", "--published"} <= set(candidates("bcfusion evaluate --"))
