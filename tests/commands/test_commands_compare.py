"""Compare as a user types it, on made-up runs and on a real sweep."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY
from made_up_runs import made_up_run, utterances
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from bcfusion.commands.compare import main
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.report.comparison.dead import dead_runs
from bcfusion.run.alive import mark_alive
from bcfusion.run.layout import RunDir

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two finished runs, one that failed, one that is unfinished, and a folder without runs."""
    folder = tmp_path / "runs"
    made_up_run(folder / "a", "seed=1", settings={"seed": 1}, valid_stoi=(0.80,), closing=utterances(0.800, seed=1))
    made_up_run(folder / "b", "seed=2", settings={"seed": 2}, valid_stoi=(0.82,), closing=utterances(0.812, seed=2))
    made_up_run(folder / "c", "seed=3", settings={"seed": 3}, finished=False, valid_stoi=(0.7,))
    failed = made_up_run(folder / "d", "seed=4", settings={"seed": 4}, finished=False)
    (failed / "failed.txt").write_text("DataError: no [speech]\n")
    (folder / "notes").mkdir()
    return folder


def test_table_paths_and_differences_are_printed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), str(runs / "notes")]) == 0
    output, errors = capsys.readouterr()
    lines = output.splitlines()
    assert f"  1 {runs / 'b'}" in lines
    assert "4 seanet seed=4: failed: DataError: no [speech]" in lines  # brackets are no markup
    assert "3 seanet seed=3: unfinished: at step 100, best at step 100, no closing scores" in lines
    assert any(line.startswith("  seanet seed=1 is worse than seanet seed=2 in STOI by 0.012 [0.01") for line in lines)
    assert errors == f"{runs / 'notes'}: no run in it\n"


def test_runs_of_another_test_set_are_reported_in_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = made_up_run(runs / "e", "seed=5", settings={"seed": 5}, valid_stoi=(0.81,)) / "quality" / "test.csv"
    scores.write_text(scores.read_text().replace("test/", "other/"))
    assert main([str(runs), "--output", str(runs / "t.md")]) == 0
    output = capsys.readouterr().out
    said = "no utterance in common with seanet seed=2, so not compared to it: 2"
    assert said in output.splitlines()
    assert "seanet seed=1 is worse than seanet seed=2" in output
    assert "seanet seed=5 and" not in output
    assert f"\nN{said[1:]}.\n" in (runs / "t.md").read_text()


def test_differences_are_to_the_requested_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for against in ("2", "seanet seed=1", str(runs / "a")):
        assert main([str(runs), "--against", against]) == 0
        assert "seanet seed=2 is better than seanet seed=1 in STOI by 0.012" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no such run"):
        main([str(runs), "--against", "9"])


def test_a_folder_gets_tables_and_pictures(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main([str(runs), "--output", str(output), "--metrics", "stoi"]) == 0
    assert {path.name for path in output.iterdir()} == {
        *("compare.md", "compare.tex", "runs.csv", "differences.csv", "curves.png", "scores.png"),
    }
    text = (output / "compare.md").read_text()
    assert "![curves](curves.png)" in text
    assert "LSD" not in text
    with (output / "differences.csv").open() as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == ["worse"]
    for name in ("curves", "scores"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_one_table_is_written_in_the_format_of_its_name(runs: Path, tmp_path: Path) -> None:
    assert main([str(runs), "--output", str(tmp_path / "t.md"), "--filter", "state=finished", "--sort", "seed"]) == 0
    assert "| 1 | seanet | 0.800 | 1 |" in (tmp_path / "t.md").read_text()
    assert main([str(runs), "--output", str(tmp_path / "t.tex")]) == 0
    assert (tmp_path / "t.tex").read_text().startswith("\\begin{table}")
    assert main([str(runs), "--output", str(tmp_path / "t.csv"), "--reverse"]) == 0
    with (tmp_path / "t.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [f"seanet seed={seed}" for seed in (3, 1, 2, 4)]


def test_damaged_runs_do_not_stop_the_others(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "b" / "quality" / "test.csv").write_text("utterance,score\n1,2\n")
    (runs / "c" / "config.yaml").write_text("[\n")
    assert main([str(runs)]) == 0
    output, errors = capsys.readouterr()
    assert f"  1 {runs / 'a'}" in output.splitlines()
    assert len(errors.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: there is no such folder\ngive run"),
        (["{runs}", "--filter", "stoi>2"], "none of 4 runs fulfils stoi>2"),
        (["{runs}", "--filter", "soti>0"], "did you mean 'stoi'"),
        (["{runs}", "--sort", "selektion"], "did you mean 'selection'"),
        (["{runs}", "--output", "{runs}/a/run.json/x.md"], "cannot be written"),
        (["{runs}", "--output", "{runs}/a/run.json"], "is a file: give a folder"),
    ],
    ids=["nowhere", "none", "key", "sort", "output", "file"],
)
def test_wrong_input_is_one_line(runs: Path, arguments: list[str], says: str) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=says):
        main([argument.format(runs=runs) for argument in arguments])


def test_recipes_have_files_of_their_own(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up_run(runs / "f", recipe="fusion", valid_stoi=(0.9,))
    made_up_run(runs / "g", recipe="fusion", valid_stoi=(0.85,))
    assert main([str(runs), "--output", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {
        f"{name}-{recipe}" for name in ("curves", "scores") for recipe in ("bone_to_air", "fusion")
    }
    assert (tmp_path / "out" / "compare.md").read_text().count("\n# ") == 1  # the second of two titles
    sentences = [line for line in output.splitlines() if " than " in line or "difference between" in line]
    assert not [line for line in sentences if "seanet (" in line and "seed=" in line]  # never across recipes


@pytest.fixture
def debris(runs: Path) -> Path:
    """The runs, a run that never began, an empty directory, a sweep without jobs, all of yesterday."""
    never = runs / "bone_to_air" / "seanet" / "2026-01-01_10-00-00-000001"
    (never / ".hydra").mkdir(parents=True)
    (never / ".hydra" / "overrides.yaml").write_text("[]")
    (never / "train.log").touch()
    never.with_name("2026-01-01_10-00-00-000002").mkdir()
    sweep = runs / "sweeps" / "2026-01-01_10-00-00-000003"
    sweep.mkdir(parents=True)
    (sweep / "multirun.yaml").touch()
    for name in ("b", "d"):
        (runs / name / "checkpoints").mkdir()
        (runs / name / "checkpoints" / "best.ckpt").touch()
    yesterday = time.time() - 90_000
    for path in (runs, *runs.rglob("*")):
        os.utime(path, (yesterday, yesterday))
    return runs


def test_an_evaluated_bundle_with_a_mistake_in_its_description_is_not_dead(debris: Path) -> None:
    bundle = debris / "eben"
    (bundle / "evaluation" / "2026-01-01_10-00-00").mkdir(parents=True)
    (bundle / "evaluation" / "2026-01-01_10-00-00" / "scores.csv").write_text("id,system,stoi\n")
    (bundle / "config.yaml").write_text("sensors: [body\n")
    (bundle / "generator.safetensors").write_bytes(b"weights")
    yesterday = time.time() - 90_000
    for path in (bundle, *bundle.rglob("*")):
        os.utime(path, (yesterday, yesterday))
    assert bundle not in {each.path for each in dead_runs([debris])}


def dead(output: str) -> set[str]:
    return {Path(line.split("  ")[0]).name for line in output.splitlines() if "  " in line}


def test_dead_runs_are_listed_with_their_reason(debris: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(debris)]) == 0
    assert "1 of 5 runs ended before they began and are left out" in capsys.readouterr().err
    times = {f"2026-01-01_10-00-00-00000{number}" for number in (1, 2, 3)}
    assert main([str(debris), "--dead"]) == 0
    output = capsys.readouterr().out
    assert dead(output) == {"c", *times}  # d failed, but has a checkpoint; a and b are finished
    assert "4 dead runs, 0.0 MB; add --remove to delete them" in output
    assert main([str(debris), "--dead", "--checkpoints"]) == 0
    output = capsys.readouterr().out
    assert dead(output) == {"c", "d", *times}
    assert "failed at step 200: DataError: no [speech]" in output


def test_dead_runs_are_removed_after_a_question(
    debris: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="add --yes"):  # nobody is there to answer
        main([str(debris), "--dead", "--remove"])
    for option in (["--filter", "experiment=eben"], ["--output", "table.md"], ["--reverse"]):
        with pytest.raises(ConfigError, match=f"{option[0]}: has no effect on --dead"):
            main([str(debris), "--dead", "--remove", "--yes", *option])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main([str(debris), "--dead", "--remove"]) == 0
    assert (debris / "c").is_dir()
    assert main([str(debris), "--dead", "--remove", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "deleted 4 of 4"
    assert sorted(path.name for path in debris.iterdir() if (path / "run.json").is_file()) == ["a", "b", "d"]
    assert main([str(debris), "--dead"]) == 0
    assert "no dead runs in" in capsys.readouterr().out


def test_living_runs_and_folders_of_runs_are_not_dead(debris: Path) -> None:
    mark_alive(RunDir(debris / "c"))
    (debris / "run.json").write_text("{}")  # a run was once written into the folder of all runs
    assert [run.path.name for run in dead_runs([debris / "c", debris])] == [
        f"2026-01-01_10-00-00-00000{number}" for number in (1, 2, 3)
    ][1:]
    assert main([str(debris / "c")]) == 0


def test_options_of_dead_runs_need_dead(runs: Path) -> None:
    with pytest.raises(ConfigError, match="--remove: belongs to --dead"):
        main([str(runs), "--remove"])


@pytest.mark.slow
def test_hundreds_of_runs_take_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(150):
        made_up_run(tmp_path / "runs" / str(seed), f"seed={seed}", settings={"seed": seed}, valid_stoi=(0.8,))
    begun = time.process_time()
    assert main([str(tmp_path / "runs")]) == 0
    assert time.process_time() - begun < 15
    output = capsys.readouterr().out
    assert f"150 {tmp_path / 'runs'}" in output
    assert "144 more in the tables" in output


@pytest.fixture(scope="module")
def sweep(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three jobs of a real sweep, the last of which fails."""
    folder = tmp_path_factory.mktemp("sweep")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bcfusion.cli", "train", "-m", "experiment=seanet", "optimizer.lr=1e-3,3e-4,-1"),
            *("data=folder", f"data.root={speech}", *TINY, "discriminators=[]"),
            *("trainer.max_steps=2", "trainer.validate_every=1", "trainer.samples=0", "output_root=runs"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    (found,) = folder.glob("runs/sweeps/*")
    assert (found / "1" / "bundle").is_dir(), done.stderr
    return found


@pytest.mark.slow
def test_a_real_sweep_is_compared_with_its_failed_job(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "--output", str(sweep.parent / "out")]) == 0
    output = capsys.readouterr().out
    assert "seanet lr=-1: failed: optimizer.lr" in output  # and by that key alone, though it wrote no configuration
    assert "have 1 utterance with STOI, SI-SDR, aligned SI-SDR in common: too few" in output  # a single test file
    with (sweep.parent / "out" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished", "finished", "failed"]
    assert [row["recipe"] for row in rows] == ["bone_to_air"] * 3
    assert rows[2]["optimizer.lr"] == "-1"
    for row in rows[:2]:
        assert float(row["minutes"]) > 0
        assert float(row["latency_ms"]) > 0
        assert int(row["parameters"]) > 100
        assert 0 < float(row["best/stoi"]) < 1
        assert -60 < float(row["closing/si_sdr"]) < 60
        assert row["step"] == "2"


@pytest.mark.slow
def test_every_job_of_a_sweep_has_its_final_best_values_in_hparams(sweep: Path) -> None:
    tags = []
    for job, rate in (("0", 1e-3), ("1", 3e-4)):
        events = EventAccumulator(str(sweep / job), size_guidance={"scalars": 0}).Reload()
        begun = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        values = HParamsPluginData.FromString(begun).session_start_info.hparams
        assert values["optimizer.lr"].number_value == rate  # a number, so that axes can be scaled and rows sorted
        with (sweep / job / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        for metric in ("stoi", "si_sdr", "selection"):
            final = [float(row[f"best/{metric}"]) for row in rows if row[f"best/{metric}"]][-1]
            assert events.Scalars(f"best/{metric}")[-1].value == pytest.approx(final, abs=1e-6)
        tags.append((set(events.Tags()["scalars"]), set(rows[0]) - {"step"}))
    (one, one_csv), (two, two_csv) = tags
    assert one == two  # the same in all jobs, so that curves lie in one picture
    assert one_csv == two_csv
    assert one_csv <= one  # and the same in both logs


@pytest.mark.slow
def test_hparams_has_differing_columns_first_and_the_best_values_of_all_jobs(sweep: Path) -> None:
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(sweep)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(sweep))
    context = Context(TBContext(data_provider=provider))
    columns = context.hparams_metadata(RequestContext(), "")
    assert sorted(columns) == ["0", "1"]
    # a run that says which columns there are would do so for all: TensorBoard takes the first that it finds
    assert all("_hparams_/experiment" not in tags for tags in columns.values())
    answer = context.hparams_from_data_provider(RequestContext(), "", None)
    table = context.experiment_from_metadata(RequestContext(), "", True, columns, answer)
    assert [info.name for info in table.hparam_infos if info.differs] == ["optimizer.lr"]
    assert {"experiment", "generator", "settings/batch_size", "weight/l1"} <= {info.name for info in table.hparam_infos}
    metrics = [info.name.tag for info in table.metric_infos]
    assert metrics[:2] == ["best/selection", "best/si_sdr"]  # first in the alphabet, and so what is shown at first
