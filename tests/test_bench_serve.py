"""How many streams one core holds: the search for the number, and its table."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from script_loading import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("bench_serve")


def measured(late: float = 0.0, dropped: float = 0.0) -> dict[str, Any]:
    return {
        "frame_ms": 16.0, "frames": 100, "median_ms": 1.0, "p99_ms": 4.0, "late": late, "dropped": dropped, "cpu": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("truth", [0, 1, 3, 16, 20, 47, 100])
def test_the_number_of_streams_grows_until_they_are_too_many_and_is_narrowed_down(
    script: ModuleType, truth: int
) -> None:
    results: dict[int, dict[str, Any]] = {}
    while (count := script.narrowed(results)) is not None:
        assert count not in results
        results[count] = measured(0.0 if count <= truth else 0.3)
    held = max((count for count, result in results.items() if script.holds(result)), default=0)
    assert held <= truth
    assert truth - held <= max(1, truth // 8)
    assert len(results) <= 12


def test_late_and_dropped_answers_count_together(script: ModuleType) -> None:
    assert script.holds(measured(0.0005, 0.0005))
    assert not script.holds(measured(0.0005, 0.0006))
    assert not script.holds({"failed": "no address"})


def test_the_table_has_the_result_below(script: ModuleType) -> None:
    results = {4: measured(), 1: measured(), 16: measured(0.2), 32: {"failed": "a | b"}}
    lines = script.report("throat_causal", results)
    rows = [line for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert [row.split()[1] for row in rows] == ["1", "4", "16", "32"]
    assert rows[1] == "| 4 | 1.0 ms | 4.0 ms | 0.00 % | 0.00 % | 50 % | 12.5 % |"
    assert "fails: a / b" in rows[3]
    assert "One core holds 4 streams of `throat_causal`" in lines[-1]
    assert "at least 4 streams" in script.report("x", {4: measured()})[-1]


def test_the_table_goes_between_the_marks_of_the_page(script: ModuleType) -> None:
    page = (Path(__file__).parents[1] / "docs" / "serve.md").read_text()
    once = script.replaced(page, ["new"])
    assert f"{script.BEGIN}\n\nnew\n\n{script.END}" in once
    assert script.replaced(once, ["new"]) == once
    with pytest.raises(SystemExit, match="no markers"):
        script.replaced("no marks", [])


@pytest.mark.slow
def test_a_stream_of_a_real_server_is_measured(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("fastapi", "uvicorn", "websockets", "python_multipart", "onnxruntime"):
        pytest.importorskip(package)
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("it takes two cores")
    file = tmp_path / "bench.json"
    options = ["--seconds", "2", "--streams", "2", "--backend", "torch", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["bench_serve.py", "throat_causal", *options])
    try:
        script.main()
    finally:
        os.sched_setaffinity(0, before)
    [result] = script.json.loads(file.read_text())["streams"].values()
    assert result["frame_ms"] == 16
    assert result["frames"] == 2 * (125 - 62)
    assert 0 < result["median_ms"] <= result["p99_ms"]
    assert result["cpu"] > 0
    assert "streams of `throat_causal`" in capsys.readouterr().out


def test_the_best_of_three_counts_and_what_holds_is_not_repeated(script: ModuleType) -> None:
    tries = iter([measured(0.3), measured(0.1), measured(0.2), measured()])
    assert script.best(lambda: next(tries)) == measured(0.1)
    tries = iter([{"failed": "x"}, measured(), measured()])
    assert script.best(lambda: next(tries)) == measured()
    assert len(list(tries)) == 1


def test_what_was_measured_on_a_busy_machine_is_not_published(script: ModuleType) -> None:
    assert script.doubts({1: measured(), 4: measured(), 16: measured(0.2)}, 0.3) is None
    assert "load average was 1.5" in script.doubts({1: measured()}, 1.5)
    assert script.doubts({1: measured(0.2), 4: measured()}, 0.3).startswith("1 streams were not held and 4 were")
