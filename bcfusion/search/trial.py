"""The search as a single job sees it: the job reports its validations and asks whether to continue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from bcfusion.configuration.compose import build
from bcfusion.errors import ConfigError
from bcfusion.search.study import finite, open_storage, quiet_optuna
from bcfusion.search.sweeper import NAME

if TYPE_CHECKING:
    from optuna import Trial

SWEEPER = f"{NAME}.BcfusionOptunaSweeper"
SCORE, VALUES = "score", "values"


@dataclass(frozen=True)
class SearchTrial:
    """A trial of a search, in the process that trains it.

    Attributes:
        trial: Optuna's, from the storage that all jobs of the search share; None in further processes of the job, for
            which the first one reports.
        prunes: whether it can be ended early.
        by_values: whether the search needs each metric of ``selection`` instead of its score.
    """

    trial: Trial | None
    prunes: bool
    by_values: bool

    @classmethod
    def of_this_job(cls) -> SearchTrial | None:
        """Return the trial that the running Hydra job is; None if no search has started it.

        Raises:
            ConfigError: a search is configured, but the command lacks ``-m``.
        """
        hydra = HydraConfig.get()
        if hydra.sweeper.get("_target_") != SWEEPER:
            return None
        by_values = hydra.sweeper.objective == VALUES
        prunes = hydra.sweeper.pruner is not None and not by_values
        if "LOCAL_RANK" in os.environ:
            return cls(None, prunes, by_values)
        if hydra.mode != RunMode.MULTIRUN:
            raise ConfigError(["hparams_search: add -m to search, as in bcfusion train -m hparams_search=optuna ..."])
        with quiet_optuna():
            import optuna

            pruner = build(hydra.sweeper.pruner) if prunes else optuna.pruners.NopPruner()
            study = optuna.load_study(
                study_name=hydra.sweeper.study_name, storage=open_storage(hydra.sweeper.storage), pruner=pruner
            )
            trial = optuna.Trial(study, study.get_trials(deepcopy=False)[int(hydra.job.num)]._trial_id)
        return cls(trial, prunes, by_values)

    def should_prune(self, step: int, score: float) -> bool:
        """Report the selection score of a validation; return whether to end the run, as it is worse than the others."""
        assert self.trial is not None
        self.trial.report(finite([score])[0], step)
        return self.trial.should_prune()
