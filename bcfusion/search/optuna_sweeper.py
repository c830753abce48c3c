"""Hydra's way to :mod:`bcfusion.search`; see ``sweeper`` for how Hydra comes to know it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class BcfusionOptunaSweeper(Sweeper):
    """``hparams_search=optuna``: see ``conf/hydra/sweeper/bcfusion_optuna.yaml`` for the arguments.

    Hydra's own ``hydra-optuna-sweeper`` needs an Optuna before 3 and does not tell a job which trial it is, without
    which no job can be pruned.
    """

    def __init__(
        self,
        sampler: DictConfig,
        pruner: DictConfig | None,
        seed: int | None,
        objective: str,
        n_trials: int,
        n_jobs: int,
        storage: str,
        study_name: str,
        params: DictConfig,
    ) -> None:
        self.sampler = sampler
        self.pruner = pruner
        self.seed = seed
        self.objective = objective
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.storage = storage
        self.study_name = study_name
        self.params = params
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's first call: with what jobs are to be run."""
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Hydra's second call: runs the jobs. Returns what the search has found."""
        from bcfusion.errors import ConfigError
        from bcfusion.search.drive import Search, overrides_of
        from bcfusion.search.space import examples, read_space
        from bcfusion.search.study import quiet_optuna
        from bcfusion.search.trial import SCORE, VALUES

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        launcher = self.launcher
        problems = [
            f"hydra.sweeper.{name}: must be a whole number of at least 1, not {value!r}"
            for name, value in (("n_trials", self.n_trials), ("n_jobs", self.n_jobs))
            if not isinstance(value, int) or value < 1
        ]
        if self.objective not in (SCORE, VALUES):
            problems.append(f"hydra.sweeper.objective: must be '{SCORE}' or '{VALUES}', not {self.objective!r}")
        if self.seed is not None and not isinstance(self.seed, int):
            problems.append(f"hydra.sweeper.seed: must be a whole number or null, not {self.seed!r}")
        directories = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        if not (isinstance(directories, dict) and directories["subdir"] == "${hydra:job.num}"):
            problems.append("hydra.sweep.subdir: a search calls its jobs by the numbers of their trials; leave it out")
        if problems:
            raise ConfigError(problems)
        with quiet_optuna():
            space, fixed = read_space(arguments, _flat(self.params), self.hydra_context.config_loader)
        # each choice once, so that a mistyped one does not end the search half-way
        self.validate_batch_is_legal([overrides_of(fixed, values) for values in examples(space)])
        sweep_dir = Path(str(self.config.hydra.sweep.dir))
        sweep_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, sweep_dir / "multirun.yaml")
        search = Search(
            sampler=lambda **seed: _made("sampler", self.sampler, **seed),
            pruner=lambda: None if self.pruner is None else _made("pruner", self.pruner),
            seed=self.seed,
            objectives=1 if self.objective == SCORE else len(self.config.selection),
            n_trials=self.n_trials,
            n_jobs=self.n_jobs,
            storage=self.storage,
            study_name=self.study_name,
            sweep_dir=sweep_dir,
        )
        return search.run(
            space,
            fixed,
            launch=lambda jobs, first: launcher.launch(jobs, initial_job_idx=first),
        )


def _made(what: str, node: DictConfig, **arguments: Any) -> Any:
    from bcfusion.configuration.compose import build
    from bcfusion.configuration.targets import UnknownTarget, locate
    from bcfusion.errors import ConfigError

    try:
        locate(str(node["_target_"]))
    except UnknownTarget as error:
        raise ConfigError([f"hydra.sweeper.{what}._target_: {error}"]) from error
    return build(node, **arguments)


def _flat(params: Mapping[str, Any], parent: str = "") -> dict[str, str]:
    """Keys with their dots, of ``{optimizer: {lr: "1,2"}}`` as of ``{optimizer.lr: "1,2"}``; none where null."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping | DictConfig):
            flat.update(_flat(value, f"{parent}{key}."))
        elif value is not None:
            flat[f"{parent}{key}"] = str(value)
    return flat
