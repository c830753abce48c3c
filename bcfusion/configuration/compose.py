"""Steps on a composed configuration: resolvers, settings of members that are not chosen, plain values, building."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcfusion.configuration.later import later
from bcfusion.configuration.machine import minutes_without
from bcfusion.configuration.moved import with_current_targets
from bcfusion.configuration.paths import group_members
from bcfusion.errors import BcfusionError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: groups from which several members are chosen, each under its own name
LIST_GROUPS = ("discriminators", "critics", "losses", "metrics", "callbacks")


def register_resolvers() -> None:
    """Register the resolvers of the configuration (``${n_sensors:...}`` and others) in OmegaConf; may be repeated."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("n_sensors", n_sensors, replace=True)
    OmegaConf.register_new_resolver("if_several", if_several, replace=True)
    OmegaConf.register_new_resolver("divide", divide, replace=True)
    OmegaConf.register_new_resolver("bands_up_to", bands_up_to, replace=True)
    OmegaConf.register_new_resolver("minutes_without", minutes_without, replace=True)


def n_sensors(sensors: object) -> int:
    """Return the number of sensors; 0 for what is no list, which the check reports where it is written."""
    return len(sensors) if isinstance(sensors, Sequence) and not isinstance(sensors, str) else 0


def if_several(sensors: object, share: float) -> float:
    """Return ``share`` for a task of several sensors, and 0 for one: presets of fusion work with every recipe."""
    return share if n_sensors(sensors) > 1 else 0.0


def divide(numerator: float, denominator: float) -> float:
    """Return the quotient, as an int if two ints divide without remainder: sample counts and rates stay integers."""
    if isinstance(numerator, int) and isinstance(denominator, int) and numerator % denominator == 0:
        return numerator // denominator
    return numerator / denominator


def bands_up_to(frequency: float, sample_rate: int, bands: int) -> int:
    """Return how many of ``bands`` equal bands, counted from the lowest, reach ``frequency`` in Hz; at least one."""
    return min(bands, max(1, math.ceil(2 * bands * frequency / sample_rate)))


def drop_unchosen(cfg: DictConfig, extra_dirs: Iterable[Path] = ()) -> list[str]:
    """Remove settings of members of list groups that are not chosen, in place.

    An experiment sets the weights of its losses. With ``losses=[mr_stft]`` on the command line, or in an experiment
    that extends it, the weights of the others have no effect. Names that are not members stay, and are reported when
    the configuration is checked.

    Args:
        cfg: the composed configuration.
        extra_dirs: folders of the user's own group members.

    Returns:
        What was removed, as ``GROUP.NAME``.
    """
    from omegaconf import DictConfig, open_dict

    removed = []
    for group in LIST_GROUPS:
        chosen = cfg.get(group)
        members = group_members(group, extra_dirs)
        for name, node in list(chosen.items()) if isinstance(chosen, DictConfig) else ():
            if name in members and isinstance(node, DictConfig) and "_target_" not in node:
                with open_dict(chosen):
                    del chosen[name]
                removed.append(f"{group}.{name}")
    return removed


def generator_node(config: Any) -> Any:
    """Return the node that builds what is trained and shipped: the generator, or what ``objective`` makes of it.

    Args:
        config: a composed configuration, or plain containers of a recorded one.
    """
    from omegaconf import DictConfig, OmegaConf

    generator, objective = config["generator"], later(config, "objective")
    if "_target_" not in objective:
        return generator
    if isinstance(config, DictConfig):
        generator, objective = (OmegaConf.to_container(node, resolve=True) for node in (generator, objective))
    return {**objective, "network": {**generator, "_partial_": True}}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return ``cfg`` as plain dicts, lists and scalars with every interpolation resolved, for YAML and checkpoints.

    Raises:
        ConfigError: a mandatory value is missing or an interpolation leads nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError([f"{where}{str(error).splitlines()[0]}"]) from error
    if not isinstance(container, dict):
        raise ConfigError([f"the configuration is a {type(container).__name__}, not a mapping"])
    return {str(key): value for key, value in with_current_targets(container).items()}


def build(node: Any, **arguments: Any) -> Any:
    """Instantiate a ``_target_`` node.

    Args:
        node: the node; a ``_target_`` that has moved is replaced by its current path.
        arguments: further arguments, added to those of the node.

    Raises:
        BcfusionError: the class refused its arguments. It is raised as such, without Hydra's wrapping.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(with_current_targets(node), **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, BcfusionError):
            raise cause from None
        if isinstance(cause, TypeError | ValueError):  # how constructors refuse arguments
            raise ConfigError([f"{node['_target_']}: {cause}"]) from error
        raise
