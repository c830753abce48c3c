"""The results of jobs, in files."""

from __future__ import annotations

import json
from pathlib import Path

from bcfusion.errors import ConfigError
from bcfusion.run import jobs


def job(folder: Path, *overrides: str) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
    return folder


def test_an_error_for_users_is_noted_by_its_text_and_a_bug_by_its_class(tmp_path: Path) -> None:
    assert jobs.note_failure(tmp_path, ConfigError(["a.b: wrong", "c: too"])) == "a.b: wrong"
    assert jobs.note_failure(tmp_path, KeyError()) == "KeyError"
    assert (tmp_path / "failed.txt").read_text().startswith("KeyError\n\n")


def test_outcomes_are_read_by_number_and_sorted_by_objective(tmp_path: Path) -> None:
    for number, value in ((10, 0.2), (9, float("nan")), (2, [0.1, 0.4])):
        jobs.note_objective(job(tmp_path / str(number), "experiment=seanet", f"seed={number}"), value)
    jobs.note_pruned(job(tmp_path / "11", "experiment=seanet"), "worse than others at step 4")
    outcomes = jobs.read_outcomes(tmp_path)
    assert [o.job for o in outcomes] == ["2", "9", "10", "11"]
    best = jobs.best_first(outcomes)
    assert [o.job for o in best] == ["2", "10", "9", "11"]
    assert jobs.distinguishing_overrides(best) == ["seed=2", "seed=10", "seed=9", ""]
    assert best[-1].note == "worse than others at step 4"


def test_only_numbers_are_objectives(tmp_path: Path) -> None:
    jobs.note_objective(tmp_path, None)
    jobs.note_objective(tmp_path, ["a"])
    assert jobs.read_objective(tmp_path) == ()


def test_a_new_job_deletes_the_results_of_an_earlier_one(tmp_path: Path) -> None:
    jobs.note_objective(job(tmp_path / "0"), 0.5)
    jobs.note_failure(tmp_path / "0", KeyError())
    jobs.note_pruned(tmp_path / "0", "x")
    jobs.begin(tmp_path / "0")
    assert [o.status for o in jobs.read_outcomes(tmp_path)] == ["no result"]
