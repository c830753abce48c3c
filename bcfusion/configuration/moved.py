"""New locations of classes whose modules have moved, so that existing configurations and bundles still work.

Only names that are looked up by ``_target_`` belong here: runs record them, and users write them in their YAML.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

#: old dotted path of a module, or of an object in one, to the current path
MOVED = {
    "bcfusion.data.augmentation": "bcfusion.data.loading.augmentation",
    "bcfusion.data.shards": "bcfusion.data.loading.shards",
}


def current_target(target: str) -> str:
    """Return the current dotted path of ``target``, which is ``target`` itself if it has not moved."""
    for old, new in MOVED.items():
        if target == old or target.startswith(f"{old}."):
            return new + target[len(old) :]
    return target


def with_current_targets(node: Any) -> Any:
    """Replace every ``_target_`` in a node by its current path, in place, and return the node.

    Args:
        node: a node of a configuration, or plain containers. Changing it in place keeps its position in the
            configuration, which relative interpolations depend on.
    """
    from omegaconf import DictConfig, ListConfig, OmegaConf, read_write

    is_config = OmegaConf.is_config(node)
    if isinstance(node, DictConfig | dict):
        keys: Iterable[Any] = list(node)
    elif isinstance(node, ListConfig | list):
        keys = range(len(node))
    else:
        return node
    for key in keys:
        if is_config and (OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key)):
            continue
        value = node[key]
        if key != "_target_" or not isinstance(value, str):
            with_current_targets(value)
        elif current_target(value) != value:
            with read_write(node) if is_config else nullcontext():
                node[key] = current_target(value)
    return node
