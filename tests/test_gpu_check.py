"""scripts/gpu_check.py: every section reports, whatever becomes of the others, within the time that all may take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from script_loading import SCRIPTS, load_script

OK = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('{}')"
GPU = OK.replace("{}", '{"gpu": "one"}')


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("gpu_check")


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return load_script("gpu_page")


@pytest.fixture(scope="module")
def sections() -> ModuleType:
    return load_script("gpu_sections")


def saying(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def planned(**codes: str) -> Callable[..., Sequence[str]]:
    """The command of each section: Python code that gets the file of its result as its argument."""
    return lambda name, *_: saying(codes.get(name, GPU if name == "machine" else OK))


def gone(process: int) -> bool:
    for _ in range(50):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


# ---------------------------------------------------------------- sections


def test_the_sections_leave_time_for_a_training(script: ModuleType) -> None:
    planned = sum(script.LIMITS.values()) + script.RESERVE
    assert planned + script.LEAST_TRAINING < 60 * script.MINUTES


def test_a_section_that_raises_says_why_and_keeps_what_it_had(script: ModuleType, tmp_path: Path) -> None:
    code = f"{OK.replace('{}', json.dumps({'rate': 3}))}; print('working'); raise RuntimeError('no such kernel')"
    entry = script.run_section(script.Section("one", 20.0, saying(code)), tmp_path / "one.json", tmp_path / "log")
    assert entry["status"] == "failed"
    assert entry["reason"] == "RuntimeError: no such kernel"
    assert entry["result"] == {"rate": 3}
    assert "working" in (tmp_path / "log").read_text()


def test_a_section_may_name_its_problem_itself(script: ModuleType, tmp_path: Path) -> None:
    code = f"{OK.replace('{}', json.dumps({'problem': 'out of memory'}))}; sys.exit(1)"
    entry = script.run_section(script.Section("one", 20.0, saying(code)), tmp_path / "one.json", tmp_path / "log")
    assert (entry["status"], entry["reason"], entry["result"]) == ("failed", "out of memory", {})


def test_a_section_that_is_killed_is_reported_by_its_signal(script: ModuleType, tmp_path: Path) -> None:
    code = "import os; print('allocating', flush=True); os.kill(os.getpid(), 11)"
    entry = script.run_section(script.Section("one", 20.0, saying(code)), tmp_path / "one.json", tmp_path / "log")
    assert (entry["status"], entry["reason"]) == ("failed", "ended by SIGSEGV; allocating")


def test_a_section_that_hangs_ends_at_its_limit_with_the_processes_it_started(
    script: ModuleType, tmp_path: Path
) -> None:
    code = (
        "import json, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "pathlib.Path(sys.argv[1]).write_text(json.dumps({'child': child.pid}))\n"
        "time.sleep(600)\n"
    )
    began = time.monotonic()
    entry = script.run_section(script.Section("one", 5.0, saying(code)), tmp_path / "one.json", tmp_path / "log")
    assert time.monotonic() - began < 60
    assert entry["status"] == "over its limit"
    assert entry["reason"] == "it did not end within 5 s"
    assert gone(entry["result"]["child"]), "what was saved before is kept, and names a process that ended too"


@pytest.mark.slow
def test_the_others_report_after_a_section_that_raises_and_one_that_hangs(script: ModuleType, tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {}
    commands = planned(step_eben="raise ValueError('boom')", loader="import time; time.sleep(600)")

    def watched(name: str, *arguments: object) -> Sequence[str]:
        saved = tmp_path / "gpu.json"
        seen[name] = list(json.loads(saved.read_text())["sections"]) if saved.is_file() else []
        return commands(name, *arguments)

    report = script.check(tmp_path, 0.5, None, rehearsal=True, command_of=watched)
    names = [*script.LIMITS, "training"]
    assert list(report["sections"]) == names
    assert all(seen[name] == names[:place] for place, name in enumerate(names)), "saved after each section"
    states = {name: entry["status"] for name, entry in report["sections"].items()}
    assert states.pop("step_eben") == "failed"
    assert states.pop("loader") == "over its limit"
    assert set(states.values()) == {"ok"}
    text = (tmp_path / "gpu.md").read_text()
    assert "`step_eben`: failed, ValueError: boom" in text
    assert "`loader`: over its limit, it did not end within 2 s" in text


@pytest.mark.slow
def test_the_training_gets_the_time_that_is_left_or_is_skipped(script: ModuleType, tmp_path: Path) -> None:
    limits: dict[str, float] = {}

    def noting(name: str, scratch: Path, seconds: float, rate: float | None) -> Sequence[str]:
        limits[name] = seconds
        return planned()(name)

    script.check(tmp_path, 9.0, None, rehearsal=False, command_of=noting)
    assert limits["training"] > 540 - script.RESERVE - 60, "nearly all of it: the others took no time"
    report = script.check(tmp_path, 0.9, None, rehearsal=False, command_of=noting)
    assert report["sections"]["training"]["status"] == "skipped"


def test_the_check_ends_at_once_without_a_gpu(script: ModuleType, tmp_path: Path) -> None:
    ran: list[str] = []

    def noting(name: str, *_: object) -> Sequence[str]:
        ran.append(name)
        return saying(OK)

    with pytest.raises(SystemExit, match="torch finds no GPU; --rehearse runs the same on the CPU"):
        script.check(tmp_path, 1.0, None, rehearsal=False, command_of=noting)
    assert ran == ["machine"]


@pytest.mark.slow
def test_a_check_that_is_ended_takes_its_section_with_it(script: ModuleType, tmp_path: Path) -> None:
    code = (
        f"import signal, sys; sys.path.insert(0, {str(SCRIPTS)!r}); import gpu_check; from pathlib import Path\n"
        "signal.signal(signal.SIGTERM, gpu_check._end)\n"
        'hangs = \'import os, time; open("pid", "w").write(str(os.getpid())); time.sleep(600)\'\n'
        "gpu_check.check(Path('out'), 9, None, True, lambda *_: [sys.executable, '-c', hangs])\n"
    )
    process = subprocess.Popen(saying(code), cwd=tmp_path)
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out DIR says where the results go"),
        (["--out", "out", "--corpus", "nowhere"], "--corpus: nowhere has no folder train/"),
        (["--out", "out", "--minutes", "0"], "--minutes: 0 must be above 0"),
    ],
)
def test_wrong_arguments_are_refused(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments])
    with pytest.raises(SystemExit):
        script.main()
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------- measurements


def test_batches_that_were_read_ahead_are_not_counted(sections: ModuleType) -> None:
    def slow() -> Iterator[int]:
        yield from range(4)  # at once: they were read before
        while True:
            time.sleep(0.02)
            yield 0

    endless = slow()
    assert 10 < sections.delivery_rate(endless, 4, 0.6) < 51


def test_the_curve_has_the_validations_of_a_run_and_the_scores_of_its_input(
    sections: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,loss/l1,rate/steps_per_second,valid/stoi,valid_input/stoi,valid/pesq_wb\n"
        "25,0.5,4.0,,,\n50,0.4,5.0,0.8,0.7,1.5\n75,0.3,6.0,,,\n100,0.2,9.0,0.9,0.7,\n"
    )
    assert sections.curve(path) == {
        "steps": 100,
        "steps_per_second": 5.5,
        "curve": [{"step": 50, "pesq_wb": 1.5, "stoi": 0.8}, {"step": 100, "stoi": 0.9}],
        "input": {"stoi": 0.7},
    }


def test_a_training_of_a_gpu_has_the_published_sizes_and_eight_validations(
    sections: ModuleType, tmp_path: Path
) -> None:
    def setting() -> Any:
        return sections.Setting(215.0, False, "speech", tmp_path, tmp_path, time.monotonic(), steps_per_second=20.0)

    cfg = sections.composed("eben", setting())
    assert cfg.data.batch_size >= 16
    assert cfg.data.segment_seconds >= 2
    command = sections.training_command(setting(), tmp_path)
    given = dict(word.partition("=")[::2] for word in command if "=" in word)
    assert float(given["budget.minutes"]) * 60 == pytest.approx(200, abs=5)
    assert int(given["trainer.validate_every"]) == 500
    assert given["data.root"] == "speech"
    assert str(tmp_path) not in sections._shown(command)
    assert "data.root=FOLDER" in sections._shown(command)


def test_without_pesq_the_training_is_judged_by_stoi(
    sections: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = sections.Setting(215.0, False, None, tmp_path, tmp_path, time.monotonic())
    assert "selection=stoi" not in sections.training_command(setting, tmp_path)
    monkeypatch.setattr(sections, "find_spec", lambda name: None)
    assert "selection=stoi" in sections.training_command(setting, tmp_path)


# ---------------------------------------------------------------- page


def measured(**values: float) -> dict[str, float]:
    return {"items_per_second": 0.0, "memory_bytes": 2**31, "first_seconds": 1.0, **values}


@pytest.fixture
def report() -> dict[str, Any]:
    def entry(**result: Any) -> dict[str, Any]:
        return {"status": "ok", "reason": None, "seconds": 1.0, "limit": 9.0, "result": result}

    step = {"network": "eben", "batch_size": 32, "segment_seconds": 2.5, "compiled": False, "flops_per_step": 2e12}
    return {
        "date": "2030-01-01",
        "rehearsal": False,
        "minutes": 9.0,
        "corpus": "demo",
        "sections": {
            "machine": entry(
                gpu="A GPU",
                gpu_memory_bytes=80 * 2**30,
                capability="9.0",
                multiprocessors=132,
                driver=None,
                torch="2.11.0",
                cuda="13.0",
                cudnn=9,
                python="3.12",
                lightning="2.6",
                bcfusion="0",
                cores=16,
                memory_bytes=2**37,
                peak_size=8192,
                peak_flops={"fp32": 5e13, "bf16-mixed": 8e14},
            ),
            "step_eben": entry(
                **step,
                precisions={
                    "fp32": measured(steps_per_second=5.0, items_per_second=160.0),
                    "tf32": {"problem": "out of memory: tried to allocate"},
                    "bf16-mixed": measured(steps_per_second=10.0, items_per_second=320.0),
                },
            ),
            "compiled_eben": entry(
                **{**step, "compiled": True}, precisions={"bf16-mixed": measured(steps_per_second=20.0)}
            ),
            "loader": entry(
                networks={
                    "eben": {"workers": 8, "batch_size": 32, "segment_seconds": 2.5, "batches_per_second": 8.0},
                }
            ),
            "training": entry(
                command="bcfusion train experiment=eben",
                steps=100,
                steps_per_second=4.0,
                curve=[{"step": 100, "pesq_wb": 2.0, "stoi": 0.9}],
                input={"pesq_wb": 1.5, "stoi": 0.8},
                table="| closing |",
            ),
        },
    }


def rows(text: str, start: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if start in line]


def test_the_share_of_the_peak_is_that_of_the_same_precision(page: ModuleType, report: dict[str, Any]) -> None:
    page.with_shares(report)
    found = report["sections"]["step_eben"]["result"]["precisions"]
    assert found["fp32"]["share_of_peak"] == pytest.approx(2e12 * 5 / 5e13)
    assert found["bf16-mixed"]["share_of_peak"] == pytest.approx(2e12 * 10 / 8e14)
    compiled = report["sections"]["compiled_eben"]["result"]["precisions"]
    assert compiled["bf16-mixed"]["share_of_peak"] == pytest.approx(2e12 * 20 / 8e14), "operations as without compiling"


def test_the_page_has_a_row_for_each_measurement_and_says_what_limits(page: ModuleType, report: dict[str, Any]) -> None:
    page.with_shares(report)
    text = page.markdown(report)
    fp32, tf32, bf16 = rows(text, "| `eben` | 32 x 2.5 s | ")[:3]
    assert fp32[2:] == ["fp32", "5.00", "400", "2.0 GiB", "10 TFLOP/s", "20 %"]
    assert tf32[3] == "out of memory: tried to allocate"
    assert bf16[3:5] == ["10.0", "800"]
    [compiled] = rows(text, "| `eben`, compiled | ")
    assert compiled[3] == "20.0"
    assert rows(text, "| `eben` | 32 x 2.5 s | 8 |") == [
        ["`eben`", "32 x 2.5 s", "8", "8.00", "10.0 (bf16-mixed)", "reading"]
    ]
    report["sections"]["loader"]["result"]["networks"]["eben"]["batches_per_second"] = 12.0
    assert rows(page.markdown(report), "| `eben` | 32 x 2.5 s | 8 |")[0][-1] == "the GPU"
    assert rows(text, "| input | 1.50 |") == [["input", "1.50", "0.800"]]
    assert "Not measured" not in text


def test_the_page_of_a_check_that_measured_nothing_still_says_why(page: ModuleType, report: dict[str, Any]) -> None:
    for entry in report["sections"].values():
        entry |= {"status": "failed", "reason": "no driver", "result": {}}
    text = page.markdown(report)
    assert text.count("failed, no driver") == len(report["sections"])
    assert not page.draw_curve(report, Path("nowhere.png"))


def test_the_docs_get_the_page_of_a_check_and_refuse_a_rehearsal(
    page: ModuleType, report: dict[str, Any], tmp_path: Path
) -> None:
    docs, results = tmp_path / "docs", tmp_path / "results"
    docs.mkdir()
    results.mkdir()
    (docs / "gpu.md").write_text(f"# GPU\n\n{page.BEGIN}\n\nNot run yet.\n\n{page.END}\n\n## After\n")
    assert page.draw_curve(report, results / "gpu_curve.png")
    report["picture"] = "gpu_curve.png"
    (results / "gpu.json").write_text(json.dumps(report))
    page.write_docs(results, docs)
    text = (docs / "gpu.md").read_text()
    assert text.startswith("# GPU\n")
    assert text.endswith("\n## After\n")
    assert "Not run yet" not in text
    assert "(pictures/gpu_curve.png)" in text
    assert (docs / "pictures" / "gpu_curve.png").is_file()
    (results / "gpu.json").write_text(json.dumps({**report, "rehearsal": True}))
    with pytest.raises(SystemExit, match="is a rehearsal"):
        page.write_docs(results, docs)
    with pytest.raises(SystemExit, match=r"holds no readable gpu\.json"):
        page.write_docs(docs, docs)


def test_the_page_in_the_documentation_can_be_replaced(page: ModuleType) -> None:
    text = (SCRIPTS.parent / "docs" / "gpu.md").read_text()
    assert text.count(page.BEGIN) == text.count(page.END) == 1
    assert text.index(page.BEGIN) < text.index(page.END)


# ---------------------------------------------------------------- all of it


@pytest.mark.slow
def test_a_rehearsal_goes_through_every_section(script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--out", str(out), "--rehearse"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, timeout=900)
    log = (out / "gpu_log.txt").read_text()
    assert done.returncode == 0, done.stdout + log[-3000:]
    report = json.loads((out / "gpu.json").read_text())
    assert list(report["sections"]) == [*script.LIMITS, "training"]
    assert {entry["status"] for entry in report["sections"].values()} == {"ok"}
    text = (out / "gpu.md").read_text()
    for network in ("eben", "seanet", "dccrn", "bsrnn"):
        for precision in ("fp32", "tf32", "bf16-mixed"):
            [row] = rows(text, f"| `{network}` | 2 x 0.256 s | {precision} |")
            assert float(row[3]) > 0
            assert row[-1].endswith("%"), "a share of the measured peak"
        assert rows(text, f"| `{network}` | 2 x 0.256 s | ")[3][-1] in ("reading", "the GPU")
    assert len(rows(text, "| `eben`, compiled |")) == 1
    assert report["sections"]["training"]["result"]["steps"] == 4
    assert "| enhanced |" in text
    assert text.startswith("**A rehearsal")
    # few enough to be copied from a machine that hands back single files
    assert {path.name for path in out.iterdir()} == {
        *("gpu.json", "gpu.md", "gpu_log.txt", "gpu_metrics.csv", "gpu_curve.png")
    }
