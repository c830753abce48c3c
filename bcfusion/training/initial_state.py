"""The state that a session starts from: another run's weights, or the last checkpoint of the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.run.models import Resolved, resolve_model
from bcfusion.run.record import Provenance
from bcfusion.training.module import SpeechModule
from bcfusion.training.resumed_settings import keep_settings

# ---------------------------------------------------------------- another run's weights


def initial_model(cfg: DictConfig) -> Resolved:
    """Return what ``init_from`` means.

    Raises:
        CheckpointError: there is no such model, or it cannot be fetched.
    """
    return resolve_model(cfg.init_from, trust_code=True)  # tensors alone are read, and no class is looked up


def load_initial_weights(module: SpeechModule, cfg: DictConfig, found: Resolved | None = None) -> None:
    """Load the weights that ``init_from`` names: those of a run, a checkpoint, a bundle or a model by its name.

    Args:
        module: whose networks get them.
        cfg: composed configuration.
        found: what ``init_from`` means, if it is known already, from :func:`initial_model`.

    Raises:
        CheckpointError: there are none, or they belong to another network.
        ConfigError: ``init_discriminators`` is set, but this run or the source has no discriminators.
    """
    found = found or initial_model(cfg)
    if found.note:
        rank_zero_only(print)(f"init_from={found.note}")
    source = found.path
    state, discriminators = checkpoint.weights_of(source)
    checkpoint.load_weights(module.generator, state, source)
    if module.ema is not None:
        checkpoint.load_weights(module.ema.network, state, source)
    if cfg.init_discriminators:
        if module.adversary is None or discriminators is None:
            raise ConfigError(
                [f"init_discriminators: {'this run has none' if discriminators else f'{source} holds none'}"]
            )
        checkpoint.load_weights(module.adversary.discriminators, discriminators, source)


# ---------------------------------------------------------------- an earlier session


def resumed_content(cfg: DictConfig, run: RunDir, provenance: Provenance) -> dict[str, Any] | None:
    """Return the content of the checkpoint to resume from, or None for a new run.

    Args:
        cfg: the composed configuration; gets the settings of the run, see :func:`keep_settings`.
        run: the directory of the run.
        provenance: the command line.

    Raises:
        CheckpointError: it is damaged, or holds weights only.
        ConfigError: there is none, or the command line asks for other settings than those of the run.
    """
    last = run.last
    if cfg.resume is None or (cfg.resume == "auto" and not last.is_file()):
        return None
    if not last.is_file():
        raise ConfigError([f"resume: {run.path} holds no {last.relative_to(run.path)}"])
    resumed = checkpoint.read(last)
    if "optimizers" not in resumed:
        raise CheckpointError(
            f"{last} holds weights, not the state of a run: resume from last.ckpt, or start a new run with "
            f"init_from={last}"
        )
    keep_settings(cfg, resumed["config"], run, provenance)
    return resumed


def restore_networks(module: SpeechModule, content: Mapping[str, Any], path: Path) -> None:
    """Load the weights of all networks and the step count, before training starts.

    Raises:
        CheckpointError: the checkpoint belongs to other networks.
    """
    checkpoint.load_weights(module.generator, content["generator"], path)
    if module.ema is not None and content["generator_ema"] is not None:
        checkpoint.load_weights(module.ema.network, content["generator_ema"], path)
        module.ema.updates = int(content["ema_updates"])
    if (module.adversary is None) != (content["discriminators"] is None):
        raise CheckpointError(f"{path} was trained {'with' if module.adversary is None else 'without'} discriminators")
    if module.adversary is not None:
        checkpoint.load_weights(module.adversary.discriminators, content["discriminators"], path)
    for name, critic in module.critics.items():  # checkpoints of older versions know none
        checkpoint.load_weights(critic.network, content["critics"][name], path)
    module.step = int(content["step"])


def restore_session(module: SpeechModule, trainer: Trainer, content: Mapping[str, Any]) -> None:
    """Restore optimisers, schedulers, counters and random states, when training has started."""
    for optimizer, state in zip(trainer.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    module.load_training_state(content["state"])
    if len(content["random"]) == trainer.world_size:  # another number of processes sees other batches anyway
        checkpoint.restore_random_states(content["random"][trainer.global_rank])
        if module.critics:
            module.load_critic_states(content["critic_states"][trainer.global_rank])
        if "log" in content:  # checkpoints of older versions have none
            module.load_log_state(content["log"][trainer.global_rank])
