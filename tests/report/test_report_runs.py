from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_runs import made_up_run, utterances

from bcfusion.errors import CheckpointError
from bcfusion.report.comparison.event_times import wall_times
from bcfusion.report.comparison.run import read_run
from bcfusion.report.comparison.run_files import read_history, read_scores
from bcfusion.report.comparison.runs import find_runs
from bcfusion.run.jobs import FAILED, PRUNED


def event(seconds: float, content: bytes = b"") -> bytes:
    """A record of a TensorBoard file: length, checksum, an event with its wall time first, checksum."""
    data = b"\x09" + struct.pack("<d", seconds) + content
    return struct.pack("<QI", len(data), 0) + data + struct.pack("<I", 0)


def test_settings_and_results_of_a_run_are_read(tmp_path: Path) -> None:
    run = read_run(made_up_run(tmp_path / "a", "optimizer.lr=0.001", "+data.root=x", valid_stoi=(0.7, 0.85, 0.8)))
    assert (run.recipe, run.experiment, run.state) == ("bone_to_air", "seanet", "finished")
    assert run.overrides == {"experiment": "seanet", "optimizer.lr": "0.001", "data.root": "x"}
    assert (run.best["stoi"], run.best_step, run.step) == (0.85, 200, 300)
    assert run.parameters == 20  # running means are not trained
    assert run.latency_ms == 20.0
    assert run.steps_per_second == 4.0  # the median, not the first
    assert run.settings["optimizer"]["lr"] == 1e-3
    assert run.higher_is_better == {"stoi": True, "lsd": False, "si_sdr_lag_ms": None, "selection": True}
    assert run.means("closing")["stoi"] == pytest.approx(0.85, abs=1e-6)
    assert run.input_means("best") == {"input": {"stoi": 0.6}}


def test_best_values_that_are_logged_again_keep_their_step(tmp_path: Path) -> None:
    # best.ckpt is of step 100; at 200 another checkpoint improves and the same bests are logged once more
    assert read_run(made_up_run(tmp_path / "a", valid_stoi=(0.8, 0.7))).best_step == 100


def test_time_is_the_sum_over_sessions_without_pauses(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "a")
    record = json.loads((folder / "run.json").read_text())
    second = {"started": "2026-01-02T10:00:00+0000", "overrides": ["experiment=seanet"]}
    (folder / "run.json").write_text(json.dumps({**record, "sessions": [*record["sessions"], second]}))
    first_start = 1767261600.0  # 2026-01-01 10:00 UTC
    day = 86400.0
    times = {"1": (first_start + 5, first_start + 60), "2": (first_start + day + 5, first_start + day + 30)}
    for name, (begin, end) in times.items():
        picture = event(begin + 1, b"\x2a" * 5000)
        torn = event(end + 9)[:-3] if name == "2" else b""  # that session was cut off while it wrote
        records = event(begin) + picture + event(end - 1, b"short") + event(end) + torn
        (folder / f"events.out.tfevents.{name}").write_bytes(records)
    assert read_run(folder).minutes == 1.5


def test_closing_scores_of_an_earlier_session_do_not_count(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "a")
    shutil.rmtree(folder / "bundle")  # as at the start of a resumed session
    run = read_run(folder)
    assert (run.state, run.closing_table, run.means("closing")) == ("unfinished", None, {})


def test_no_events_in_an_empty_or_foreign_file(tmp_path: Path) -> None:
    for content in (b"", b"no events at all, but a text that is long enough"):
        (tmp_path / "file").write_bytes(content)
        assert wall_times(tmp_path / "file") is None


def test_a_network_that_needs_the_whole_file_has_infinite_latency(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "a")
    (folder / "bundle" / "config.yaml").write_text("{sample_rate: 16000, delay: null, hop: 256}")
    assert read_run(folder).latency_ms == math.inf


def test_runs_are_found_at_any_depth_once_and_sweep_jobs_by_number(tmp_path: Path) -> None:
    for job in (10, 2):
        made_up_run(tmp_path / "runs" / "sweeps" / "t" / str(job), f"seed={job}")
    single = made_up_run(tmp_path / "runs" / "bone_to_air" / "seanet" / "t")
    evaluation = single / "evaluation" / "t" / ".hydra"
    evaluation.mkdir(parents=True)
    (evaluation / "overrides.yaml").write_text("[]")
    (evaluation.parent / "train.log").touch()  # below a run there is no other run
    warnings: list[str] = []
    found = find_runs([tmp_path / "runs", single / "bundle", tmp_path / "nowhere", evaluation], warnings.append)
    assert [run.path.name for run in found] == ["t", "2", "10"]
    assert len(warnings) == 1
    assert "nowhere: there is no such folder" in warnings[0]


def test_failed_and_pruned_jobs_and_those_that_never_began_have_a_reason(tmp_path: Path) -> None:
    made_up_run(tmp_path / "0", finished=False)
    (made_up_run(tmp_path / "1", finished=False) / FAILED).write_text("DataError: no speech\n\nTraceback ...")
    (made_up_run(tmp_path / "2", finished=False) / PRUNED).write_text("unpromising after 100 steps\n")
    early = tmp_path / "3"
    (early / ".hydra").mkdir(parents=True)
    (early / ".hydra" / "overrides.yaml").write_text("- experiment=eben\n- optimizer.lr=0.1\n")
    (early / ".hydra" / "config.yaml").write_text("optimizer: {lr: 0.1}\n")
    (early / ".hydra" / "hydra.yaml").write_text(
        "hydra: {runtime: {choices: {recipe: fusion, hydra/launcher: basic}}}\n"
    )
    (early / FAILED).write_text("generator.channels: must be positive\n")
    runs = find_runs([tmp_path], print)
    assert [run.state for run in runs] == ["unfinished", "failed", "pruned", "failed"]
    assert [run.problem for run in runs[1:]] == [
        "DataError: no speech",
        "unpromising after 100 steps",
        "generator.channels: must be positive",
    ]
    failed = runs[3]
    assert (failed.recipe, failed.experiment, failed.best, failed.parameters) == ("fusion", "eben", {}, None)
    assert failed.choices == {"recipe": "fusion"}
    assert failed.settings == {"optimizer": {"lr": 0.1}}


def test_other_folders_and_damaged_files_are_reported_by_name(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    with pytest.raises(CheckpointError, match="foreign is not a run"):
        read_run(tmp_path / "foreign")
    folder = made_up_run(tmp_path / "a")
    (folder / "config.yaml").write_text("a: [1\n")
    (folder / "metrics.csv").write_text("step,valid/stoi\n100,high\n")
    (folder / "bundle" / "generator.safetensors").write_bytes(b"\xff" * 40)
    run = read_run(folder)
    for name, file in (("settings", "config.yaml"), ("history", "metrics.csv"), ("parameters", "safetensors")):
        with pytest.raises(CheckpointError, match=f"{file} cannot be read"):
            getattr(run, name)
    (folder / "run.json").write_text('{"recipe": "fusion"}')
    warnings: list[str] = []
    assert find_runs([folder], warnings.append) == []
    assert "run.json cannot be read" in warnings[0]


def test_a_line_that_is_still_being_written_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss/l1,valid/stoi\n25,0.5,\n50,0.4,0.7\n75,0.")
    history = read_history(tmp_path / "metrics.csv")
    assert history["loss/l1"].steps.tolist() == [25, 50]
    assert history["valid/stoi"].values.tolist() == [0.7]


def test_a_damaged_line_of_the_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss/l1\n25,0.5\n50\n75,0.4\n")
    with pytest.raises(ValueError, match="line 3 has 1 cells, not 2"):
        read_history(tmp_path / "metrics.csv")


def test_a_run_without_its_record_is_distinguished_from_one_that_never_began(tmp_path: Path) -> None:
    for name in ("lost", "never"):
        folder = made_up_run(tmp_path / name)
        (folder / ".hydra" / "overrides.yaml").write_text("[experiment=seanet]\n")
        (folder / "train.log").write_text("")
        (folder / "run.json").unlink()
    (folder / "metrics.csv").unlink()
    problems = {run.path.name: (run.state, run.problem) for run in find_runs([tmp_path], print)}
    assert problems == {
        "lost": ("failed", "its run.json is missing"),
        "never": ("failed", "it ended before it began to train"),
    }


def test_scores_with_further_columns_are_read_by_name(tmp_path: Path) -> None:
    text = "id,system,speaker,corpus,snr,stoi,lsd,skipped\n1,enhanced,007,vctk,5,0.8,,lsd: silent\n"
    (tmp_path / "scores.csv").write_text(text)
    assert read_scores(tmp_path / "scores.csv").systems["enhanced"].metrics == {"stoi": {"1": 0.8}, "lsd": {}}


@pytest.mark.slow
def test_runs_are_read_without_torch(tmp_path: Path) -> None:
    made_up_run(tmp_path / "a", closing=utterances(0.8))
    code = (
        "import sys; from bcfusion.report.comparison.runs import find_runs;"
        "from bcfusion.report.comparison.compare import compare;"
        f"compare([run.require_readable() for run in find_runs([{str(tmp_path)!r}], print)]);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
