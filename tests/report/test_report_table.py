from __future__ import annotations

import math
import re
from typing import Any

import pytest
from rich.console import Console

from bcfusion.metrics.lsd import Lsd
from bcfusion.metrics.pesq import Pesq
from bcfusion.metrics.si_sdr import SiSdr
from bcfusion.metrics.stoi import Stoi
from bcfusion.report.table import METRICS, markdown_table, metric_name, quality_table

DIRECTION = {"pesq_wb": True, "stoi": True, "si_sdr": True, "si_sdr_lag_ms": None, "lsd": False}
SYSTEMS = {
    "input": {"pesq_wb": 2.361, "stoi": 0.8434, "si_sdr": 7.7, "si_sdr_lag_ms": 0.1, "lsd": 3.2},
    "enhanced": {"pesq_wb": 1.533, "stoi": 0.8611, "si_sdr": math.nan, "si_sdr_lag_ms": 0.0, "lsd": 1.2},
}


def grid(*args: Any, **kwargs: Any) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown_table(*args, **kwargs).splitlines()]
    return {line[0]: line[1:] for line in lines}


def printed(table: Any, width: int = 120) -> str:
    console = Console(width=width, force_terminal=True, color_system="standard", record=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_headings_carry_names_units_and_directions() -> None:
    assert grid(SYSTEMS, DIRECTION)[""] == ["PESQ-WB ↑", "STOI ↑", "SI-SDR (dB) ↑", "lag (ms)", "LSD ↓"]


def test_best_values_are_bold_by_their_direction() -> None:
    rows = grid(SYSTEMS, DIRECTION)
    assert rows["input"] == ["**2.36**", "0.843", "7.70", "0.10", "3.20"]
    assert rows["enhanced"] == ["1.53", "**0.861**", "–", "0.00", "**1.20**"]


def test_last_system_is_compared_with_each_other() -> None:
    assert grid(SYSTEMS, DIRECTION)["vs input"] == ["−0.83", "+0.018", "–", "−0.10", "−2.00"]
    three = {"input (body)": {"stoi": 0.5}, "input (noisy)": {"stoi": 0.6}, "enhanced": {"stoi": 0.9}}
    rows = grid(three, {"stoi": True})
    assert rows["vs input (body)"] == ["+0.400"]
    assert rows["vs input (noisy)"] == ["+0.300"]
    assert list(grid({"input": {"stoi": 0.5}}, {"stoi": True})) == ["", "---", "input"]


def test_values_equal_in_print_are_equally_good() -> None:
    rows = grid({"a": {"stoi": 0.90001}, "b": {"stoi": 0.9}, "c": {"stoi": 0.8}}, {"stoi": True})
    assert (rows["a"], rows["b"], rows["c"]) == (["**0.900**"], ["**0.900**"], ["0.800"])
    assert grid({"a": {"stoi": 0.9}, "b": {"stoi": 0.9}}, {"stoi": True})["b"] == ["0.900"]


def test_change_below_the_last_digit_has_no_minus() -> None:
    assert grid({"a": {"stoi": 0.90001}, "b": {"stoi": 0.9}}, {"stoi": True})["vs a"] == ["+0.000"]


def test_missing_and_infinite_values() -> None:
    rows = grid(
        {"a": {"si_sdr": math.inf, "stoi": 0.1}, "b": {"si_sdr": 1.0}}, {"si_sdr": True, "stoi": True, "lsd": False}
    )
    assert rows[""] == ["SI-SDR (dB) ↑", "STOI ↑"]  # LSD was not measured
    assert rows["a"] == ["inf", "0.100"]
    assert rows["b"][1] == "–"


def test_paired_changes_replace_the_difference_of_means() -> None:
    changes = {"input": {"pesq_wb": -0.5, "stoi": math.nan}}
    assert grid(SYSTEMS, DIRECTION, changes)["vs input"] == ["−0.50", "–", "–", "–", "–"]


def test_terminal_and_markdown_tables_have_the_same_content() -> None:
    text = printed(quality_table(SYSTEMS, DIRECTION))
    for word in ("PESQ-WB", "↑", "LSD ↓", "0.843", "vs input", "+0.018"):
        assert word in text
    assert re.search(r"\x1b\[1m *0\.861", text)
    assert not re.search(r"\x1b\[1m *0\.843", text)


def test_names_in_brackets_are_not_taken_for_markup() -> None:
    assert "[bold]body" in printed(quality_table({"[bold]body": {"stoi": 0.5}}, {"stoi": True}))


def test_all_metrics_of_a_recipe_fit_a_terminal_of_eighty() -> None:
    keys = ["pesq_wb", "stoi", "estoi", "si_sdr", "si_sdr_aligned", "si_sdr_lag_ms", "lsd", "lsd_hf"]
    values = {"input (body)": -11.25, "input (noisy)": -11.25, "enhanced": 10.75}
    systems = {name: dict.fromkeys(keys, value) for name, value in values.items()}
    text = printed(quality_table(systems, dict.fromkeys(keys, True)), width=80)
    assert "…" not in text
    assert text.count("+22.0") == 2 * len(keys)
    assert max(len(line) for line in text.splitlines() if "\x1b" not in line) <= 80


@pytest.mark.parametrize(
    "metric", [Pesq("wb"), Pesq("nb"), Stoi(), Stoi(extended=True), SiSdr(), Lsd(name="lsd"), Lsd(name="lsd_hf")]
)
def test_every_metric_has_a_printed_name(metric: Any) -> None:
    assert set(metric.names) <= set(METRICS)


def test_a_users_own_metric_is_printed_as_its_key() -> None:
    assert metric_name("my_mos") == ("my_mos", "", 3)
