"""scripts/soak.py: its judge, what it reads from the kernel, its report, and a short form of each load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from script_loading import load_script

script = load_script("soak")
from soaking.judge import Bounds, Verdict, growth, judged  # noqa: E402
from soaking.sampling import Sample, family, sample, sampled  # noqa: E402

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="reads /proc")

MOMENTS = 40
Change = Callable[[Sample], Sample]


def load(change: Change = lambda each: each, of: str = "main") -> list[Sample]:
    """Return samples of three processes of which nothing grows after warm-up, but for what ``change`` does to one."""
    samples = []
    for moment in range(MOMENTS):
        begins = 300.0 + 10 * min(moment, 9)
        for process, role in enumerate(("main", "loader worker", "scoring process")):
            noise = (moment * 7 + process) % 5  # of 0.6 % at most
            each = Sample(float(moment), process, role, begins + 0.5 * noise, 20 + moment % 2, 5, 3)
            samples.append(change(each) if role == of else each)
    return samples


def broken(samples: list[Sample], zombies: int = 0) -> list[str]:
    return [each.what for each in judged(samples, zombies, Bounds()) if not each.holds]


def test_what_rises_in_the_warm_up_and_goes_up_and_down_afterwards_is_no_growth() -> None:
    assert broken(load()) == []
    assert len(judged(load(), 0, Bounds())) == 3 + 3 * 4


@pytest.mark.parametrize("of", ["main", "loader worker", "scoring process"])
@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("memory", lambda each: replace(each, megabytes=each.megabytes + 0.4 * each.seconds)),
        ("handles", lambda each: replace(each, handles=each.handles + int(each.seconds) // 5)),
        ("threads", lambda each: replace(each, threads=each.threads + int(each.seconds) // 20)),
        ("shared mappings", lambda each: replace(each, segments=each.segments + int(each.seconds) // 20)),
    ],
)
def test_whatever_grows_in_whichever_process_is_named(what: str, change: Change, of: str) -> None:
    number = ("main", "loader worker", "scoring process").index(of)
    assert broken(load(change, of)) == [f"{of} {number}: growth of {what}"]


def test_zombies_and_processes_that_are_replaced_or_become_more_are_named() -> None:
    assert broken(load(), zombies=1) == ["zombies"]
    restarted = load(lambda each: replace(each, process=9) if each.seconds > 30 else each, "scoring process")
    assert broken(restarted) == ["processes, beside each loader worker, that began or ended after warm-up"]
    passing = [Sample(float(moment), 100 + moment, "loader worker", 300.0, 20, 1, 3) for moment in range(MOMENTS)]
    assert broken(sorted([*load(), *passing], key=lambda each: each.seconds)) == []
    more = [
        Sample(float(moment), 100 + number, "loader worker", 300.0, 20, 1, 3)
        for moment in range(MOMENTS)
        for number in range(moment // 5)
    ]
    assert broken([*load(), *more]) == ["growth of the number of processes"]


def test_a_value_that_is_no_number_breaks_its_bound_and_few_samples_are_refused() -> None:
    assert not Verdict("drift", float("nan"), 1.0).holds
    assert Verdict("drift", 1.0, 1.0).holds
    assert growth([1, 1, 5, 3]) == 2
    with pytest.raises(ValueError, match="samplings after warm-up"):
        judged(load()[:9], 0, Bounds())


@pytest.mark.slow
def test_the_kernel_tells_of_children_zombies_handles_and_shared_memory(tmp_path: Path) -> None:
    begun = sample(os.getpid(), "main", 0.0)
    assert begun is not None
    code = (
        "import mmap, os, sys\n"
        "shared = mmap.mmap(-1, 4096)\n"
        "files = [open(sys.argv[1], 'w') for _ in range(30)]\n"
        "if os.fork() == 0: os._exit(0)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert child.pid in family(os.getpid())
        deadline = time.monotonic() + 60
        zombies = 0
        while not zombies and time.monotonic() < deadline:  # the grandchild ends at its own time
            samples, zombies = sampled(child.pid, 1.0)
        assert zombies == 1
        [of_child] = samples
        assert of_child.role == "main"
        assert of_child.handles >= 33
        assert of_child.segments == 1
        assert of_child.threads == 1
        assert 1 < of_child.megabytes < 200
    finally:
        child.kill()
        child.communicate()
    assert sample(child.pid, "main", 0.0) is None


@pytest.mark.parametrize(("value", "status"), [(0.01, 0), (0.03, 1)])
def test_the_report_is_written_and_the_status_tells_of_a_broken_bound(
    value: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ([Verdict("main 7: growth of memory", value, 0.02, "%")], {"validations": 12})
    monkeypatch.setattr(script, "parts", lambda *_: {"training": lambda: found})
    assert script.main(["--out", str(tmp_path / "new"), "--only", "training"]) == status
    result = json.loads((tmp_path / "new" / "soak.json").read_text())["training"]
    assert result["verdicts"][0]["holds"] is (status == 0)
    assert result["figures"] == {"validations": 12}
    text = (tmp_path / "new" / "soak.md").read_text()
    answer = "**broken**" if status else "holds"
    assert f"| main 7: growth of memory | {100 * value:.2f} % | 2.00 % | {answer} |" in text
    assert ("main 7: growth of memory: 0.03 is above 0.02" in capsys.readouterr().err) is bool(status)


def but_for_time(verdicts: list[Verdict]) -> list[Verdict]:
    """Leave out what a busy machine may break."""
    return [each for each in verdicts if "CPU time" not in each.what]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["training", "streaming", "silence", "serving"])
def test_a_short_load_keeps_its_bounds(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if part == "serving":
        pytest.importorskip("uvicorn")
    monkeypatch.setattr("soaking.streams.causal_networks", lambda: ["band_gain_causal"])
    # in so short a time scoring processes still load what they need; handles, threads and processes are as for hours
    acts = script.parts(tmp_path, minutes=0.3, hours=0.01, connections=60, bounds=Bounds(memory=1.0, threads=2))
    verdicts, figures = acts[part]()
    assert len(verdicts) >= 5
    assert figures
    assert [each for each in but_for_time(verdicts) if not each.holds] == []
