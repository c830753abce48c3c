"""scripts/bench.py: ratios of two sides in turns, and no ratio where there should be none."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import script_loading  # noqa: F401  puts scripts/ on the path
from benchmarks import machine, page, run
from benchmarks.harness import (
    LEAST,
    WARM_UP,
    Disagreement,
    Measured,
    Row,
    Setting,
    agree,
    alone,
    at_least,
    at_most,
    compared,
    in_turns,
    spread,
    verdict,
)
from benchmarks.processes import Failed, call
from benchmarks.rows import CAUSAL, ROWS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


class Clock:
    """A clock that stands still but for what sides add to it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


# ---------------------------------------------------------------- turns and ratios


def test_the_sides_alternate_and_the_warm_up_is_not_counted() -> None:
    order: list[str] = []
    taken = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, Setting(turns=9))
    assert order == ["a", "b"] * (WARM_UP + 9)
    assert {name: len(turns) for name, turns in taken.items()} == {"a": 9, "b": 9}


def test_the_ratio_is_of_the_turns_so_that_a_machine_that_becomes_slower_does_not_change_it() -> None:
    clock, slower = Clock(), itertools.count(1)

    def ours() -> None:
        clock.passes(2.0 * next(slower))

    def other() -> None:
        clock.passes(4.0 * (next(slower) - 1))  # the same slowness, a turn later

    figure = compared("time", "s", "ours", "other", in_turns({"ours": ours, "other": other}, Setting(turns=7), clock))
    assert figure.ratio.median == pytest.approx(0.5, rel=0.1)
    assert figure.ours.measure.high > 1.5 * figure.ours.measure.low
    assert figure.ratio.high < 1.1 * figure.ratio.low


def test_a_side_may_return_its_own_measure() -> None:
    taken = in_turns({"ours": lambda: 300.0, "raw": lambda: 400.0}, Setting(turns=7))
    figure = compared("rate", "segments/s", "ours", "raw", taken)
    assert figure.ratio.median == pytest.approx(0.75)
    assert figure.other is not None
    assert figure.other.measure.median == 400.0


def test_the_limit_of_time_leaves_seven_turns() -> None:
    clock = Clock()
    taken = in_turns(
        {"a": lambda: clock.passes(10), "b": lambda: clock.passes(10)}, Setting(turns=50, seconds=1), clock
    )
    assert len(taken["a"]) == len(taken["b"]) == LEAST


def test_quartiles_enclose_the_median() -> None:
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert spread([2.0]).low == spread([2.0]).high == 2.0
    with pytest.raises(ValueError, match="no turn"):
        spread([])


def test_verdicts_follow_the_direction_of_the_limit() -> None:
    assert [verdict(at_most(0.9), ratio, False) for ratio in (0.9, 0.91)] == ["met", "missed"]
    assert [verdict(at_least(0.7), ratio, False) for ratio in (0.7, 0.69)] == ["met", "missed"]
    assert verdict(None, 0.5, False) == verdict(at_most(0.9), 0.5, True) == ""


@pytest.mark.parametrize("difference", [1.1e-3, float("nan")])
def test_sides_that_differ_are_not_timed(difference: float) -> None:
    assert "relative difference 1.0e-04" in agree("outputs", 1e-4, 1e-3)
    with pytest.raises(Disagreement, match=r"outputs: relative difference .*, tolerance 1e-03"):
        agree("outputs", difference, 1e-3)


# ---------------------------------------------------------------- rows in processes

FAKES = """
from benchmarks.harness import *
def quick(setting, **more):
    how = Setting(**setting)
    sides = {"ours": lambda: 1.0, "peer": lambda: 2.0}
    return Measured([compared("time", "s", *sides, in_turns(sides, how))], [agree("outputs", 0.0, 1e-3)], ["a note"])
def unequal(setting, **more):
    agree("outputs", 0.5, 1e-3)
    raise SystemExit("timed")
def absent(setting, **more):
    raise Missing("not installed: pip install peer==1.0")
def broken(setting, **more):
    raise KeyError("what was not foreseen")
def killed(setting, **more):
    import os
    os._exit(9)
def kinds(setting, **more):
    import os, torch
    return Measured([], [], [os.environ["OMP_NUM_THREADS"], str(torch.get_num_threads())])
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows named after the functions of ``FAKES``, in the processes too."""
    (tmp_path / "fakes.py").write_text(FAKES)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('benchmarks.processes' in each for each in sys.orig_argv):\n"
        "    from benchmarks.harness import Row, at_most\n    from benchmarks.rows import ROWS\n"
        "    for name in ('quick', 'unequal', 'absent', 'broken', 'killed', 'kinds'):\n"
        "        ROWS[name] = Row(name, 'fake', 'peer', f'fakes:{name}', {'time': at_most(0.9)})\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), before])))


def result_of(name: str, **setting: Any) -> dict[str, Any]:
    row = Row(name, "fake", "peer", f"fakes:{name}", {"time": at_most(0.9)})
    return run.measure(row, Setting(turns=7, **setting), f"python scripts/bench.py {name}")


@pytest.mark.slow
def test_a_row_is_a_process_whose_figures_get_verdicts(fakes: None) -> None:
    result = result_of("quick")
    [figure] = result["figures"]
    assert result["status"] == "measured"
    assert (figure["ratio"]["median"], figure["wanted"], figure["verdict"]) == (0.5, "at most 0.9", "met")
    assert result["agreement"] == ["outputs: relative difference 0.0e+00 (tolerance 1e-03)"]
    assert json.loads(json.dumps(result)) == result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("unequal", "FAILED", "not timed: outputs: relative difference 5.0e-01, tolerance 1e-03"),
        ("absent", "missing", "not installed: pip install peer==1.0"),
        ("broken", "FAILED", "KeyError: 'what was not foreseen'"),
        ("killed", "FAILED", "benchmarks.run:serve ended with status 9: no message"),
    ],
)
def test_a_row_without_numbers_says_why(fakes: None, name: str, status: str, reason: str) -> None:
    result = result_of(name)
    assert (result["status"], result["reason"], result["figures"]) == (status, reason, [])


@pytest.mark.slow
def test_a_row_has_the_threads_that_were_asked_for(fakes: None) -> None:
    assert result_of("kinds", threads=1)["notes"] == ["1", "1"]
    assert result_of("kinds", threads=2)["notes"] == ["2", "2"]


@pytest.mark.slow
def test_the_peak_of_the_memory_is_that_of_the_process_itself() -> None:
    """Not of the process that started it, which on Linux ``ru_maxrss`` begins with."""
    held = bytearray(200_000_000)
    assert call("benchmarks.processes:peak_megabytes", 1) < 150
    assert len(held) == 200_000_000
    with pytest.raises(Failed, match="AttributeError"):
        call("benchmarks.processes:no_such_function", 1)


def test_the_stall_is_the_pause_between_steps_beyond_the_usual_one() -> None:
    from benchmarks.stall import EVERY, judged

    steps, now = [], 0.0
    validations = []
    for number in range(1, 3 * EVERY):
        steps.append((now, now + 2.0))
        now += 3.0  # a second between steps
        if number % EVERY == 0:
            validations.append(now)
            now += 20.0
    spans = {name: [] for name in ("checkpoint.best", "scorer.submit", "quality.draw")}
    spans |= {"step.training": steps, "validation": [(begun, begun) for begun in (*validations, now)]}
    spans["step.validation"] = [(begun + 1, begun + 5) for begun in validations]
    spans["scorer.collect"] = [(begun + 8, begun + 16) for begun in (*validations, now)]
    spans["checkpoint.last"] = [(begun + 17, begun + 19) for begun in validations]
    spans["quality.sounds"] = [(begun + 5, begun + 6) for begun in validations]
    after = steps[2 * EVERY + 3][1]  # a picture is logged between later steps
    spans["quality.pictures"] = [
        (validations[1], validations[1]),
        (after, after + 0.5),
        (now, now + 7),
    ]  # and at the end
    found = judged(spans)
    assert found == pytest.approx(
        {
            "stalled": 20.5 / 16,
            "enhancing": 4 / 16,
            "waiting for scores": 8 / 16,
            "sounds and pictures": 1.5 / 16,
            "checkpoints": 2 / 16,
        }
    )


# ---------------------------------------------------------------- rows and page


def test_every_row_names_a_function_that_takes_its_arguments() -> None:
    import importlib
    import inspect

    for row in ROWS.values():
        module, _, function = row.function.partition(":")
        assert row.what, row.name
        assert row.wanted, row.name
        inspect.signature(getattr(importlib.import_module(module), function)).bind({}, **row.arguments)


def test_the_table_of_networks_names_those_that_stream() -> None:
    lines = (ROOT / "docs" / "networks.md").read_text().splitlines()
    causal = [line.split("`")[1] for line in lines if line.startswith("| `") and line.split("|")[4].strip() == "yes"]
    assert sorted(CAUSAL) == sorted(causal)


def measured(figures: list[Any], **others: Any) -> dict[str, Any]:
    from dataclasses import asdict

    result: dict[str, Any] = asdict(Measured(figures, ["outputs: equal"], ["two items"]))
    for figure in result["figures"]:
        figure |= {"wanted": "at most 0.9", "verdict": "missed"}
    row = {"status": "measured", "load_begin": 0.1, "load_end": 1.0, "threads": 2, "rehearsal": False, "commit": "abc"}
    return {**result, **row, "begun": "2026-01-01T00:00:00Z", "command": "python scripts/bench.py seanet", **others}


def test_the_page_shows_figures_misses_a_busy_machine_and_what_is_not_installed() -> None:
    taken = in_turns({"ours": lambda: 1.0, "peer": lambda: 1.0}, Setting(turns=7))
    figures = [compared("time", "s", "ours", "peer", taken), alone("value", "s", "ours", [0.25])]
    row = replace(ROWS["seanet"], name="quiet")
    rows = [row, replace(row, name="busy"), replace(row, name="absent"), replace(row, name="never")]
    results = {
        "machine": machine.describe(),
        "rows": {
            "quiet": measured(figures),
            "busy": measured(figures, load_end=9.0),
            "absent": {**measured([]), "status": "missing", "reason": "not installed: pip install peer==1.0"},
        },
    }
    lines = page.page(rows, results).splitlines()
    cells = {
        name: [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(f"| `{name}`")]
        for name in ("quiet", "busy", "absent", "never")
    }
    assert cells["quiet"][0][1:] == ["time", "1 s", "1 s", "1 (1 to 1)", "at most 0.9", "**missed**", "0.1 to 1.0"]
    assert cells["quiet"][1][1:5] == ["value", "0.25 s", "", "0.25 (0.25 to 0.25)"]
    assert [each[-1] for each in cells["busy"]] == ["0.1 to 9.0 busy"] * 2
    assert [each[5:7] for each in cells["absent"]] == [["at most 0.9", "not installed"]]
    assert [each[5:7] for each in cells["never"]] == [["at most 0.9", "not measured"]]
    assert "  Not installed: pip install peer==1.0." in lines
    assert "**Other programs were running during 1 of 3 rows.**" in lines


def test_results_of_another_machine_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    kept = {"machine": {"cpu": "this"}, "rows": {"seanet": {}}}
    path.write_text(json.dumps(kept))
    assert run.read(path, {"cpu": "this"}) == kept
    assert run.read(path, {"cpu": "that"}) == {"machine": {"cpu": "that"}, "rows": {}}
    assert run.read(tmp_path / "none.json", {"cpu": "that"})["rows"] == {}


def test_the_page_of_the_documentation_is_in_step_with_the_rows() -> None:
    text = PAGE.read_text()
    assert text.startswith(f"{page.TITLE}\n\n{page.INTRODUCTION}\n"), (
        "python scripts/bench.py --write docs/benchmarks.md"
    )
    table = [line for line in text.splitlines() if line.startswith("| `")]
    shown = [(line.split("`")[1], line.split("|")[2].strip(), line.split("|")[6].strip()) for line in table]
    listed = [(row.name, name, str(wanted or "")) for row in ROWS.values() for name, wanted in row.wanted.items()]
    assert sorted(shown) == sorted(listed)
    assert [name for name, _ in itertools.groupby(shown, lambda each: each[0])] == list(ROWS)
    about = [line for line in text.splitlines() if line.startswith("- `")]
    assert about == [page.about(row, None)[0] for row in ROWS.values()]


# ---------------------------------------------------------------- the command


def bench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_rehearsal_measures_rows_and_adds_them_to_what_is_there(tmp_path: Path) -> None:
    done = bench("mr_stft", "start_help", "--rehearse", "--out", "results", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = ("validation_stall", "growth_manifest")
    done = bench(*rows, "--rehearse", "--out", "results", "--write", "page.md", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results" / "benchmarks.json").read_text())
    assert list(results["rows"]) == ["mr_stft", "start_help", *rows]
    for result in results["rows"].values():
        assert result["status"] == "measured", result
        assert result["rehearsal"]
        assert result["agreement"]
        assert all(figure["ratio"]["median"] > 0 for figure in result["figures"][:1])
        assert not any(figure["verdict"] for figure in result["figures"])
    assert results["machine"]["versions"]["torch"]
    text = (tmp_path / "page.md").read_text()
    assert text == (tmp_path / "results" / "benchmarks.md").read_text()
    assert "A rehearsal with tiny sizes" in text


@pytest.mark.slow
def test_mistakes_on_the_command_line_are_named(tmp_path: Path) -> None:
    assert "bench: no row seanett" in bench("seanett", folder=tmp_path).stderr
    assert "--turns must be at least 7" in bench("seanet", "--turns", "3", folder=tmp_path).stderr
    assert "none.json does not exist" in bench("seanet", "--calibration", "none.json", folder=tmp_path).stderr
    listed = bench("stream_*", "--list", folder=tmp_path).stdout
    assert [line.partition(":")[0] for line in listed.splitlines() if not line.startswith(" ")] == [
        f"stream_{name}" for name in CAUSAL
    ]
    assert not (tmp_path / "benchmarks").exists()
