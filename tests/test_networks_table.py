"""The table of docs/networks.md describes the networks as they are."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import skip_without_extra
from script_loading import load_script

from bcfusion.configuration.paths import conf_dir
from bcfusion.nn.streaming import StreamingModule

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("networks_table")


def rows(script: ModuleType) -> dict[str, list[str]]:
    """Return the cells of the page's table, by network."""
    table = script.PAGE.read_text().partition(script.BEGIN)[2].partition(script.END)[0]
    lines = [line for line in table.splitlines() if line.startswith("| `") and "`generator=`" not in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name.strip("`"): rest for name, *rest in cells}


def test_every_network_has_a_row_and_every_row_a_network(script: ModuleType) -> None:
    assert sorted(rows(script)) == sorted(path.stem for path in (conf_dir() / "generator").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "generator").glob("*.yaml")))
def test_size_latency_and_causality_are_the_networks_own(script: ModuleType, name: str) -> None:
    skip_without_extra(name)
    with torch.device("meta"):
        network = script.network(name)
    row = script.Row(
        name,
        sum(parameter.numel() for parameter in network.parameters()),
        0.0,
        network.causal,
        network.delay,
        network.sample_rate,
        None,
    )
    _, parameters, _, causal, latency, _ = [cell.strip() for cell in row.markdown().strip("|").split("|")]
    written = rows(script)[name]
    assert [written[0], written[2], written[3]] == [parameters, causal, latency]


def test_a_causal_network_is_timed_as_a_stream_and_another_as_a_file(script: ModuleType) -> None:
    seen: list[tuple[int, bool]] = []

    class Listening(StreamingModule):
        sample_rate, in_channels, hop, delay = 1000, 1, 5, 4

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append((inputs.shape[-1], self.is_streaming))
            return inputs

    network = Listening()
    assert script.real_time_factor(network, seconds=0.1) > 0
    assert set(seen) == {(10, True)}, "at least 8 ms, in whole frames"
    seen.clear()
    network.causal = False
    script.real_time_factor(network, seconds=0.1)
    assert seen[-1] == (100, False)


def test_lines_are_markdown_of_as_many_columns_as_the_header(script: ModuleType) -> None:
    row = script.Row("x", 1_234_567, 2.5e9, True, 399, 16000, 0.25)
    assert row.markdown() == "| `x` | 1.23 M | 2.50 | yes | 24.9 ms | 0.250 |"
    assert "| 10.1 s |" in script.Row("x", 1, 1e9, False, 162303, 16000, None).markdown()
    assert row.markdown().count("|") == script.HEADER[0].count("|") == script.HEADER[1].count("|")
    assert script.Row("x", 0, 0, False, None, 16000, None).markdown() == "| `x` | none | 0 | no | whole file |  |"


def test_single_rows_are_replaced_and_the_note_says_which_were_measured_elsewhere(script: ModuleType) -> None:
    first, second, third = (f"\nReal-time factors: CPU time on {name}." for name in ("one", "two", "three"))
    old = "| `eben` | a |\n| `gtcrn` | a |\n| `seanet` | a |"
    text = f"before\n{script.BEGIN}\n{old}\n{first}\n{script.END}\nafter\n"

    def table(rows: str) -> str:
        cells = dict(zip(("eben", "gtcrn", "seanet"), rows, strict=True))
        return "\n".join([*script.HEADER, *(f"| `{name}` | {cell} |" for name, cell in cells.items())])

    text = script.replaced(text, [*script.HEADER, "| `eben` | b |"], second)
    named = "Those of `eben`: CPU time on two."
    assert text == f"before\n{script.BEGIN}\n{table('baa')}\n{first}\n{named}\n{script.END}\nafter\n"
    text = script.replaced(text, ["| `eben` | c |", "| `gtcrn` | c |"], third)
    named = "Those of `seanet`: CPU time on one."
    assert text == f"before\n{script.BEGIN}\n{table('cca')}\n{third}\n{named}\n{script.END}\nafter\n"
    text = script.replaced(text, ["| `seanet` | d |"], third)
    assert text == f"before\n{script.BEGIN}\n{table('ccd')}\n{third}\n{script.END}\nafter\n"


def test_the_networks_that_take_more_than_half_of_a_core_are_explained(script: ModuleType) -> None:
    slow = {name for name, cells in rows(script).items() if cells[2] == "yes" and float(cells[4]) > 0.5}
    notes = [part for part in script.PAGE.read_text().split("\n\n") if "more than half of a core" in part]
    assert len(notes) == bool(slow)
    if slow:
        count = {"One": 1, "Two": 2, "Three": 3, "Four": 4, "Five": 5, "Six": 6}[notes[0].split()[0]]
        assert len(slow) == count
        assert all(f"`{name}`" in notes[0] for name in slow), slow
