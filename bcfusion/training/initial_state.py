"""The state that a session starts from: another run's weights, or the last checkpoint of the same run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from bcfusion.configuration.later import LATER
from bcfusion.configuration.locations import absolute_paths
from bcfusion.configuration.moved import with_current_targets
from bcfusion.configuration.targets import UnknownTarget, locate
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.files import from_yaml
from bcfusion.run import checkpoint
from bcfusion.run.layout import RunDir
from bcfusion.run.models import Resolved, resolve_model
from bcfusion.training.module import SpeechModule

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

# What may change when a run is resumed: where and how it runs, how long, and what it reports; not what it computes.
FREE_SETTINGS = {
    "": (
        *("resume", "init_discriminators", "output_root", "machine", "budget", "metrics", "callbacks", "logger"),
        "replay",
    ),
    "data": ("workers", "max_unreadable_share"),
    "trainer": (
        *("accelerator", "devices", "strategy", "max_steps", "validate_every", "max_valid_items", "max_test_items"),
        *("checkpoint_every", "log_every", "max_bad_steps", "keep_best", "samples", "tf32", "cudnn_benchmark"),
        *("deterministic", "compile", "statistics_batches", "hang_minutes", "num_nodes", "environment"),
    ),
}


def resumed_content(config: dict[str, Any], run: RunDir) -> dict[str, Any] | None:
    """Return the content of the checkpoint to resume from, or None for a new run.

    Raises:
        CheckpointError: it is damaged, or holds weights only.
        ConfigError: there is none, or the run was started with other settings.
    """
    last = run.last
    if config["resume"] is None or (config["resume"] == "auto" and not last.is_file()):
        return None
    if not last.is_file():
        raise ConfigError([f"resume: {run.path} holds no {last.relative_to(run.path)}"])
    resumed = checkpoint.read(last)
    if "optimizers" not in resumed:
        raise CheckpointError(
            f"{last} holds weights, not the state of a run: resume from last.ckpt, or start a new run with "
            f"init_from={last}"
        )
    changes = changed_settings(with_current_targets(resumed["config"]), config)
    if changes and run.config.is_file():  # a relative path that leads to the same place from another folder is the same
        try:
            recorded = with_current_targets(from_yaml(run.config.read_bytes()))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{run.config} cannot be read: {error}") from error
        places = {_key(line) for line in changed_settings(absolute_paths(recorded), absolute_paths(config))}
        changes = [line for line in changes if _key(line) in places]
    if changes:
        raise ConfigError(
            [
                f"resume: {run.path} keeps the settings it was started with; start a new run from its weights with "
                f"init_from={run.path}, or leave out:",
                *changes,
            ]
        )
    return resumed


def _key(change: str) -> str:
    return change.partition(":")[0]


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """Return the settings of a run that differ from those it was started with, one line each.

    A run of an earlier version lacks the arguments that its classes have got since. At their defaults these change
    nothing.
    """
    changes: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        name = f"{path}.{key}" if path else key
        of_critic = path.startswith("critics.") and path.count(".") == 1
        if key in FREE_SETTINGS.get(path, ()) or (of_critic and key == "workers"):
            continue
        if key not in before and (_is_default(now, key) or (name in LATER and now[key] == LATER[name])):
            continue
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += changed_settings(old, new, name)
        elif old != new:
            changes.append(f"{name}: was {old}, now {new}")
    return changes


def _is_default(node: Mapping[str, Any], key: str) -> bool:
    """Return whether a value of a node is what its class takes without it."""
    try:
        argument = inspect.signature(locate(str(node["_target_"]))).parameters[key]
    except (KeyError, UnknownTarget, TypeError, ValueError):
        return False
    default = list(argument.default) if isinstance(argument.default, tuple) else argument.default
    return bool(default == node[key])


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
