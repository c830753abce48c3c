"""The loop of a search: ask the study for values, run jobs with them, report their results to the study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bcfusion.errors import ConfigError, first_line
from bcfusion.files import write_text
from bcfusion.run.jobs import read_end, read_objective
from bcfusion.search.study import (
    count_ended,
    count_if_all_failed,
    exclusive,
    finite,
    open_study,
    quiet_optuna,
    requeue_interrupted,
    results,
    set_aside,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

RESULTS = "optimization_results.yaml"
MOST_FAILURES = 3  # if all trials so far have failed: the values that vary are then not the cause


@dataclass(frozen=True)
class Search:
    """A search over hyperparameters.

    Attributes:
        sampler: makes Optuna's sampler; takes ``seed`` if there is one.
        pruner: makes Optuna's pruner.
        seed: of the sampler; None draws another one each time. A session that continues a search adds the number of
            existing trials, so that it does not repeat their points.
        objectives: how many numbers a job returns, for each of which higher is better.
        n_trials: how many trials the study is to hold in the end, those of earlier sessions included.
        n_jobs: how many jobs are handed to the launcher at a time.
        storage: path of a journal file, or URL of a database.
        study_name: name of the study in the storage.
        sweep_dir: holds the directories of the jobs, named by their numbers, and ``optimization_results.yaml``.
        space: what varies, key to distribution.
        fixed: the other overrides, key to value.
        launch: runs jobs with the given overrides, numbered from the given number; their results are in their
            directories.
    """

    sampler: Callable[..., Any]
    pruner: Callable[[], Any]
    seed: int | None
    objectives: int
    n_trials: int
    n_jobs: int
    storage: str
    study_name: str
    sweep_dir: Path
    space: Mapping[str, BaseDistribution]
    fixed: Mapping[str, str]
    launch: Callable[[list[list[str]], int], object]

    def run(self) -> dict[str, Any]:
        """Run jobs until the study holds ``n_trials``, and return what it has found; jobs are numbered as trials.

        Raises:
            ConfigError: optuna is missing, the study is of another kind, another process searches in it, or three or
                more trials have failed and none has succeeded.
        """
        with quiet_optuna(), exclusive(self.storage, self.study_name, self.sweep_dir):
            try:
                return self._search()
            except (KeyboardInterrupt, SystemExit):
                print(
                    f"bcfusion: to continue, run the same command with hydra.sweep.dir={self.sweep_dir}; "
                    "unfinished trials are run again",
                    file=sys.stderr,
                )
                raise

    def _search(self) -> dict[str, Any]:
        study = self._study()
        again = requeue_interrupted(study)
        before = count_ended(study)
        if before or again:
            print(f"bcfusion: the search continues: {before} trials are done, {again} are run again")
        while (missing := self.n_trials - count_ended(study)) > 0:
            trials = self._ask(study, min(missing, self.n_jobs))
            self._launch(study, trials)
            for trial in trials:
                self._report(study, trial)
            write_text(self.sweep_dir / RESULTS, yaml.safe_dump(results(study), sort_keys=False))
            if (failed := count_if_all_failed(study)) >= MOST_FAILURES:
                last = self.sweep_dir / str(trials[-1].number)
                raise ConfigError(
                    [
                        f"hparams_search: all {failed} trials failed, see the last one in {last}; once it is fixed, "
                        f"run the same command with hydra.sweep.dir={self.sweep_dir}"
                    ]
                )
        return results(study)

    def _study(self) -> Study:
        study = open_study(self.storage, self.study_name, self.objectives, pruner=self.pruner())
        seed = {} if self.seed is None else {"seed": self.seed + len(study.get_trials(deepcopy=False))}
        study.sampler = self.sampler(**seed)
        return study

    def _ask(self, study: Study, count: int) -> list[Trial]:
        try:
            trials = [study.ask(self.space) for _ in range(count)]
        except ValueError as error:  # the choices, or the kind of values, of a key differ from before
            raise ConfigError(
                [
                    f"hydra.sweeper.storage: {self.storage} holds a search over other values: {first_line(error)} "
                    "Give the new one a hydra.sweep.dir or hydra.sweeper.study_name of its own"
                ]
            ) from error
        first = trials[0].number
        if [trial.number for trial in trials] != list(range(first, first + count)):
            raise ConfigError([f"hydra.sweeper.storage: another process searches in {self.storage}"])
        return trials

    def _launch(self, study: Study, trials: Sequence[Trial]) -> None:
        try:
            self.launch([job_overrides(self.fixed, trial.params) for trial in trials], trials[0].number)
        except Exception as error:
            # Our jobs raise nothing. Either the configuration cannot be composed, so that no job has begun, or the
            # launcher lost a job, for example one that the system killed for its memory.
            if any((self.sweep_dir / str(trial.number)).is_dir() for trial in trials):
                print(f"bcfusion: the launcher gave up: {first_line(error)}; the search continues", file=sys.stderr)
                return
            for trial in trials:
                set_aside(study, trial)
            raise

    def _report(self, study: Study, trial: Trial) -> None:
        """Report a job's result to the study; a job without an objective has failed, as its directory explains."""
        from optuna.trial import TrialState

        job_dir = self.sweep_dir / str(trial.number)
        values = read_objective(job_dir)
        if len(values) != len(study.directions):
            study.tell(trial, state=TrialState.FAIL)
        elif read_end(job_dir)[0] == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, finite(values))


def job_overrides(fixed: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    """Return the overrides of a job with these values of what varies."""
    return [f"{key}={_as_override(value)}" for key, value in {**fixed, **values}.items()]


def _as_override(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)  # more digits make no difference to a run
