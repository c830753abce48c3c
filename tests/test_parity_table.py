"""docs/parity.md has what scripts/parity_table.py writes, for every comparison and every option."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from script_loading import load_script

ROOT = Path(__file__).parents[1]
#: choices that experiment=eben makes like the public code
ALIKE = {"clipped hinge", "balancer"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("parity_table")


@pytest.fixture(scope="module")
def settings(script: ModuleType) -> dict[str, list[str]]:
    sys.path.append(str(script.TESTS))
    import eben_steps  # without the public code: only its PublicStep needs that

    return dict(eben_steps.SETTINGS)


def table(script: ModuleType, markers: tuple[str, str]) -> list[str]:
    text = script.PAGE.read_text()
    assert all(text.count(marker) == 1 for marker in markers)
    lines = text.partition(markers[0])[2].partition(markers[1])[0].split("\n")
    return [line for line in lines if line.startswith("|")][2:]


def test_every_deliberate_difference_is_explained_with_the_options_that_remove_it(
    script: ModuleType, settings: dict[str, list[str]]
) -> None:
    assert set(script.OURS) == settings.keys() - ALIKE | {"filter bank"}
    rows = table(script, script.DIFFERENCES)
    assert len(rows) == len(script.OURS) + 2  # the public form itself, and all differences together
    for name in script.OURS.keys() & settings.keys():
        ours, why = script.OURS[name]
        row = next(row for row in rows if row.startswith(f"| {ours} | {why} |"))
        assert all(f"`{option}`" in row for option in settings[name])


def test_every_comparison_of_the_page_is_within_the_limit(script: ModuleType) -> None:
    rows = [row.strip("| ").split(" | ") for row in table(script, script.FOUND)]
    assert {row[0].split()[0] for row in rows} >= {"vibravox", "asteroid", "hifi-gan", "hifi-gan-bwe", "encodec"}
    assert all(float(row[-1]) <= 1e-4 for row in rows)


def test_a_table_replaces_what_is_between_its_markers(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    begin, end = script.FOUND
    script.PAGE.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    script.write(script.table_of_found([("a 1.0", "b", 3.21e-7)]), script.FOUND)
    text = script.PAGE.read_text()
    assert text.startswith(f"before\n{begin}\n\n| public code |")
    assert "| a 1.0 | b | 3e-07 |\n" in text
    assert text.endswith(f"{end}\nafter\n")
    assert "old" not in text
