"""Checks of what checkpoints are selected by, against the values that the chosen metrics give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcfusion.configuration.compose import build
from bcfusion.configuration.construction import buildable, refusal
from bcfusion.configuration.paths import group_members
from bcfusion.configuration.values import UNRESOLVED, at, group, shown
from bcfusion.nearest import did_you_mean
from bcfusion.requirements import check_rate, is_number


def selection_problems(tree: Mapping[str, Any], known: list[str], training: bool) -> list[str]:
    """Build the metrics, and return a message for each that fails and each entry that cannot rank checkpoints.

    Args:
        tree: the resolved configuration.
        known: problems found so far; a metric that has one is not built.
        training: whether to check ``selection`` and ``trainer.keep_best`` too.
    """
    metrics = group(tree, "metrics")
    if not metrics:
        problems = ["metrics: name at least one; the best checkpoint is chosen by them, as in 'metrics=[pesq_wb,stoi]'"]
    else:
        problems = []
    directions: dict[str, bool | None] = {}
    lacking: dict[str, str] = {}  # values that cannot be computed on this machine, with the reason
    complete = bool(metrics)  # if a metric is missing, so may be the value that an entry names
    for name, node in metrics.items():
        path = f"metrics.{name}"
        if not buildable(path, node, known):
            complete = False
            continue
        try:
            metric = build(node)
            given = getattr(metric, "higher_is_better", None)
            if isinstance(sample_rate := at(tree, "sample_rate"), int):
                check_rate(metric, sample_rate)
        except Exception as error:  # a user's own class may fail in any way
            complete = False
            problems += refusal(path, error)
            continue
        if isinstance(given, Mapping):
            directions |= given
            if reason := getattr(metric, "unavailable", None):
                lacking |= dict.fromkeys(given, reason)
        else:
            complete = False
            problems.append(f"{path}: its class must have higher_is_better, a dict with the direction of each value")
    if not training:
        return problems
    selection = group(tree, "selection")
    if not selection:
        problems.append("selection: name at least one metric value, as in selection=stoi")
    keep_best = at(tree, "trainer.keep_best")
    entries = [(f"selection.{name}", name) for name in selection]
    entries += [("trainer.keep_best", str(name)) for name in keep_best] if isinstance(keep_best, list) else []
    for path, name in entries:
        if name not in directions and complete:
            given = f"; they give {', '.join(directions)}{_instead(path, name, directions, tree)}"
            problems.append(f"{path}: no metric gives '{name}'{did_you_mean(name, directions) or given}")
        elif name in lacking:
            ranked = [
                value for value, direction in directions.items() if direction is not None and value not in lacking
            ]
            instead = next((value for value in ranked if value in group_members("selection")), "stoi")
            problems.append(
                f"{path}: {lacking[name]}, so that {name} cannot choose a checkpoint; install it (bcfusion doctor says "
                f"how), or write selection={instead} trainer.keep_best=[{instead}]"
            )
        elif directions.get(name, False) is None:
            problems.append(f"{path}: {name} is for information: neither high nor low values are better")
    for name, criterion in selection.items():
        problems += _criterion(f"selection.{name}", criterion, directions.get(name))
    return problems


def _instead(path: str, name: str, directions: Mapping[str, bool | None], tree: Mapping[str, Any]) -> str:
    """Return the override that names only values that the metrics give; empty if there is none to offer."""
    ranked = [value for value, direction in directions.items() if direction is not None]
    if path == "trainer.keep_best":
        kept = [value for value in map(str, at(tree, path)) if value in ranked] or ranked[:1]
        return f"; write 'trainer.keep_best=[{','.join(kept)}]'"
    member = next((value for value in ranked if value in group_members("selection")), None)
    if member is not None:
        return f"; write selection={member}"
    return f"; add '{name}' to metrics" if name in group_members("metrics") else ""


def _criterion(path: str, criterion: Any, higher_is_better: bool | None) -> list[str]:
    if criterion is UNRESOLVED:  # refused already
        return []
    if not isinstance(criterion, dict) or set(criterion) != {"weight", "worst", "best"}:
        return [f"{path}: must have weight, worst and best, and nothing else"]
    problems = [
        f"{path}.{key}: must be a number, not {shown(value)}"
        for key, value in criterion.items()
        if value is not UNRESOLVED and not is_number(value)
    ]
    if problems or UNRESOLVED in criterion.values():
        return problems
    if criterion["weight"] <= 0:
        problems.append(f"{path}.weight: must be above 0, not {criterion['weight']}")
    if criterion["worst"] == criterion["best"]:
        problems.append(f"{path}: worst and best are the same")
    elif higher_is_better is not None and (criterion["best"] > criterion["worst"]) != higher_is_better:
        problems.append(
            f"{path}: {'higher' if higher_is_better else 'lower'} values are better; exchange worst and best"
        )
    return problems
