"""Train and evaluate as a user types them: real processes, small networks.

What is refused before anything starts is called in this process (``called``), but for one of each verb.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import TINY, TINY_DISCRIMINATOR, Call
from omegaconf import OmegaConf

from bcfusion.commands.shared.recorded import recorded_overrides
from bcfusion.commands.train import _Session, main
from bcfusion.errors import ConfigError
from bcfusion.files import write_text
from bcfusion.run.alive import mark_alive, unmark_alive
from bcfusion.run.layout import RunDir
from bcfusion.run.log import RunLog

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("HYDRA_FULL_ERROR", "LOCAL_RANK")} | {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
}
SMALL = [*TINY, *TINY_DISCRIMINATOR]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bcfusion.cli", *arguments]


def bcfusion(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )


def corpus(speech: Path) -> list[str]:
    return ["data=folder", f"data.root={speech}"]


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def finished(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a finished run, and what it printed."""
    cwd = tmp_path_factory.mktemp("train")
    done = bcfusion(
        *("train", "experiment=seanet", *corpus(speech), *SMALL),
        *("trainer.max_steps=4", "trainer.validate_every=2", "adversarial.start_step=1", "trainer.samples=1"),
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return only(cwd, "runs/bone_to_air/seanet/*"), done.stdout


def test_train_announces_its_budget_and_closes_with_table_and_paths(finished: tuple[Path, str]) -> None:
    run, output = finished
    assert "Budget: 9 minutes" in output
    assert "none of their speakers is trained on" in output
    for word in ("input", "enhanced", "STOI", "SI-SDR", "tensorboard --logdir runs"):
        assert word in output, word
    paths = [
        line.split(":", 1)[1].strip() for line in output.splitlines() if line.startswith(("bundle:", "spectrogram:"))
    ]
    assert len(paths) == 2
    for path in paths:
        assert (run.parents[3] / path).exists(), path


def test_a_run_knows_how_it_was_configured(finished: tuple[Path, str]) -> None:
    run, _ = finished
    overrides = yaml.safe_load((run / "overrides.yaml").read_text())
    assert "experiment=seanet" in overrides
    for source in (run, run / "bundle", run / "checkpoints" / "best.ckpt"):
        assert recorded_overrides(source) == overrides, source
    record = json.loads((run / "run.json").read_text())
    assert record["choices"]["generator"] == "seanet"
    assert record["sessions"][0]["command"][:3] == ["bcfusion", "train", "experiment=seanet"]


def test_a_run_is_reproduced_from_its_config_yaml_alone(finished: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = finished
    (tmp_path / "kept.yaml").write_bytes((run / "config.yaml").read_bytes())
    done = bcfusion("train", "--config-dir", ".", "--config-name", "kept", "output_root=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = only(tmp_path, "again/bone_to_air/*/*")
    for name in ("bundle/generator.safetensors", "quality/test.csv"):
        assert (again / name).read_bytes() == (run / name).read_bytes(), name
    (tmp_path / "kept.yaml").unlink()  # the run has its own copy
    further = bcfusion("train", f"resume={again}", "trainer.max_steps=6", cwd=tmp_path)
    assert further.returncode == 0, further.stderr
    assert "Resumed at step 4" in further.stdout


@pytest.mark.parametrize(
    ("model", "typed", "files"),
    [("", [], 2), ("bundle", ["trainer.max_valid_items=1"], 1), ("checkpoints/best-stoi.ckpt", [], 2)],
)
def test_evaluate_starts_from_the_settings_of_the_run(
    finished: tuple[Path, str], tmp_path: Path, model: str, typed: list[str], files: int, called: Call
) -> None:
    run, _ = finished
    settings = ["metrics=[lsd]", "split=valid", f"output={tmp_path / 'out'}", "trainer.samples=0", *typed]
    done = called("evaluate", str(run / model), *settings)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert lines[0] == "id,system,speaker,corpus,snr,lsd,skipped"
    assert len(lines) == 1 + 2 * files  # both validation files, although training validated on one, if none is typed
    assert ("on the valid files:" if files == 2 else "on 1 of 2 valid files:") in done.stdout
    assert (tmp_path / "out" / "scores.md").read_text().count("|") > 6


def test_evaluating_twice_gives_the_same_bytes(finished: tuple[Path, str], tmp_path: Path, called: Call) -> None:
    """In a process of its own, with a process that scores, and in this one."""
    run, _ = finished
    assert bcfusion("evaluate", str(run), f"output={tmp_path / 'a'}", cwd=tmp_path).returncode == 0
    assert called("evaluate", str(run), f"output={tmp_path / 'b'}").returncode == 0
    assert (tmp_path / "a" / "scores.csv").read_bytes() == (tmp_path / "b" / "scores.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a model first"),
        (["nowhere"], "nowhere: no such run, bundle or shipped model"),
        (["{run}/metrics.csv"], "not a checkpoint"),
        (["{run}", "data=fodler"], "folder"),
        (["{run}", "split=trian"], "valid or test"),
        (["{run}", "recipe=fusion"], "takes body at 16000 Hz"),
        (["{run}", "data.root=/nowhere"], "/nowhere"),
        (["{run}", "generator.channels=9"], "generator.channels: has no effect on a model that has been trained"),
        (["{run}", "losses=[l1]", "+optimizer.betas=[0,1]"], "losses: has no effect"),
        (["{run}", "objective.steps=5"], "the number of steps is steps=N"),
        (["{run}", "experiment=gtcrn"], "experiment: has no effect"),
        (["{run}", "trainer.ema_decay=null"], "trainer.ema_decay: has no effect"),
        (["{run}", "trainer.precision=bf16-mixed"], "trainer.precision: has no effect"),
        (["{run}", "data.augmentation.polarity=0.5"], "data.augmentation.polarity: has no effect"),
        (["{run}", "steps=5"], "steps: SEANet restores speech in one pass"),
        (["{run}", "steps=0"], "steps: must be a whole number above zero, not 0"),
    ],
    ids=[
        *("none", "missing", "no-model", "group", "split", "sensors", "root"),
        *(
            "network",
            "losses",
            "objective",
            "experiment",
            "average",
            "precision",
            "augmentation",
            "one-pass",
            "no-step",
        ),
    ],
)
def test_wrong_input_of_evaluate_is_one_or_two_lines(
    finished: tuple[Path, str], tmp_path: Path, arguments: list[str], says: str, called: Call
) -> None:
    run, _ = finished
    words = ["evaluate", *(argument.format(run=run) for argument in arguments)]
    done = bcfusion(*words, cwd=tmp_path) if arguments == ["nowhere"] else called(*words)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir())
    assert not (run / "evaluation").exists()


def test_resume_by_path_needs_no_other_argument(finished: tuple[Path, str], tmp_path: Path, called: Call) -> None:
    run, _ = finished
    again = bcfusion("train", f"resume={run}", "trainer.max_steps=6", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "Resumed at step 4" in again.stdout
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert [session["resumed_at_step"] for session in sessions] == [None, 4]
    changed = called("train", f"resume={run}", "trainer.max_steps=8", "optimizer.lr=0.5")
    assert changed.returncode == 2
    assert "optimizer.lr: was 0.001, now 0.5" in changed.stderr
    weights = called("train", f"resume={run / 'checkpoints' / 'best.ckpt'}")
    assert weights.returncode == 2
    assert "init_from=" in weights.stderr


OWN = """\
# @package _global_
defaults: [/experiment/seanet, {override /losses: [l1, mr_stft]}, _self_]
losses: {mr_stft: {weight: 2}}
generator: {kernel_size: 7}
"""
CHANGED = """\
# @package _global_
defaults: [/experiment/seanet, {override /losses: [l1, si_snr]}, _self_]
generator: {kernel_size: 5, init_output_scale: 0.5}
optimizer: {lr: 0.5}
"""


def test_a_run_whose_yaml_files_have_changed_goes_on_with_its_own_settings(speech: Path, tmp_path: Path) -> None:
    """As after an update of bcfusion: nobody has typed what differs."""
    own = tmp_path / "conf" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(OWN)
    typed = ["experiment=own", *corpus(speech), *TINY, "discriminators=[]", "trainer.validate_every=1"]
    begun = bcfusion("train", *typed, "trainer.max_steps=1", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    run = only(tmp_path, "runs/bone_to_air/own/*")
    before = yaml.safe_load((run / "config.yaml").read_text())
    own.write_text(CHANGED)
    for words, steps in ([f"resume={run}"], 2), ([*typed, "resume=auto"], 3):
        done = bcfusion("train", *words, f"trainer.max_steps={steps}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"Resumed at step {steps - 1}" in done.stdout
        assert "continues with its own settings" in done.stdout
        assert f"optimizer.lr: was {before['optimizer']['lr']}, now 0.5" in done.stdout, done.stdout
        after = yaml.safe_load((run / "config.yaml").read_text())
        for section in ("generator", "losses", "optimizer"):
            assert after[section] == before[section], section
    refused = bcfusion("train", f"resume={run}", "trainer.max_steps=4", "optimizer.lr=0.25", cwd=tmp_path)
    assert refused.returncode == 2
    said = refused.stderr.partition("keeps the settings it was started with")[2].strip().splitlines()
    assert said[1:] == [f"optimizer.lr: was {before['optimizer']['lr']}, now 0.25"]


def test_a_run_of_another_kind_and_one_that_is_trained_are_not_resumed(finished: tuple[Path, str]) -> None:
    run, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(ConfigError, match="is a run of experiment=seanet, not of experiment=eben"):
        main(["experiment=eben", f"resume={run}"])
    mark_alive(RunDir(run))
    session = _Session(OmegaConf.create({}), run, sweeping=False)
    with RunLog() as log, pytest.raises(ConfigError, match=rf"is being trained by process {os.getpid()} on "):
        session.begin(0, log, "title")
    unmark_alive(RunDir(run))
    assert before.keys() == set(run.rglob("*"))
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items() if path.is_file())


def test_a_run_that_went_on_while_its_checkpoint_was_read_is_not_resumed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    for before, now in ((b"old", b"new"), (None, b"first")):
        if before is None:
            run.last.unlink()
        else:
            write_text(run.last, before.decode())
        session = _Session(OmegaConf.create({}), run.path, sweeping=False)
        write_text(run.last, now.decode())  # by a process that has ended since
        with RunLog() as log, pytest.raises(ConfigError, match="was trained further by another process meanwhile"):
            session.begin(0, log, "title")
        assert not run.running.exists()
        assert [path.name for path in run.path.iterdir()] == ["checkpoints"]


def test_of_two_processes_that_begin_together_one_trains_the_run(speech: Path, tmp_path: Path) -> None:
    arguments = ["train", "experiment=seanet", *corpus(speech), *SMALL, "trainer.validate_every=2", "budget.minutes=9"]
    begun = [
        subprocess.Popen(
            command(*arguments, "hydra.run.dir=run", "resume=auto"),
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        while all(process.poll() is None for process in begun):
            time.sleep(0.1)
        [loser] = [process for process in begun if process.poll() is not None]
        [winner] = [process for process in begun if process is not loser]
        _, errors = loser.communicate(timeout=300)
        assert loser.returncode == 2, errors
        assert f"is being trained by process {winner.pid} on " in errors
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
            assert winner.poll() is None, winner.communicate()
            time.sleep(0.1)
        winner.terminate()
        _, errors = winner.communicate(timeout=300)
        assert winner.returncode == 128 + signal.SIGTERM, errors
        assert len(json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]) == 1
        assert not (tmp_path / "run" / "failed.txt").exists()
    finally:
        for process in begun:
            process.kill()
            process.communicate()


def test_a_job_that_another_sweep_trains_is_left_alone(speech: Path, tmp_path: Path) -> None:
    other = RunDir(tmp_path / "sweep" / "0")
    write_text(other.hydra_overrides, "- seed=7\n")
    write_text(other.path / "pruned.txt", "earlier\n")
    mark_alive(other)
    before = {path: path.read_bytes() for path in other.path.rglob("*") if path.is_file()}
    try:
        done = bcfusion(
            *("train", "-m", "experiment=seanet", "seed=1,2", *corpus(speech), *TINY, "hydra.sweep.dir=sweep"),
            *("trainer.max_steps=1", "trainer.validate_every=1", "discriminators=[]"),
            cwd=tmp_path,
        )
    finally:
        unmark_alive(other)
    assert done.returncode == 2, done.stderr
    assert f"sweep/0 is being trained by process {os.getpid()} on " in done.stderr
    assert before == {path: path.read_bytes() for path in (*before, *other.path.rglob("*")) if path.is_file()} | {
        other.running: before[other.running]
    }
    assert (tmp_path / "sweep" / "1" / "objective.json").is_file()


def test_what_a_killed_session_was_writing_is_removed_by_the_next_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    left = [folder / f".last.ckpt.0123456{number}.part" for number, folder in enumerate(run.folders)]
    for file in left:
        write_text(file, "half")
    session = _Session(OmegaConf.create({}), run.path, sweeping=True)
    with RunLog() as log, session.ending():
        session.begin(0, log, "title")
        assert not any(file.exists() for file in left)


def test_sigterm_to_the_whole_group_leaves_a_resumable_run(speech: Path, tmp_path: Path) -> None:
    arguments = ["train", "experiment=seanet", *corpus(speech), *SMALL, "data.workers=2", "trainer.validate_every=2"]
    arguments = [argument for argument in arguments if argument != "data.workers=0"]
    process = subprocess.Popen(
        command(*arguments, "budget.minutes=5"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("runs/*/*/*/checkpoints/last.ckpt")):  # it trains
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "bcfusion train resume=runs/bone_to_air/seanet/" in errors
    assert "Traceback" not in errors
    done = bcfusion(*arguments, "resume=auto", "budget.minutes=5", "trainer.max_steps=1000000", "seed=1", cwd=tmp_path)
    assert done.returncode == 2  # it found the run, which was started with another seed
    assert "seed: was 0, now 1" in done.stderr


def test_a_sweep_trains_every_job(speech: Path, tmp_path: Path) -> None:
    done = bcfusion(
        *("train", "-m", "experiment=seanet", "optimizer.lr=1e-4,3e-4", *corpus(speech), *SMALL),
        *("trainer.max_steps=2", "trainer.validate_every=2"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    runs = sorted(path.parent.parent for path in tmp_path.glob("runs/sweeps/*/*/bundle/config.yaml"))
    assert [run.name for run in runs] == ["0", "1"]
    objectives = [json.loads((run / "objective.json").read_text()) for run in runs]
    for run, objective in zip(runs, objectives, strict=True):
        rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
        scores = [float(row["valid/selection"]) for row in rows if row["valid/selection"]]
        assert objective == pytest.approx(max(scores), abs=1e-6)
    assert "2 jobs, best first" in done.stdout
    rates = [yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] for run in runs]
    assert rates == [1e-4, 3e-4]


def test_processes_of_torchrun_share_one_run(speech: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "bcfusion"]
    overrides = ["experiment=seanet", *corpus(speech), *SMALL, "trainer=ddp", "trainer.devices=2"]
    overrides += ["trainer.accelerator=cpu", "trainer.max_steps=1", "trainer.validate_every=1"]
    done = subprocess.run(
        [*launcher, "train", *overrides], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = RunDir(only(tmp_path, "runs/*/*/*"))
    assert run.last.is_file()
    assert len(done.stdout.split("Best checkpoint")) == 2  # said once
    again = [*launcher, "train", *overrides, f"resume={run.path}", "trainer.max_steps=2"]
    done = subprocess.run(again, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "at step 2, trainer.max_steps is reached" in done.stdout
    assert only(tmp_path, "runs/*/*/*") == run.path


def test_two_processes_share_the_work_and_stay_in_step(speech: Path, tmp_path: Path) -> None:
    done = bcfusion(
        *("train", "experiment=seanet", *corpus(speech), *SMALL, "trainer.devices=2", "trainer.max_valid_items=null"),
        *("trainer.max_steps=4", "trainer.validate_every=2", "adversarial.start_step=2", "data.batch_size=1"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run = only(tmp_path, "runs/bone_to_air/seanet/*")
    lines = (run / "quality" / "valid-0000004.csv").read_text().splitlines()
    assert len(lines) == 1 + 2  # each rank validated its half, and rank 0 wrote both
    assert "test 1 file, " in done.stdout
    import torch

    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["step"] == 4
    assert len(content["random"]) == 2
    assert len(json.loads((run / "run.json").read_text())["sessions"]) == 1


def test_a_search_ends_both_processes_of_an_unpromising_run_in_the_directory_of_its_job(
    speech: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna", minversion="4.3")
    done = bcfusion(
        *("train", "-m", "hparams_search=optuna", "experiment=seanet", "seed=1,2", *corpus(speech), *SMALL),
        *("trainer.devices=2", "trainer.max_valid_items=null", "data.batch_size=1", "hydra.sweeper.n_trials=1"),
        *("trainer.max_steps=4", "trainer.validate_every=2", "hydra.sweep.dir=search"),
        # no score is above 2
        *("hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "+hydra.sweeper.pruner.lower=2"),
        *("~hydra.sweeper.pruner.n_startup_trials", "~hydra.sweeper.pruner.n_min_trials"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "search" / "0" / "pruned.txt").read_text() == "unpromising at step 2\n"
    assert not (tmp_path / "search" / "0" / "bundle").exists()
    assert not (tmp_path / "runs").exists()
    assert done.stdout.count("the search ends this run") == 1
    assert "pruned: unpromising at step 2" in done.stdout


def test_the_log_of_a_run_holds_what_the_terminal_showed(finished: tuple[Path, str]) -> None:
    run, output = finished
    text = (run / "train.log").read_text()
    assert " bcfusion train experiment=seanet " in text.splitlines()[0]
    for line in filter(None, map(str.rstrip, output.splitlines())):
        assert line in text, line
    assert "step 4 | validation: stoi" in text  # standard error too
    assert not (run / "running.json").exists()


def test_a_relative_path_holds_from_another_folder(
    speech: Path, tmp_path: Path, called: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "it's speech").symlink_to(speech)
    typed = """data.root="it's speech\""""
    steps = ["trainer.max_steps=2", "trainer.validate_every=2", "discriminators=[]"]
    done = bcfusion("train", "experiment=seanet", "data=folder", typed, *TINY, *steps, cwd=tmp_path / "here")
    assert done.returncode == 0, done.stderr
    run = only(tmp_path, "here/runs/*/*/*")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["root"] == config["data"]["corpus"]["root"] == str(tmp_path / "here" / "it's speech")
    assert typed in yaml.safe_load((run / "overrides.yaml").read_text())
    monkeypatch.chdir(tmp_path / "there")
    evaluated = called("evaluate", str(run), "output=out")
    assert evaluated.returncode == 0, evaluated.stderr
    resumed = bcfusion("train", f"resume={run}", "trainer.max_steps=4", cwd=tmp_path / "there")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resumed at step 2" in resumed.stdout


BROKEN = """\
import warnings
from lightning import Callback

class Broken(Callback):
    def on_train_batch_end(self, *_):
        warnings.warn("soon", stacklevel=1)
        raise ZeroDivisionError("a bug of the user")
"""


def test_a_run_that_fails_keeps_the_warning_and_the_traceback(speech: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    done = bcfusion(
        *("train", "experiment=seanet", *corpus(speech), *TINY, "discriminators=[]", "resume=auto"),
        "+callbacks.broken._target_=broken.Broken",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    run = only(tmp_path, "runs/*/*/*")
    text = (run / "train.log").read_text()
    assert "resume=auto: no run in runs/bone_to_air/seanet has a checkpoint yet: this one starts from scratch" in text
    assert "UserWarning: soon" in text
    assert "Traceback" in text
    assert text.rstrip().endswith("ZeroDivisionError: a bug of the user")
    assert (run / "failed.txt").read_text().startswith("ZeroDivisionError: a bug of the user\n")
    assert not (run / "running.json").exists()


def test_a_sweep_of_one_job_says_so_and_a_refused_job_is_a_note(tmp_path: Path, called: Call) -> None:
    done = bcfusion("train", "-m", "experiment=seanet", "data=folder", "data.root=nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "-m: no key has several values, so this sweep has one job" in done.stderr
    job = only(tmp_path, "runs/sweeps/*/0")
    assert sorted(path.name for path in job.iterdir()) == [".hydra", "failed.txt"]
    done = called("train", "-m", "experiment=seanet", "optimizer.lrr=1,2", "output_root=typo")
    assert done.returncode == 2
    assert "optimizer.lr" in done.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["experiment=saenet"], "seanet"),
        (["experiment=seanet", "data.batch_size=1000000"], "crops of"),
        (["experiment=seanet", "trainer.devices=0"], "trainer.devices"),
        (["experiment=seanet", "generator.kernel_size=0", "trainer.max_steps=1"], "kernel_size"),
        (["experiment=seanet", "data=folder", "data.root=nowhere"], "nowhere"),
        (["experiment=seanet", "init_from=nowhere.ckpt"], "nowhere.ckpt"),
        (["experiment=seanet", "resume=nowhere"], "nowhere"),
        (["experiment=seanet", "trainer.precision=16-mixed"], "bf16-mixed"),
    ],
    ids=["experiment", "batch", "devices", "argument", "root", "init_from", "resume", "precision"],
)
def test_wrong_input_of_train_is_one_or_two_lines(
    tmp_path: Path, arguments: list[str], says: str, called: Call
) -> None:
    in_a_process = arguments[-1] == "data.root=nowhere"  # which is found last
    done = bcfusion("train", *arguments, cwd=tmp_path) if in_a_process else called("train", *arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir())  # a run directory is made when all checks have passed


def test_all_problems_of_a_configuration_come_at_once(tmp_path: Path, called: Call) -> None:
    wrong = ["data.batch_size=0", "selection=lsd", "metrics=[stoi]", "trainer.log_every=-1"]
    done = called("train", "experiment=seanet", *wrong)
    assert done.returncode == 2
    for path in ("data.batch_size", "selection.lsd", "trainer.keep_best", "trainer.log_every"):
        assert any(line.startswith(path) for line in done.stderr.splitlines()), done.stderr
    assert not list(tmp_path.iterdir())
