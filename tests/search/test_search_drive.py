"""Searches as a user starts them, of jobs that take no time."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from toy_sweep import call_sweep, run_sweep

optuna = pytest.importorskip("optuna", minversion="4.3", reason="hparams_search needs optuna 4.3 or later")

from bcfusion.run import jobs  # noqa: E402
from bcfusion.search.study import exclusive, open_study  # noqa: E402

pytestmark = pytest.mark.slow  # each search is a process
LR = "optimizer.lr=tag(log,interval(1e-4,1e-2))"


HEAD = "from bcfusion.search.trial import SearchTrial\ntrial = SearchTrial.of_this_job()\n"


def search(folder: Path, *arguments: str, body: str, name: str = "optuna") -> subprocess.CompletedProcess[str]:
    """Run a search into ``folder/sweep`` whose jobs are ``body``, a function of ``cfg`` and ``trial``."""
    return run_sweep(folder, HEAD + textwrap.dedent(body), f"hparams_search={name}", *arguments)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Starts a search in this process that ends before its first job; returns its message, of one or two lines."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str) -> str:
        assert call_sweep(tmp_path, f"{HEAD}return 1.0", "hparams_search=optuna", *arguments) == 2
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        assert len(errors.strip().splitlines()) <= 2
        return errors

    return start


def study_of(folder: Path) -> optuna.Study:
    return open_study(str(folder / "sweep" / "study.journal"), "search", 1)


def found(folder: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((folder / "sweep" / "optimization_results.yaml").read_text())
    return content


def test_a_search_continues_without_repeating_points_or_directories(tmp_path: Path) -> None:
    body = "return float('nan') if trial.trial.number == 1 else cfg.optimizer.lr"
    arguments = ["-m", LR, "hydra.sweeper.seed=0"]
    first = search(tmp_path, *arguments, "hydra.sweeper.n_trials=2", body=body)
    assert first.returncode == 0, first.stderr
    overrides = (tmp_path / "sweep" / "0" / ".hydra" / "overrides.yaml").read_text()
    again = search(tmp_path, *arguments, "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", body=body)
    assert again.returncode == 0, again.stderr
    assert "the search continues: 2 trials are done" in again.stdout
    assert (tmp_path / "sweep" / "0" / ".hydra" / "overrides.yaml").read_text() == overrides
    trials = study_of(tmp_path).trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert trials[1].value == -1.0  # NaN becomes the floor of the scale
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 4
    best = max(trials, key=lambda trial: trial.value)
    assert found(tmp_path)["best_job"] == best.number
    assert float((tmp_path / "sweep" / str(best.number) / "objective.json").read_text()) == pytest.approx(best.value)
    assert [o.job for o in jobs.read_outcomes(tmp_path / "sweep")] == ["0", "1", "2", "3"]
    third = search(tmp_path, *arguments, "hydra.sweeper.n_trials=4", body=body)
    assert third.returncode == 0, third.stderr
    assert len(study_of(tmp_path).trials) == 4


def test_a_search_whose_trials_all_fail_ends_and_continues_once_fixed(tmp_path: Path) -> None:
    vary = ["-m", LR, "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.n_startup_trials=100"]
    failed = search(tmp_path, *vary, body="raise RuntimeError('no memory')")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1] == (
        "hparams_search: all 3 trials failed, see the last one in sweep/2; "
        "once it is fixed, run the same command with hydra.sweep.dir=sweep"
    )
    assert [o.status for o in jobs.read_outcomes(tmp_path / "sweep")] == ["failed"] * 3
    for file in (tmp_path / "sweep").glob("*/failed.txt"):
        os.utime(file, (0, 0))  # on an earlier day: a failure within the last second counts as one of this session
    fixed = search(tmp_path, *vary, body="return 1.0")
    assert fixed.returncode == 0, fixed.stderr
    assert [o.status for o in jobs.read_outcomes(tmp_path / "sweep")] == ["failed"] * 3 + ["finished"] * 3


def test_failed_and_pruned_jobs_do_not_end_a_search(tmp_path: Path) -> None:
    # 4 fails; 5 is worse than the median of the others, which counts once four of them have finished
    body = """
        number = trial.trial.number
        if number == 4:
            raise RuntimeError("out of memory")
        for step in (2, 4):
            if trial.should_prune(step, 0.5 if number == 5 else 0.6):
                from hydra.core.hydra_config import HydraConfig
                open(HydraConfig.get().runtime.output_dir + "/pruned.txt", "w").write(f"unpromising at step {step}")
                return 0.5
        return 0.6
    """
    done = search(tmp_path, "-m", LR, "hydra.sweeper.n_trials=7", body=body)
    assert done.returncode == 2
    assert "1 of 7 jobs failed: 4" in done.stderr
    states = [trial.state.name for trial in study_of(tmp_path).trials]
    assert states == ["COMPLETE"] * 4 + ["FAIL", "PRUNED", "COMPLETE"]
    assert study_of(tmp_path).trials[5].last_step == 2
    assert "failed: RuntimeError: out of memory" in done.stdout
    assert "pruned: unpromising at step 2" in done.stdout


def test_separate_metrics_make_a_pareto_front(tmp_path: Path) -> None:
    body = "return [[0.5, 0.1], [0.1, 0.5], [0.05, 0.05]][trial.trial.number]"
    done = search(tmp_path, "-m", LR, "hydra.sweeper.n_trials=3", body=body, name="optuna_pareto")
    assert done.returncode == 0, done.stderr
    solutions = found(tmp_path)["solutions"]
    assert isinstance(solutions, list)
    assert sorted(solution["values"] for solution in solutions) == [[0.1, 0.5], [0.5, 0.1]]
    other = search(tmp_path, "-m", LR, body=body)
    assert other.returncode == 2
    assert "holds a search of 2 objectives, not 1" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["seed=1"], "add -m to search"),
        (["-m"], "nothing varies"),
        (["-m", LR, "hydra.sweeper.n_trials=0"], "hydra.sweeper: n_trials=0 must be a whole number of at least 1"),
        (["-m", LR, "hydra.sweeper.objective=pesq"], "hydra.sweeper: objective='pesq' must be one of score, values"),
        (["-m", LR, "generator=saenet,eebn"], "there is no"),
        (["-m", LR, "hydra.sweeper.seed=x"], "hydra.sweeper: seed='x' must be a whole number or null"),
        (["-m", LR, "hydra.sweep.subdir=x"], "hydra.sweep.subdir: a search names the directories of its jobs"),
        (["-m", LR, "hydra.sweeper.sampler._target_=optuna.samplers.TPESampeler"], "did you mean 'TPESampler'?"),
        (["-m", LR, "hydra.sweeper.storage=nosql://there"], "hydra.sweeper.storage: cannot use nosql://there"),
    ],
    ids=["no-m", "no-space", "trials", "objective", "member", "seed", "subdir", "sampler", "storage"],
)
def test_a_search_that_cannot_work_reports_why_in_one_or_two_lines(
    arguments: list[str], says: str, refused: Callable[..., str]
) -> None:
    assert says in refused(*arguments)


def test_a_mistyped_choice_ends_a_search_before_its_first_job(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "did you mean 'seanet'?" in refused("-m", LR, "generator=seanet,saenet")
    assert not (tmp_path / "sweep").exists()


def test_what_varies_may_be_in_the_file_or_a_pattern(tmp_path: Path) -> None:
    params = ["+hydra.sweeper.params.optimizer.lr='interval(2,3)'", "generator=glob(wave_*)"]
    done = search(tmp_path, "-m", *params, "hydra.sweeper.n_trials=1", body="return cfg.optimizer.lr")
    assert done.returncode == 0, done.stderr
    (trial,) = study_of(tmp_path).trials
    assert trial.params["generator"] == "wave_unet"
    assert 2.0 <= trial.value <= 3.0


def test_a_search_over_other_values_in_the_same_place_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    first = search(tmp_path, "-m", "seed=1,2", "hydra.sweeper.n_trials=1", body="return 1.0")
    assert first.returncode == 0, first.stderr
    assert "holds a search over other values" in refused("-m", "seed=1,3")


def test_an_interrupted_search_reports_how_to_continue_and_does(tmp_path: Path) -> None:
    stopped = search(tmp_path, "-m", LR, "hydra.sweeper.n_trials=2", body="raise KeyboardInterrupt")
    assert stopped.returncode == 130
    assert "to continue, run the same command with hydra.sweep.dir=sweep" in stopped.stderr
    assert "no result" in stopped.stdout
    again = search(tmp_path, "-m", LR, "hydra.sweeper.n_trials=2", body="return 1.0")
    assert again.returncode == 0, again.stderr
    assert "0 trials are done, 1 are run again" in again.stdout
    first, second, _ = study_of(tmp_path).trials
    assert first.params == second.params


def test_one_process_searches_in_a_study_at_a_time(tmp_path: Path) -> None:
    with exclusive(str(tmp_path / "sweep" / "study.journal"), "search", tmp_path / "sweep"):
        other = search(tmp_path, "-m", LR, body="return 1.0")
    assert other.returncode == 2
    assert "another process searches in sweep/study.journal" in other.stderr
    assert search(tmp_path, "-m", LR, "hydra.sweeper.n_trials=1", body="return 1.0").returncode == 0
