"""What Hydra chose for the job that is running: the members of the groups, and whose settings its experiment has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.commands.shared.process_state import is_further_process
from bcfusion.configuration.compose import drop_unchosen
from bcfusion.configuration.machine import CPU, GPU, announcement, as_typed, published_name, settings
from bcfusion.configuration.paths import group_members

if TYPE_CHECKING:
    from omegaconf import DictConfig


def group_choices() -> dict[str, Any]:
    """Return the chosen member of each group, without Hydra's own; experiments have the name that is typed."""
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get().runtime.choices
    return {group: published_name(member) for group, member in chosen.items() if not group.startswith("hydra")}


def say_whose_settings(cfg: DictConfig) -> None:
    """Print a line on stderr if the experiment has, or should have, the settings of a CPU."""
    if (line := whose_settings(cfg)) and not is_further_process():
        print(f"bcfusion: {line}", file=sys.stderr)


def published_settings() -> str | None:
    """Return the published settings of the experiment in a few words, if those of a CPU were chosen instead."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized():  # a configuration that was composed in Python
        return None
    hydra = HydraConfig.get()
    if (member := hydra.runtime.choices.get("experiment")) == published_name(member):
        return None
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration(hydra.job.config_name, as_typed(hydra.overrides.task, GPU), RunMode.RUN)
    drop_unchosen(cfg)
    return settings(cfg)


def whose_settings(cfg: DictConfig) -> str | None:
    """Return the line; None if the published settings hold, or there are no others."""
    from hydra.core.hydra_config import HydraConfig

    from bcfusion.training import device

    if not HydraConfig.initialized():
        return None
    member = HydraConfig.get().runtime.choices.get("experiment")
    if cfg.machine != CPU or member is None:
        return None
    why = f"machine={CPU}" if device.on_gpu(cfg.trainer.accelerator) else "no GPU"
    if member != published_name(member):
        return announcement(cfg, published_name(member), why)
    if member in group_members("experiment"):
        return None
    file = Path("conf", "experiment", CPU, f"{member}.yaml")
    return f"{why}: experiment={member} has no settings for a CPU, which would be in {file}: its own are used"
