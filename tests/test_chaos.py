"""Runs that are interrupted at random moments: the checks of scripts/chaos.py notice what is broken, and nothing is."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from script_loading import SCRIPTS, load_script

from bcfusion.files import write_text
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.training.loggers import CsvLogger, TensorBoardLogger

STEPS, VALIDATE, INTERVAL = 8, 4, 2
SCORES = {4: 0.5, 8: 0.4}


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    return load_script("chaos_checks")


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    return load_script("chaos")


def content(step: int, validated: int, best: int) -> dict[str, Any]:
    scores = {"best": SCORES[best], "best-stoi": SCORES[best]} if best > 0 else {}
    quality = {"best": scores, "best_step": best, "validated_step": validated}
    return {
        "step": step,
        "generator": {"weight": torch.full((3,), float(step))},
        "generator_ema": {"weight": torch.full((3,), step / 2)},
        "discriminators": {"bias": torch.full((2,), -float(step))},
        "critics": {},
        "training": {"quality": quality},
    }


def save_last(run: RunDir, step: int, validated: int | None = None, best: int | None = None) -> None:
    validated = step // VALIDATE * VALIDATE if validated is None else validated
    best = min(validated, VALIDATE) if best is None else best
    further = {"ema_updates": step, "optimizers": [{"exp_avg": torch.full((3,), step / 3)}], "state": {"step": step}}
    checkpoint.write(run.last, {**content(step, validated or -1, best or -1), **further, "random": [], "clock": {}})


def log(path: Path, steps: range, first_step: int = 0) -> None:
    """Write the curves of some steps."""
    loggers = [CsvLogger(path, first_step), TensorBoardLogger(path, first_step)]
    for step in steps:
        for logger in loggers:
            logger.log_metrics({"loss/l1": 1 / step, "rate/steps_per_second": random.random()}, step=step)
            if step % VALIDATE == 0:
                logger.log_metrics({"valid/stoi": SCORES[step]}, step=step)
    loggers[1].finalize("success")


def made_up(path: Path) -> RunDir:
    """A run as one that came to its end leaves it."""
    run = RunDir(path)
    log(path, range(1, STEPS + 1))
    save_last(run, STEPS)
    for name in ("best", "best-stoi"):
        checkpoint.write(run.checkpoints / f"{name}.ckpt", content(4, 4, 4))
    write_text(run.record, json.dumps({"sessions": [{}]}) + "\n")
    for file in (run.config, run.overrides, run.hydra_overrides, run.bundle / "config.yaml"):
        write_text(file, "seed: 0\n")
    for step in (4, 8):
        write_text(run.quality / f"valid-{step:07d}.csv", f"id,system,stoi\na,enhanced,{SCORES[step]}\n")
    write_text(run.quality / "test.csv", "id,system,stoi\na,enhanced,0.5\n")
    write_text(run.quality / "test.md", "| stoi |\n")
    run.samples.mkdir()
    soundfile.write(run.samples / "0-a.input.wav", np.zeros(800), 16000)
    (run.samples / "0-a.png").write_bytes(b"picture IEND\xaeB`\x82")
    save_file({"weight": torch.zeros(3)}, run.bundle / "generator.safetensors")
    return run


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, checks: ModuleType) -> Any:
    path = tmp_path_factory.mktemp("reference") / "run"
    made_up(path)
    return checks.Reference.read(path, INTERVAL)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return made_up(tmp_path / "run")


def known(checks: ModuleType, **changes: Any) -> Any:
    values = {"step": 6, "best": {"best": 0.5, "best-stoi": 0.5}, "sessions": 1}
    return checks.Known(**{**values, **changes})


def found(checks: ModuleType, reference: Any, run: RunDir, reached: int = STEPS, **changes: Any) -> list[str]:
    problems, _ = checks.interrupted(run.path, reference, known(checks, **changes), reached, began=True)
    return problems


def cut(file: Path) -> None:
    """Leave a part of a file, as a plain write does that was interrupted."""
    os.truncate(file, file.stat().st_size * 2 // 3)


def append(file: Path, text: str) -> None:
    with file.open("a") as stream:
        stream.write(text)


def drop_line(file: Path, start: str) -> None:
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(start)))


def without_events(path: Path, steps: range) -> None:
    """Replace the events by those of other steps."""
    for file in path.glob("events.*"):
        file.unlink()
    rows = (path / "metrics.csv").read_bytes()
    log(path, steps)
    (path / "metrics.csv").write_bytes(rows)


def twice(path: Path) -> None:
    """Add events of steps that are there already, as a session does that does not hide them."""
    rows = (path / "metrics.csv").read_bytes()
    log(path, range(7, 9))
    (path / "metrics.csv").write_bytes(rows)


def test_a_run_that_holds_what_it_promises_has_no_problem(checks: ModuleType, reference: Any, run: RunDir) -> None:
    assert found(checks, reference, run) == []
    assert checks.closed(run.path, reference) == []


def test_an_interrupted_run_has_no_problem(checks: ModuleType, reference: Any, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    nothing = checks.Known()
    assert checks.interrupted(run.path, reference, nothing, -1, began=False) == ([], nothing)
    log(run.path, range(1, 4))  # killed in the fourth step
    save_last(run, 2)
    append(run.metrics, "4,0.2")  # torn
    part = run.checkpoints / ".last.ckpt.0123abcd.part"
    part.write_bytes(b"half")
    problems, now = checks.interrupted(run.path, reference, nothing, 3, began=True)
    assert problems == []
    assert (now.step, now.hidden) == (2, (part,))
    save_last(run, 4, validated=0)  # stopped in the validation of step 4
    log(run.path, range(3, 5), first_step=2)
    drop_line(run.metrics, "4")
    append(run.metrics, "4,0.25,0.1,\n")
    part.unlink()
    problems, now = checks.interrupted(run.path, reference, now, 4, began=True, at_once=True)
    assert problems == []


BROKEN: dict[str, tuple[Callable[[RunDir], object], str]] = {
    "last cut off": (lambda run: cut(run.last), "last.ckpt cannot be read"),
    "best cut off": (lambda run: cut(run.best), "best.ckpt cannot be read"),
    "last lost": (lambda run: run.last.unlink(), "last.ckpt is lost"),
    "best lost": (lambda run: (run.checkpoints / "best-stoi.ckpt").unlink(), "best-stoi.ckpt is lost"),
    "last older": (lambda run: save_last(run, 4), "went back from step 6 to 4"),
    "last too old": (lambda run: save_last(run, 4), "4 steps are to be repeated, from 4 to 8: more than 2"),
    "best worse": (lambda run: checkpoint.write(run.best, content(8, 8, 8)), "best.ckpt got worse: 0.5 before, 0.4"),
    "best of another": (
        lambda run: checkpoint.write(run.best, content(8, 8, 8)),
        "best.ckpt is not the best of last.ckpt: 0.5 there, 0.4 here",
    ),
    "record cut off": (lambda run: cut(run.record), "run.json cannot be read"),
    "record lost": (lambda run: run.record.unlink(), "run.json is lost"),
    "sessions lost": (lambda run: run.record.write_text('{"sessions": []}'), "names 0 sessions after 1"),
    "row twice": (lambda run: append(run.metrics, "8,0.125,0.1,0.4\n"), "steps are repeated or out of order"),
    "gap in the rows": (lambda run: drop_line(run.metrics, "5,"), "a gap, steps [5] are missing up to step 8"),
    "torn row": (lambda run: append(run.metrics, "9,0,0,0,0,0,0\n"), "a torn line, 9,0"),
    "other row": (
        lambda run: run.metrics.write_text(run.metrics.read_text().replace("8,0.125", "8,0.126")),
        "step 8 has not the values",
    ),
    "rows lost": (lambda run: cut(run.metrics), "a gap"),
    "events lost": (lambda run: without_events(run.path, range(1, 7)), "a gap, steps [7, 8] of loss/l1"),
    "first events lost": (lambda run: without_events(run.path, range(3, 9)), "a gap, steps [1, 2] of loss/l1"),
    "events twice": (lambda run: twice(run.path), "steps of loss/l1 are repeated or out of order"),
    "settings cut off": (lambda run: run.config.write_text("seed: [0"), "config.yaml cannot be read"),
    "settings empty": (lambda run: run.hydra_overrides.write_text(""), "overrides.yaml is empty"),
    "table cut off": (lambda run: cut(run.quality / "test.csv"), "quality/test.csv is cut off"),
    "sound cut off": (lambda run: cut(run.samples / "0-a.input.wav"), "0-a.input.wav"),
    "picture cut off": (lambda run: cut(run.samples / "0-a.png"), "0-a.png is cut off"),
    "bundle cut off": (lambda run: cut(run.bundle / "generator.safetensors"), "generator.safetensors cannot be read"),
    "bundle half": (lambda run: (run.bundle / "generator.safetensors").unlink(), "the bundle has no generator.safe"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_an_interruption_has_broken_is_noticed(checks: ModuleType, reference: Any, run: RunDir, name: str) -> None:
    break_, says = BROKEN[name]
    break_(run)
    problems = found(checks, reference, run)
    assert any(says in problem for problem in problems), problems


def test_what_a_killed_session_has_left_must_be_gone_after_the_next_one(
    checks: ModuleType, reference: Any, run: RunDir
) -> None:
    part = run.samples / ".0-a.png.0123abcd.part"
    part.write_bytes(b"half")
    assert found(checks, reference, run) == []
    assert any(".0-a.png.0123abcd.part of an earlier" in text for text in found(checks, reference, run, hidden=(part,)))
    assert checks.closed(run.path, reference) == ["samples/.0-a.png.0123abcd.part is left"]


def test_a_first_signal_repeats_no_step(checks: ModuleType, reference: Any, run: RunDir) -> None:
    save_last(run, 7)
    before = known(checks)
    assert checks.interrupted(run.path, reference, before, STEPS, began=True)[0] == []
    problems, _ = checks.interrupted(run.path, reference, before, STEPS, began=True, at_once=True)
    assert problems == ["1 steps are to be repeated, from 7 to 8: more than 0"]


def other_bit(run: RunDir, *path: Any) -> None:
    """Change the last bit of a number in ``last.ckpt``."""
    state = checkpoint.read(run.last)
    inner: Any = state
    for key in path:
        inner = inner[key]
    inner.view(torch.int32)[-1] ^= 1
    checkpoint.write(run.last, {key: value for key, value in state.items() if key not in ("kind", "format")})


OTHER_END: dict[str, tuple[Callable[[RunDir], object], str]] = {
    "generator": (lambda run: other_bit(run, "generator", "weight"), "generator.weight is not that of"),
    "average": (lambda run: other_bit(run, "generator_ema", "weight"), "generator_ema.weight is not that of"),
    "discriminator": (lambda run: other_bit(run, "discriminators", "bias"), "discriminators.bias is not that of"),
    "optimiser": (lambda run: other_bit(run, "optimizers", 0, "exp_avg"), "optimizers[0].exp_avg is not that of"),
    "best": (lambda run: checkpoint.write(run.best, content(8, 8, 8)), "best.ckpt: step is not that of"),
    "rows": (lambda run: append(run.metrics, "9,0,0,0\n"), "metrics.csv: rows differ"),
    "curves": (lambda run: twice(run.path), "TensorBoard: curves differ"),
    "table": (lambda run: append(run.quality / "test.csv", "b,enhanced,0.1\n"), "quality/test.csv differs"),
    "validation": (lambda run: (run.quality / "valid-0000004.csv").unlink(), "valid-0000004.csv is missing"),
    "bundle": (
        lambda run: save_file({"weight": torch.ones(3)}, run.bundle / "generator.safetensors"),
        "bundle/generator.safetensors differs",
    ),
    "mark": (lambda run: write_text(run.running, "{}"), "running.json is left"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_END)
def test_an_end_that_differs_is_noticed(checks: ModuleType, reference: Any, run: RunDir, name: str) -> None:
    break_, says = OTHER_END[name]
    break_(run)
    problems = checks.closed(run.path, reference)
    assert any(says in problem for problem in problems), problems


def test_kinds_are_dealt_by_their_shares_and_the_seed(chaos: ModuleType) -> None:
    assert sum(chaos.SHARES.values()) == 100
    kinds = list(chaos.SHARES)
    dealt = chaos.deal(kinds, 100, random.Random(0))
    assert Counter(kill.kind for kill in dealt) == chaos.SHARES
    assert dealt == chaos.deal(kinds, 100, random.Random(0))
    assert dealt != chaos.deal(kinds, 100, random.Random(1))
    for number in (1, 7, 13):
        assert len(chaos.deal(kinds, number, random.Random(0))) == number


def test_the_report_counts_where_interruptions_hit_and_names_what_broke(chaos: ModuleType, tmp_path: Path) -> None:
    kills = [
        chaos.Kill("SIGKILL", "", 0.0, 0.0, run=1, hit="validation", step=8, saved=4, hidden=1),
        chaos.Kill("SIGKILL", "", 0.0, 0.0, run=1, hit="checkpoint writing", step=8, saved=8, problems=["it broke"]),
    ]
    report = chaos.Report("command", kills, [(2, "it hangs")], runs=3)
    report.write(tmp_path)
    text = (tmp_path / "chaos.md").read_text()
    assert "| SIGKILL | 0 | 0 | 1 | 1 | 0 | 2 |" in text
    assert "at most 4 (mean 2.0)" in text
    record = json.loads((tmp_path / "chaos.json").read_text())
    assert record["broken"] == ["run 1, SIGKILL at step 8 in checkpoint writing: it broke", "run 2: it hangs"]
    assert all(line in text for line in record["broken"])
    assert len(record["kills"]) == 2


@pytest.mark.slow
def test_processes_of_a_session_are_found_until_they_end(chaos: ModuleType) -> None:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        assert chaos.members(process.pid) == [process.pid]
        process.kill()
        process.wait()
        assert chaos.members(process.pid) == []
    finally:
        process.kill()
        process.wait()


def interrupts(out: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the script; return its status, its record, and what it printed."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "chaos.py"), "--out", str(out), *arguments],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        text, _ = process.communicate(timeout=1800)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return process.returncode, json.loads((out / "chaos.json").read_text()), text


@pytest.mark.slow
def test_a_run_that_is_interrupted_at_random_moments_ends_as_if_it_were_not(tmp_path: Path) -> None:
    status, record, text = interrupts(tmp_path / "out", "--kills", "8", "--seed", "1")
    assert record["broken"] == [], text
    assert status == 0, text
    assert len(record["kills"]) == 8
    assert record["runs"] >= 1


@pytest.mark.slow
def test_plain_writes_are_noticed(tmp_path: Path) -> None:
    kinds = "SIGKILL inside a write"
    status, record, text = interrupts(tmp_path / "out", "--kills", "3", "--kinds", kinds, "--plain-writes")
    assert status == 1, text
    assert any("cannot be read" in line for line in record["broken"]), text
