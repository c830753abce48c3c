"""What a study keeps, and who may write to it."""

from __future__ import annotations

from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", minversion="4.3", reason="hparams_search needs optuna 4.3 or later")

from bcfusion.errors import ConfigError  # noqa: E402
from bcfusion.search import study as studies  # noqa: E402
from bcfusion.search.study import count_ended, finite, open_study, requeue_interrupted, set_aside  # noqa: E402

SPACE = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}


def test_an_interrupted_trial_is_run_again_with_its_values(tmp_path: Path) -> None:
    study = open_study(str(tmp_path / "study.journal"), "search", 1)
    study.tell(study.ask(SPACE), 1.0)
    interrupted = study.ask(SPACE)
    assert requeue_interrupted(study) == 1
    assert count_ended(study) == 1
    assert study.ask(SPACE).params == interrupted.params


def test_a_trial_that_never_ran_does_not_count(tmp_path: Path) -> None:
    study = open_study(str(tmp_path / "study.journal"), "search", 1)
    set_aside(study, study.ask(SPACE))
    assert count_ended(study) == 0
    assert requeue_interrupted(study) == 0


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # at a relative path, like hydra.sweep.dir; with a symbolic link as lock this would wait for ever
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studies, "LOCK_SECONDS", 3)
    backend = studies.open_storage("sweep/study.journal")._backend
    backend._lock.acquire()
    assert open_study("sweep/study.journal", "search", 1).trials == []


@pytest.mark.parametrize("place", ["study.journal", "nosql://there"])
def test_a_storage_that_cannot_be_used_is_named(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.journal").write_text("no journal\n")
    with pytest.raises(ConfigError, match=f"hydra.sweeper.storage: cannot use {place}"):
        open_study(place, "search", 1)


def test_nan_and_infinity_become_the_floor() -> None:
    assert finite([float("nan"), float("inf"), 0.5]) == [-1.0, -1.0, 0.5]
