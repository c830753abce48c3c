"""The plugin through which Hydra runs :mod:`bcfusion.search`; see ``sweeper`` for how Hydra finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass(eq=False)
class BcfusionOptunaSweeper(Sweeper):
    """``hparams_search=optuna``: see ``conf/hydra/sweeper/bcfusion_optuna.yaml`` for the arguments.

    Hydra's own ``hydra-optuna-sweeper`` needs an Optuna older than 3, and does not tell a job which trial it is, so
    that no job could be pruned.
    """

    sampler: DictConfig
    pruner: DictConfig | None
    seed: int | None
    objective: str
    n_trials: int
    n_jobs: int
    storage: str
    study_name: str
    params: DictConfig
    config: DictConfig | None = field(default=None, init=False)
    launcher: Launcher | None = field(default=None, init=False)
    hydra_context: HydraContext | None = field(default=None, init=False)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Receive what the jobs need; Hydra calls this first."""
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs and return what the search has found; Hydra calls this second."""
        from bcfusion.files import write_text
        from bcfusion.search.drive import Search, job_overrides
        from bcfusion.search.space import examples, read_space
        from bcfusion.search.study import quiet_optuna
        from bcfusion.search.trial import SCORE

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        launcher = self.launcher
        self._check()
        with quiet_optuna():
            space, fixed = read_space(arguments, _flat(self.params), self.hydra_context.config_loader)
        # each choice once, so that a mistyped one does not end the search half-way
        self.validate_batch_is_legal([job_overrides(fixed, values) for values in examples(space)])
        sweep_dir = Path(str(self.config.hydra.sweep.dir))
        write_text(sweep_dir / "multirun.yaml", OmegaConf.to_yaml(self.config))
        return Search(
            sampler=lambda **seed: _built("sampler", self.sampler, **seed),
            pruner=lambda: None if self.pruner is None else _built("pruner", self.pruner),
            seed=self.seed,
            objectives=1 if self.objective == SCORE else len(self.config.selection),
            n_trials=self.n_trials,
            n_jobs=self.n_jobs,
            storage=self.storage,
            study_name=self.study_name,
            sweep_dir=sweep_dir,
            space=space,
            fixed=fixed,
            launch=lambda jobs, first: launcher.launch(jobs, initial_job_idx=first),
        ).run()

    def _check(self) -> None:
        from bcfusion.requirements import one_of, require
        from bcfusion.search.trial import SCORE, VALUES

        assert self.config is not None
        counts = {"n_trials": self.n_trials, "n_jobs": self.n_jobs}
        require(
            "hydra.sweeper",
            *(
                (isinstance(count, int) and count >= 1, f"{name}={count!r} must be a whole number of at least 1")
                for name, count in counts.items()
            ),
            one_of((SCORE, VALUES), objective=self.objective),
            (self.seed is None or isinstance(self.seed, int), f"seed={self.seed!r} must be a whole number or null"),
        )
        directories = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        require(
            "hydra.sweep.subdir",
            (
                isinstance(directories, dict) and directories["subdir"] == "${hydra:job.num}",
                "a search names the directories of its jobs by the numbers of their trials; leave it out",
            ),
        )


def _built(what: str, node: DictConfig, **arguments: Any) -> Any:
    from bcfusion.configuration.compose import build
    from bcfusion.configuration.targets import UnknownTarget, locate
    from bcfusion.errors import ConfigError

    try:
        locate(str(node["_target_"]))
    except UnknownTarget as error:
        raise ConfigError([f"hydra.sweeper.{what}._target_: {error}"]) from error
    return build(node, **arguments)


def _flat(params: Mapping[str, Any], parent: str = "") -> dict[str, str]:
    """Return ``{optimizer: {lr: "1,2"}}`` as ``{optimizer.lr: "1,2"}``, without keys whose value is null."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping | DictConfig):
            flat.update(_flat(value, f"{parent}{key}."))
        elif value is not None:
            flat[f"{parent}{key}"] = str(value)
    return flat
