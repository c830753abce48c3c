"""The loop of a search: asks the study for values, has jobs run with them, tells it what they came to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bcfusion.errors import ConfigError
from bcfusion.run.jobs import PRUNED, first_line, read_objective
from bcfusion.search.study import (
    alone,
    failures_alone,
    finite,
    open_study,
    quiet_optuna,
    results,
    set_aside,
    settled,
    try_interrupted_again,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

RESULTS = "optimization_results.yaml"
HOPELESS = 3  # failures without any result after which the cause is not what varies


@dataclass(frozen=True)
class Search:
    """A search over hyperparameters.

    Attributes:
        sampler, pruner: make Optuna's objects; the sampler's takes ``seed`` where one is given.
        seed: of the sampler; None: another each time. A session that goes on adds the number of trials there are, so
            that it does not repeat the points of the first.
        objectives: how many numbers a job returns, each higher for better.
        n_trials: how many trials the study shall hold in the end, those of earlier sessions included.
        n_jobs: how many are handed to the launcher at a time. storage: path of a journal file, or URL of a database.
        study_name: of the study in it.
        sweep_dir: holds the jobs' directories, called by their numbers, and ``optimization_results.yaml``.
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

    def run(
        self,
        space: Mapping[str, BaseDistribution],
        fixed: Mapping[str, str],
        launch: Callable[[list[list[str]], int], object],
    ) -> dict[str, Any]:
        """Runs until the study holds ``n_trials``; jobs have the numbers of their trials.

        Args:
            space: what varies. fixed: the other overrides (both of ``read_space``).
            launch: runs jobs with these overrides, numbered from this one; what they came to is in their directories.

        Raises:
            ConfigError: optuna is not there, the study is of another kind, another process searches in it, or three
                trials and more have failed and none else.
        """
        with quiet_optuna(), alone(self.storage, self.study_name, self.sweep_dir):
            try:
                return self._search(space, fixed, launch)
            except (KeyboardInterrupt, SystemExit):
                print(
                    f"bcfusion: to go on, type the same with hydra.sweep.dir={self.sweep_dir}; "
                    "what was not through is tried again",
                    file=sys.stderr,
                )
                raise

    def _search(
        self,
        space: Mapping[str, BaseDistribution],
        fixed: Mapping[str, str],
        launch: Callable[[list[list[str]], int], object],
    ) -> dict[str, Any]:
        study = self._study()
        again = try_interrupted_again(study)
        before = settled(study)
        if before or again:
            print(f"bcfusion: the search goes on: {before} trials are there, {again} are tried again")
        while (missing := self.n_trials - settled(study)) > 0:
            try:
                trials = [study.ask(space) for _ in range(min(missing, self.n_jobs))]
            except ValueError as error:  # a choice or the kind of a key's values is another than before
                raise ConfigError(
                    [
                        f"hydra.sweeper.storage: {self.storage} holds a search over other values: {first_line(error)} "
                        "Give the new one a hydra.sweep.dir or hydra.sweeper.study_name of its own"
                    ]
                ) from error
            first = trials[0].number
            if [trial.number for trial in trials] != list(range(first, first + len(trials))):
                raise ConfigError([f"hydra.sweeper.storage: another process searches in {self.storage}"])
            self._launch(study, trials, fixed, launch)
            found = results(study)
            (self.sweep_dir / RESULTS).write_text(yaml.safe_dump(found, sort_keys=False))
            if (failed := failures_alone(study)) >= HOPELESS:
                last = self.sweep_dir / str(trials[-1].number)
                raise ConfigError(
                    [
                        f"hparams_search: all {failed} trials failed, the last as {last} says; to go on when it "
                        f"is mended, type the same with hydra.sweep.dir={self.sweep_dir}"
                    ]
                )
        return results(study)

    def _study(self) -> Study:
        study = open_study(self.storage, self.study_name, self.objectives, pruner=self.pruner())
        seed = {} if self.seed is None else {"seed": self.seed + len(study.get_trials(deepcopy=False))}
        study.sampler = self.sampler(**seed)
        return study

    def _launch(
        self,
        study: Study,
        trials: Sequence[Trial],
        fixed: Mapping[str, str],
        launch: Callable[[list[list[str]], int], object],
    ) -> None:
        overrides = [overrides_of(fixed, trial.params) for trial in trials]
        try:
            launch(overrides, trials[0].number)
        except Exception as error:
            # Our jobs raise nothing: either the configuration cannot be composed, so that none has begun, or the
            # launcher lost one, as where the system killed it for its memory.
            if not any((self.sweep_dir / str(trial.number)).is_dir() for trial in trials):
                for trial in trials:
                    set_aside(study, trial)
                raise
            for trial in trials:
                self._tell(study, trial)
            print(f"bcfusion: the launcher gave up: {first_line(error)}; the search goes on", file=sys.stderr)
            return
        for trial in trials:
            self._tell(study, trial)

    def _tell(self, study: Study, trial: Trial) -> None:
        """A job without objective has failed, which its directory says; the study goes on without it."""
        from optuna.trial import TrialState

        job_dir = self.sweep_dir / str(trial.number)
        values = read_objective(job_dir)
        if len(values) != len(study.directions):
            study.tell(trial, state=TrialState.FAIL)
        elif (job_dir / PRUNED).is_file():
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, finite(values))


def overrides_of(fixed: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    """The overrides of a job with these values of what varies."""
    return [f"{key}={_typed(value)}" for key, value in {**fixed, **values}.items()]


def _typed(value: Any) -> str:
    """A value as an override has it; six digits of a number are more than a run can tell apart."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
