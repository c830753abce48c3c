"""The keys that every run reads. Hydra removes any key, ``~data.batch_size``, but none of these can be left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bcfusion.configuration.later import LATER
from bcfusion.configuration.paths import ROOT_CONFIG, conf_dir
from bcfusion.configuration.suggestions import read_yaml
from bcfusion.configuration.values import UNRESOLVED, at

#: groups of one choice that cannot be empty, and the file with the keys that all of their members have
BASES = {"data": "_base", "trainer": "default", "adversarial": "hinge"}
#: classes that every run builds
NODES = (
    "generator",
    "balancer",
    "data.corpus",
    "optimizer.generator",
    "optimizer.discriminator",
    "adversarial.loss",
)
NEEDED_GROUPS = (*BASES, "generator", "balancer", "optimizer", "scheduler", "selection", "recipe", "machine")


def removed_keys(tree: Mapping[str, Any], unused: Iterable[str] = ()) -> dict[str, str]:
    """Return a message for each needed key that is not there or names no class, by its path; for a removed group one.

    Args:
        tree: the resolved configuration.
        unused: sections that are not read, in addition to ``adversarial`` without discriminators.
    """
    unused = {*unused, *(() if tree.get("discriminators") else ("adversarial",))}
    problems = {}
    for section, shipped in _needed().items():
        if section in unused:
            continue
        lacking = list(_lacking(tree, {section: shipped}, ""))
        # an experiment may have set some keys of a group that was removed
        whole = isinstance(shipped, Mapping) and len(lacking) > len(shipped) / 2
        for path in [section] if whole else lacking:
            problems[path] = f"{path}: every run needs this key; leave out ~{path}, or add it to your YAML"
    for path in NODES:
        section = path.partition(".")[0]
        node = at(tree, path)
        if section in unused or section in problems or path in problems or node is UNRESOLVED:
            continue
        if not isinstance(node, Mapping) or "_target_" not in node:
            problems[path] = f"{path}: must be a mapping with _target_, as the members of {section} have it"
    return problems


def without_followers(problems: Iterable[str], removed: Iterable[str]) -> list[str]:
    """Return problems without those about interpolations that lead to a removed key."""
    keys = tuple(removed)
    kept = []
    for problem in problems:
        name = re.search(r"Interpolation key '([^']*)' not found", problem)
        if name is None or not any(name[1] == key or name[1].startswith(f"{key}.") for key in keys):
            kept.append(problem)
    return kept


def _needed() -> dict[str, Any]:
    root = read_yaml(conf_dir() / ROOT_CONFIG)
    needed = {key: value for key, value in root.items() if key != "defaults" and value != {}}  # {}: may be empty
    for group, member in BASES.items():
        shipped = read_yaml(conf_dir() / group / f"{member}.yaml")
        needed[group] = {key: value for key, value in shipped.items() if f"{group}.{key}" not in LATER}
    for path in NODES:
        section, _, key = path.partition(".")
        node = needed.setdefault(section, {})
        if key:
            node[key] = None
    needed |= {"task": {"name": None, "sensors": None}, "scheduler": {"generator": None, "discriminator": None}}
    return needed


def _lacking(tree: Mapping[str, Any], shipped: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in shipped.items():
        if key not in tree:
            yield f"{above}{key}"
        elif isinstance(value, Mapping) and "_target_" not in value and isinstance(tree[key], Mapping):
            yield from _lacking(tree[key], value, f"{above}{key}.")
