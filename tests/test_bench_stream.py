"""The table of streams: what failed is told with its reason and tried again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from script_loading import load_script

from bcfusion.errors import ExportError


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("bench_stream")


def measured(**others: Any) -> dict[str, Any]:
    time = {"median_ms": 1.0, "p99_ms": 2.0, "memory_mb": 90.0, "frames": 100}
    sizes: dict[str, Any] = {"bytes": {"fp32": 2e6, "int8": 1e6}, "sensors": 1, "sherpa": 2e-7}
    network = {"causal": True, "sample_rate": 16000, "frame": 64, "latency": 128, "state": 10}
    return {**network, **sizes, "torch": time, "fp32": time, "int8": time, **others}


def test_what_failed_or_was_refused_stands_below_the_table_with_the_reason(script: ModuleType) -> None:
    results = {
        "good": measured(),
        "broken": {"failed": "a | b cannot be written as ONNX"},
        "slow": measured(int8={"failed": "out of memory"}),
        "two": measured(sherpa="refused: it takes 2 sensors"),
        "files": {"causal": False},
    }
    lines = script.report(results)
    rows = [line for line in lines if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["good", "slow", "two"]
    assert rows[0].endswith("| 2e-07 |")
    assert rows[2].endswith("| refused |")
    assert lines[-4:] == [
        "",
        "- `broken` is not in the table: a | b cannot be written as ONNX",
        "- `slow`, int8: out of memory",
        "- `two`, sherpa: refused: it takes 2 sensors",
    ]
    assert script.told("broken", results["broken"]) == "broken: failed: a | b cannot be written as ONNX"
    assert script.told("files", results["files"]) == "files: not causal"
    assert script.report({"good": measured()})[-1].startswith("| `good`")


def test_a_network_of_which_a_part_failed_is_measured_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"good": measured(), "slow": measured(int8={"failed": "out of memory"}), "files": {"causal": False}}
    (tmp_path / "kept.json").write_text(script.json.dumps(kept))
    tried = []

    def bench(name: str, seconds: float) -> dict[str, Any]:
        tried.append(name)
        return measured()

    monkeypatch.setattr(script, "bench", bench)
    monkeypatch.setattr(sys, "argv", ["bench_stream.py", "--json", str(tmp_path / "kept.json"), *kept])
    script.main()
    assert tried == ["slow"]


def test_the_reason_of_a_failure_is_the_first_line_of_the_message(script: ModuleType) -> None:
    def fail() -> dict[str, Any]:
        raise ExportError("it cannot be made a graph\nadvice of torch")

    assert script.attempted(fail) == {"failed": "it cannot be made a graph"}
