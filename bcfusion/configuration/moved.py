"""Where classes went whose module has moved, so that configurations and bundles written before still work.

Names that appear in ``_target_`` alone: what a run records, and what users write into their YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: old dotted path, of a module or an object in one, to the one that holds now
MOVED = {
    "bcfusion.data.augmentation": "bcfusion.data.simulation.augmentation",
    "bcfusion.data.shards": "bcfusion.data.loading.shards",
    "bcfusion.commands.sweep": "bcfusion.commands.shared.sweep",
}


def current_target(target: str) -> str:
    """Return the dotted path at which ``target`` is found now; unchanged if it has not moved."""
    for old, new in MOVED.items():
        if target == old or target.startswith(f"{old}."):
            return new + target[len(old) :]
    return target


def with_current_targets(value: Any) -> Any:
    """Return plain containers in which every ``_target_`` is the current one; see :func:`current_target`."""
    if isinstance(value, Mapping):
        return {
            key: current_target(entry) if key == "_target_" and isinstance(entry, str) else with_current_targets(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [with_current_targets(entry) for entry in value]
    return value
