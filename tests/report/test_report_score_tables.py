from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.evaluation.summary import summarise
from bcfusion.report.score_latex import latex_escape, latex_tables
from bcfusion.report.score_tables import markdown_report, skipped_lines, terminal_tables


def scores(system: str = "enhanced") -> Scores:
    """Return scores of two speakers: the system is 0.1 better in STOI, 1 worse in LSD, and lags; one is skipped."""
    rows = []
    for number in range(4):
        info = {"speaker": f"a_{number % 2}|b", "corpus": "", "snr": ""}
        for name, gain in (("input", 0.0), (system, 1.0)):
            values = {"stoi": 0.5 + number / 50 + gain / 10, "lsd": 2.0 + gain, "si_sdr_lag_ms": -gain}
            rows.append(ItemScore(f"u{number}", name, values, {}, info))
    rows[0].skipped["lsd"] = "silent"
    return Scores(rows, {"stoi": True, "lsd": False, "si_sdr_lag_ms": None})


def cells(report: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the table under a heading by their first cell."""
    part = report.partition(heading)[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_markdown_gives_means_with_intervals_medians_with_quartiles_and_differences_in_pairs() -> None:
    report = markdown_report(summarise(scores(), ["speaker"]), "A on B")
    assert report.startswith("# A on B\n")
    means = cells(report, "## Means and")
    assert means[""] == ["STOI ↑", "LSD ↓", "lag (ms)"]
    assert means["input"][0].startswith("0.530 [0.51")
    assert means["enhanced − input"] == ["+0.100 [+0.100, +0.100]", "+1.00 [+1.00, +1.00]", "−1.00 [−1.00, −1.00]"]
    medians = cells(report, "## Medians")
    assert medians["enhanced"][0] == "0.630 [0.615, 0.645]"
    assert "enhanced − input" not in medians
    assert cells(report, "## By speaker")["a_1\\|b"][:2] == ["2", "enhanced − input"]  # the last of its three rows
    assert "- input: lsd skipped 1 of 4 (silent)" in report


def test_nothing_skipped_is_reported_too() -> None:
    table = scores()
    table.rows[0].skipped.clear()
    assert "None: every utterance has every score." in markdown_report(summarise(table), "A")
    assert skipped_lines({system: table.skipped(system) for system in table.systems}, table.names, 4) == []


def test_metrics_that_were_skipped_for_one_reason_share_a_line() -> None:
    skipped = {"input": {"stoi": Counter(short=2), "estoi": Counter(short=2, silent=1), "lsd": Counter(short=1)}}
    assert skipped_lines({"A": {"stoi": Counter(x=1), "lsd": Counter(x=1)}}, ("stoi", "lsd"), 2) == [
        "A: every metric skipped 1 of 2 (x)"
    ]
    assert skipped_lines(skipped, ("stoi", "estoi", "lsd"), 9) == [
        "input: stoi, estoi skipped 2 of 9 (short)",
        "input: estoi skipped 1 of 9 (silent)",
        "input: lsd skipped 1 of 9 (short)",
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_number_of_many_metrics_is_cut_whatever_the_width(width: int) -> None:
    names = [f"metric_{letter}" for letter in "abcdefghijkl"]
    rows = [
        ItemScore(f"u{number}", system, dict.fromkeys(names, number + 0.125), {}, {"speaker": "", "snr": "-3.0"})
        for number in range(2)
        for system in ("input", "enhanced")
    ]
    console = Console(file=io.StringIO(), width=width)
    for table in terminal_tables(summarise(Scores(rows, dict.fromkeys(names, True)), ["snr"]), width):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for name in names:
        assert text.count(name) >= 3  # means, intervals, groups
    assert re.search(r"−3 dB +2 +input +0\.625", text)


def test_the_terminal_shows_intervals_and_groups_in_eighty_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    for table in terminal_tables(summarise(scores(), ["speaker"]), 80):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"LSD ↓ +\[2\.00, 2\.00\] +\[3\.00, 3\.00\] +\[\+1\.00, \+1\.00\]", text)
    assert "Means by speaker" in text
    assert re.search(r"a_0\|b +2 +input +0\.520", text)


def test_the_intervals_of_two_inputs_are_in_tables_one_below_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for row in scores().rows:
        if row.system == "input":
            rows.append(ItemScore(row.id, "input (body)", dict(row.values), {}, row.info))
            rows.append(ItemScore(row.id, "input (noisy)", dict(row.values), {}, row.info))
        else:
            rows.append(row)
    table = Scores(rows, scores().higher_is_better)
    console = Console(width=80)
    for part in terminal_tables(summarise(table), 80):
        console.print(part)
    text = capsys.readouterr().out
    assert text.count("95 % intervals") == 2
    assert re.search(r"STOI ↑ +(\[0\.\d{3}, 0\.\d{3}\] +){3}\n", text)
    assert re.search(r"STOI ↑ +(\[\+0\.100, \+0\.100\] +){2}\n", text)


def test_latex_marks_the_best_in_the_direction_of_the_metric_and_no_information() -> None:
    lines = latex_tables(summarise(scores()), "A").splitlines()
    assert "\\toprule" in lines[5]
    (row_input,) = (line for line in lines if line.lstrip().startswith("input"))
    (row_enhanced,) = (line for line in lines if line.lstrip().startswith("enhanced"))
    assert "\\textbf{2.00}" in row_input
    assert "\\textbf{0.630}" in row_enhanced
    assert row_input.count("textbf") == row_enhanced.count("textbf") == 1
    assert "$-$1.00" in row_enhanced


def test_latex_escapes_names_of_systems_and_speakers() -> None:
    assert latex_escape(r"a_b & 50% #1 ~ x^2 {c} \d $") == (
        r"a\_b \& 50\% \#1 \textasciitilde{} x\textasciicircum{}2 \{c\} \textbackslash{}d \$"
    )
    text = latex_tables(summarise(scores("[my_net] 100%"), ["speaker"]), "50% & more_of it")
    assert "{[}my\\_net{]} 100\\% & " in text
    assert "\\caption{50\\% \\& more\\_of it: means over 4 utterances" in text
    assert "a\\_0\\textbar{}b & 2 & input" in text
    for line in text.splitlines():
        if line.endswith("\\\\"):
            assert len(re.findall(r"(?<!\\)&", line)) in (3, 5), line  # as many as columns less one
        assert not re.search(r"(?<!\\)[_#]", line.removeprefix("% needs")), line


def test_latex_has_intervals_below_the_means_and_one_table_per_six_metrics() -> None:
    lines = latex_tables(summarise(scores()), "A").splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.lstrip().startswith("enhanced"))
    assert lines[place + 1].strip().startswith("& {\\scriptsize {[}0.6")
    names = [f"metric_{letter}" for letter in "abcdefghijklm"]
    rows = [ItemScore("u0", "input", dict.fromkeys(names, 0.5), {}, {"snr": "-3.0"})]
    text = latex_tables(summarise(Scores(rows, dict.fromkeys(names, True)), ["snr"]), "A")
    assert [len(columns) for columns in re.findall(r"begin{tabular}{l(r*)}", text)] == [6, 6, 1]
    assert [len(columns) for columns in re.findall(r"begin{tabular}{lrl(r*)}", text)] == [6, 6, 1]
    assert "    $-$5 to 0 dB & 1 & input & 0.500" in text
    assert all(text.count(f"metric\\_{name[-1]}") == 2 for name in names)
    assert text.count("{") == text.count("}")


def test_every_table_of_latex_is_closed_and_groups_are_divided_by_rules() -> None:
    text = latex_tables(summarise(scores(), ["speaker"]), "A")
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 2
    assert text.count("\\midrule") == 1 + 2  # below each heading, and between the two speakers
