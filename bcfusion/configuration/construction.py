"""Checks of ``_target_`` nodes by building them: constructors state the ranges of their arguments and report them."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from bcfusion.configuration.compose import build
from bcfusion.configuration.values import is_resolved, nodes
from bcfusion.errors import BcfusionError, ConfigError, first_line

#: Nodes that are cheap to build and have no side effects. Corpora and simulators may search folders, loggers and
#: callbacks may start something: their problems are reported when a run builds them.
BUILT = (
    "generator.",
    "discriminators.",
    "losses.",
    "adversarial.objective.",
    "balancer.",
    "data.augmentation.",
    "callbacks.early_stopping.",
)


def construction_problems(tree: Mapping[str, Any], known: list[str]) -> list[str]:
    """Return what constructors report about their arguments, each line with the YAML path of the node.

    Args:
        tree: the resolved configuration, or a part of it.
        known: problems found so far; a node that has one is not built.
    """
    from torch.random import fork_rng

    problems = []
    outer: tuple[str, ...] = ()
    with fork_rng(devices=[]):  # a run draws the same weights whether it has been checked or not
        for path, node in nodes(tree):
            if "_target_" not in node or not f"{path}.".startswith(BUILT) or path.startswith(outer):
                continue
            outer = (*outer, f"{path}.")  # what is inside is built with it
            if buildable(path, node, known):
                problems += _problems(path, node)
    return problems


def _problems(path: str, node: Mapping[str, Any]) -> list[str]:
    if path.startswith("losses."):
        node = {key: value for key, value in node.items() if key != "weight"}
    try:
        build(node)
    except Exception as error:  # a user's own class may fail in any way
        return refusal(path, error)
    return []


def buildable(path: str, node: Any, known: list[str]) -> bool:
    """Return whether a node names a class, all its values are resolved, and no problem with it is known."""
    complete = isinstance(node, Mapping) and "_target_" in node and is_resolved(node)
    return complete and not any(problem.startswith((f"{path}.", f"{path}:")) for problem in known)


def refusal(path: str, error: Exception) -> list[str]:
    """Return an error of :func:`bcfusion.configuration.compose.build` as lines that begin with the path of the node.

    Of an error that is not for users, the line says where in the class it was raised.
    """
    if isinstance(error, ConfigError):
        return [f"{path}: {problem}" for problem in error.problems]
    if isinstance(error, BcfusionError):
        return [f"{path}: {first_line(error)}"]
    bug = error.__cause__ or error  # Hydra wraps what a class raises
    frames = traceback.extract_tb(bug.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return [f"{path}: {first_line(bug)} ({own[-1].filename}, line {own[-1].lineno})"]
