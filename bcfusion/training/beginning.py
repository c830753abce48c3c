"""Where a run begins: anew, from the weights of another one, or where an earlier session of it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bcfusion.configuration.moved import with_current_targets
from bcfusion.errors import ConfigError
from bcfusion.run import checkpoint
from bcfusion.training.callbacks.checkpointing import require_resumable
from bcfusion.training.module import SpeechModule


def learns(module: SpeechModule) -> bool:
    """Whether there is anything to train: the generator has a parameter that asks for a gradient."""
    return any(parameter.requires_grad for parameter in module.generator.parameters())


def initialise(module: SpeechModule, cfg: DictConfig) -> None:
    """Starts from the weights of another run, checkpoint or bundle.

    Raises:
        CheckpointError: there are none, or they are those of another network.
    """
    source = Path(cfg.init_from)
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


def resumed_content(config: dict[str, Any], last: Path) -> dict[str, Any] | None:
    """Content of the checkpoint to go on from, or None for a new run.

    Raises:
        CheckpointError: it is damaged, or holds weights only.
        ConfigError: there is none, or the run was started with other settings.
    """
    if config["resume"] is None or (config["resume"] == "auto" and not last.is_file()):
        return None
    if not last.is_file():
        raise ConfigError([f"resume: {last.parent.parent} holds no checkpoints/last.ckpt"])
    resumed = checkpoint.read(last)
    require_resumable(resumed, last)
    changes = changed_settings(with_current_targets(resumed["config"]), config)
    if changes:
        raise ConfigError(
            [
                f"resume: {last.parent.parent} goes on as it was started; start a new run from its weights with "
                f"init_from={last.parent.parent}, or leave out:",
                *changes,
            ]
        )
    return resumed


# What may differ when a run goes on: where and how it runs, how long, and what it reports; not what it computes.
FREE_SETTINGS = {
    "": ("resume", "init_from", "init_discriminators", "output_root", "budget", "metrics", "callbacks", "logger"),
    "data": ("workers", "max_unreadable_share"),
    "trainer": (
        *("accelerator", "devices", "strategy", "max_steps", "validate_every", "max_valid_items", "checkpoint_every"),
        *("log_every", "max_bad_steps", "keep_best", "samples", "tf32", "cudnn_benchmark", "deterministic", "compile"),
    ),
}


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """Settings of a run that differ from those it was started with, one line each."""
    changes: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        if key in FREE_SETTINGS.get(path, ()):
            continue
        name = f"{path}.{key}" if path else key
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += changed_settings(old, new, name)
        elif old != new:
            changes.append(f"{name}: was {old}, now {new}")
    return changes
