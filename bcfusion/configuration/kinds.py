"""The kinds of plain values: what is a list or a switch in the shipped files has to stay one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bcfusion.configuration.keys import shipped_keys
from bcfusion.configuration.paths import conf_dir
from bcfusion.configuration.values import UNRESOLVED, at, group, shown
from bcfusion.nearest import did_you_mean

ENTRIES = ("discriminators", "critics", "losses", "metrics", "degradation", "callbacks", "logger")
SPOKEN = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def kind_problems(tree: Mapping[str, Any]) -> list[str]:
    """Return a message for each plain value that is not a mapping, a list, or true or false, though the shipped one is.

    Python would read a text as a list of letters, and take any text, even "off", for true. Arguments of classes are
    judged by their type hints instead.

    Args:
        tree: the resolved configuration.
    """
    problems = []
    for path, default in _plain(shipped_keys(conf_dir())):
        value = at(tree, path)
        if value is UNRESOLVED:
            continue
        if isinstance(default, dict) and not isinstance(value, Mapping):
            write = f"; write {path}.{next(iter(default))}={shown(value)}" if default and value is not None else ""
            problems.append(f"{path}: holds {', '.join(default) or 'entries'}, and cannot be {shown(value)}{write}")
        if isinstance(default, bool) and not isinstance(value, bool):
            hint = SPOKEN.get(str(value).lower())
            write = f"; write {path}={hint}" if hint else ""
            problems.append(f"{path}: must be true or false, not {shown(value)}{write}")
        if isinstance(default, list) and not isinstance(value, list):
            inside = "" if value is None else value
            problems.append(f"{path}: must be a list, not {shown(value)}; write '{path}=[{inside}]'")
    return problems + _entries(tree) + _processes(tree)


def _entries(tree: Mapping[str, Any]) -> list[str]:
    """Return a message for each entry of a group that is no mapping: null does not remove one."""
    return [
        f"{section}.{name}: must be a mapping with _target_, not {shown(node)}; to leave it out write ~{section}.{name}"
        for section in ENTRIES
        for name, node in group(tree, section).items()
        if not isinstance(node, Mapping) and node is not UNRESOLVED
    ]


def _plain(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in keys.items():
        if isinstance(value, dict):
            if "_target_" not in value:
                yield f"{prefix}{key}", value
                yield from _plain(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _processes(tree: Mapping[str, Any]) -> list[str]:
    """Return what Lightning would refuse with an error of its own."""
    problems = []
    strategy = at(tree, "trainer.strategy")
    if strategy is not UNRESOLVED and strategy not in ("auto", "ddp"):
        from lightning.pytorch.strategies import StrategyRegistry

        names = StrategyRegistry.available_strategies()
        if strategy not in names:
            hint = did_you_mean(str(strategy), ["auto", *names]) or "; auto and ddp are the usual ones"
            problems.append(f"trainer.strategy: Lightning has no strategy {shown(strategy)}{hint}")
    environment = at(tree, "trainer.environment")
    if environment is not UNRESOLVED and environment is not None and not isinstance(environment, Mapping):
        problems.append(
            f"trainer.environment: must be a mapping with _target_, or null, not {shown(environment)}; "
            "for Slurm write trainer=slurm"
        )
    return problems
