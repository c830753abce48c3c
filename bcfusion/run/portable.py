"""What of a bundle's description means something on another machine; the rest belongs to the one that trained it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bcfusion.configuration.locations import is_path_key
from bcfusion.configuration.paths import group_members
from bcfusion.run.trust import is_part, own_training

__all__ = ["portable_overrides", "portable_training", "without_paths"]

#: what a configuration says of the task and the network; everything else concerns the machine or the training
OF_THE_TASK = (
    "recipe",
    "experiment",
    "generator",
    "objective",
    "task",
    "sample_rate",
    "narrow_rate",
    "cutoff_frequency",
)
_PLAIN = re.compile(r"[+~]{0,2}[\w.]+(=[\w.,:+\-\[\] ]*)?", re.ASCII)  # no interpolation, place or class


def portable_training(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a model comes from, as far as it means something on another machine.

    Args:
        recorded: ``training`` of a :class:`bcfusion.run.description.Bundle`.
    """
    recorded = own_training(recorded)
    names = ("recipe", "experiment", "step", "metrics", "imported", "hub")
    kept = {key: recorded[key] for key in names if recorded.get(key) is not None}
    if recorded.get("losses"):  # by which it is adapted
        kept["losses"] = without_paths(recorded["losses"])
    if "overrides" in recorded:
        kept["overrides"] = portable_overrides(map(str, recorded["overrides"] or ()))
    return kept


def portable_overrides(recorded: Iterable[str]) -> list[str]:
    """Return the overrides that say what the task and the network are, in plain values and by shipped members."""
    typed = [(override, *override.lstrip("+~").partition("=")[::2]) for override in recorded]
    groups = ("recipe", "experiment", "generator", "objective")
    own = {key for _, key, value in typed if key in groups and value not in group_members(key)}
    if own:  # members of the trainer's own: their arguments mean nothing without them
        own |= {"experiment", "generator", "objective"}
    return [
        override
        for override, key, _ in typed
        if (section := key.split(".")[0]) in OF_THE_TASK
        and section not in own
        and not is_path_key(key)
        and _PLAIN.fullmatch(override)
        and "_target_" not in override
    ]


def without_paths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments without places, such as files that a network was built from: it holds their weights."""
    return {
        key: None if is_path_key(str(key)) and not is_part(value) else _without_path(value)
        for key, value in arguments.items()
    }


def _without_path(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_paths(value)
    if isinstance(value, list | tuple):
        return [_without_path(each) for each in value]
    return None if isinstance(value, str) and os.path.isabs(value) else value
