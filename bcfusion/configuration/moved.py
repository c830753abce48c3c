"""New locations of classes whose modules have moved, and new names of their arguments.

With these existing configurations and bundles still work. Only names that are looked up by ``_target_``, and arguments
of what it names, belong here: runs record them, and users write them in their YAML.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

#: old dotted path of a module, or of an object in one, to the current path
MOVED = {
    "bcfusion.data.augmentation": "bcfusion.data.loading.augmentation",
    "bcfusion.data.shards": "bcfusion.data.loading.shards",
    "bcfusion.losses.adversarial.HingeObjective": "bcfusion.losses.adversarial.HingeLoss",
    "bcfusion.losses.adversarial.LeastSquaresObjective": "bcfusion.losses.adversarial.LeastSquaresLoss",
}

#: class to its arguments that have another name now: old name to new name, and old values to new ones
RENAMED: dict[str, dict[str, tuple[str, dict[Any, Any]]]] = {
    f"bcfusion.data.simulation.{name}": {"follow_level": ("follow", {True: "level", False: "none"})}
    for name in ("transfer_function.TransferFunction", "magnitude_ratio.MagnitudeRatio")
}

#: sections whose keys have another name now: old name to new name
RENAMED_KEYS = {"adversarial": {"objective": "loss"}}


def current_target(target: str) -> str:
    """Return the current dotted path of ``target``, which is ``target`` itself if it has not moved."""
    for old, new in MOVED.items():
        if target == old or target.startswith(f"{old}."):
            return new + target[len(old) :]
    return target


def with_current_targets(node: Any) -> Any:
    """Replace every ``_target_`` in a node by its current path, renamed arguments and keys; in place; return the node.

    Args:
        node: a node of a configuration, or plain containers. Changing it in place keeps its position in the
            configuration, which relative interpolations depend on.
    """
    from omegaconf import DictConfig, ListConfig, OmegaConf

    is_config = OmegaConf.is_config(node)
    if isinstance(node, DictConfig | dict):
        keys: Iterable[Any] = list(node)
    elif isinstance(node, ListConfig | list):
        keys = range(len(node))
    else:
        return node
    for key in keys:
        if key in RENAMED_KEYS and isinstance(node[key] if not is_config else node._get_node(key), DictConfig | dict):
            _rename(node[key], RENAMED_KEYS[key])
        if is_config and (OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key)):
            continue
        value = node[key]
        if key != "_target_" or not isinstance(value, str):
            with_current_targets(value)
        elif current_target(value) != value:
            with _writable(node):
                node[key] = current_target(value)
    if isinstance(node, DictConfig | dict) and (renamed := RENAMED.get(str(node.get("_target_")))):
        with _writable(node):
            for old, (new, values) in renamed.items():
                if old in node:
                    value = node.pop(old)
                    node[new] = values.get(value, value)
    return node


def _rename(section: Any, names: dict[str, str]) -> None:
    for old, new in names.items():
        if old in section and new not in section:
            with _writable(section):
                section[new] = section.pop(old)


@contextmanager
def _writable(node: Any) -> Iterator[None]:
    """Let keys be changed, added and removed in a configuration that is read-only or closed; plain dicts are open."""
    from omegaconf import OmegaConf, flag_override

    if OmegaConf.is_config(node):
        with flag_override(node, ["readonly", "struct"], False):
            yield
    else:
        yield
