"""Checks of ``_target_`` nodes by building them: constructors state the ranges of their arguments and report them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException

from bcfusion.configuration.compose import build
from bcfusion.configuration.values import is_resolved, nodes
from bcfusion.errors import BcfusionError, ConfigError

#: Nodes that are cheap to build and have no side effects. Corpora and simulators may search folders, loggers and
#: callbacks may start something: their problems are reported when a run builds them.
BUILT = ("generator.", "discriminators.", "losses.", "adversarial.objective.", "balancer.", "data.augmentation.")


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
    except BcfusionError as error:
        return refusal(path, error)
    except InstantiationException:
        pass  # a bug in the class: its traceback is shown when a run builds it
    return []


def buildable(path: str, node: Any, known: list[str]) -> bool:
    """Return whether a node names a class, all its values are resolved, and no problem with it is known."""
    complete = isinstance(node, Mapping) and "_target_" in node and is_resolved(node)
    return complete and not any(problem.startswith((f"{path}.", f"{path}:")) for problem in known)


def refusal(path: str, error: BcfusionError | InstantiationException) -> list[str]:
    """Return the lines of an error of a constructor, each with the YAML path of the node."""
    problems = error.problems if isinstance(error, ConfigError) else [str(error.__cause__ or error).splitlines()[0]]
    return [f"{path}: {problem}" for problem in problems]
