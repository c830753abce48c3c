"""Checks of ``_target_`` nodes by building them: constructors state the ranges of their arguments and report them."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Mapping
from typing import Any

from bcfusion.configuration.compose import build, generator_node
from bcfusion.configuration.keys import KEYS
from bcfusion.configuration.targets import UnknownTarget, locate
from bcfusion.configuration.values import at, group, is_resolved, nodes
from bcfusion.errors import BcfusionError, ConfigError, first_line
from bcfusion.requirements import check_rate

#: Nodes that are cheap to build and have no side effects; simulators at most look whether their files are there. A
#: corpus may read a whole disk, loggers and other callbacks may start something: they are built by a run, and by the
#: check of its data. A class says of itself that it is to be built here by an attribute ``built_by_check``.
BUILT = (
    "generator.",
    "objective.",
    "discriminators.",
    "critics.",
    "losses.",
    "adversarial.loss.",
    "balancer.",
    "data.augmentation.",
    "callbacks.early_stopping.",
    "degradation.",
)
#: sections of factories: of an optimiser from parameters, and of a scheduler from an optimiser
OPTIMIZER, SCHEDULER = "optimizer", "scheduler"


def construction_problems(tree: Mapping[str, Any], known: list[str]) -> list[str]:
    """Return what constructors report about their arguments, each line with the YAML path of the node.

    Args:
        tree: the resolved configuration, or a part of it.
        known: problems found so far; a node that has one is not built.
    """
    from torch.random import fork_rng

    problems: list[str] = []
    outer: tuple[str, ...] = ()
    with fork_rng(devices=[]):  # a run draws the same weights whether it has been checked or not
        for path, node in nodes(tree):
            if "_target_" not in node or path.startswith(outer) or not _is_built(path, node):
                continue
            outer = (*outer, f"{path}.")  # what is inside is built with it
            if path == "objective" and any(problem.startswith("generator") for problem in (*known, *problems)):
                continue  # it is built around the generator
            if buildable(path, node, known) and not _unused(path, tree):
                problems += _problems(path, node, tree)
        problems += _optimization_problems(tree, [*known, *problems])
    return problems


def _is_built(path: str, node: Mapping[str, Any]) -> bool:
    """Return whether a node is one of those that are built to check their arguments."""
    if f"{path}.".startswith(BUILT):
        return True
    try:
        return path.startswith("logger.") and getattr(locate(node["_target_"]), "built_by_check", False)
    except (UnknownTarget, AttributeError):  # reported as such
        return False


def _unused(path: str, tree: Mapping[str, Any]) -> bool:
    """Return whether a node is a simulator of a sensor that the task has not: a run does not build it."""
    section, _, name = path.partition(".")
    sensors = at(tree, "task.sensors")
    return section == "degradation" and isinstance(sensors, list) and name not in sensors


def _problems(path: str, node: Mapping[str, Any], tree: Mapping[str, Any]) -> list[str]:
    sample_rate, sensors = tree.get("sample_rate"), at(tree, "task.sensors")
    if path == "objective":
        node = generator_node(tree)
    if path.startswith("losses."):
        node = {key: value for key, value in node.items() if key != "weight"}
    if path.startswith("logger."):
        node = {"run_dir": os.curdir, **node}
    built, problems = _built(path, node, sample_rate, apart=path.startswith("degradation."))
    if path == "data.augmentation" and isinstance(sensors, list) and hasattr(built, "problem"):
        misfit = built.problem(sensors)
        problems += [] if misfit is None else [f"data.{misfit}"]
    return problems


def _built(path: str, node: Mapping[str, Any], sample_rate: Any, apart: bool) -> tuple[Any, list[str]]:
    """Build a node; with ``apart`` what is inside on its own, so that the problems of both are found."""
    parts: dict[str, Any] = {}
    problems: list[str] = []
    inside = [key for key, value in node.items() if apart and isinstance(value, Mapping) and "_target_" in value]
    for key in inside:
        parts[key], found = _built(f"{path}.{key}", node[key], sample_rate, apart)
        problems += found
    own = {key: value for key, value in node.items() if key not in inside}
    try:
        built = build(own, **parts)
        if isinstance(sample_rate, int):
            check_rate(built, sample_rate)
    except Exception as error:  # a user's own class may fail in any way
        of_the_lack = problems and not isinstance(error, BcfusionError)
        return None, problems + ([] if of_the_lack else refusal(path, error))
    return built, problems


def _optimization_problems(tree: Mapping[str, Any], known: list[str]) -> list[str]:
    """Return what optimisers say about their settings, and schedulers about theirs: each takes one step of nothing."""
    from torch import nn, zeros

    problems = []
    for network in group(tree, OPTIMIZER):
        path, node = f"{OPTIMIZER}.{network}", group(tree, OPTIMIZER)[network]
        if not buildable(path, node, known) or any(problem.startswith(f"{OPTIMIZER}.") for problem in known):
            continue
        try:
            optimizer = build(node)([nn.Parameter(zeros(1))])
            excess = [KEYS["optimizer.lr"].problem(part["lr"]) for part in optimizer.param_groups]
            if problem := next(filter(None, excess), None):
                problems.append(f"{path}.lr: {problem}")
                continue
            path, node = f"{SCHEDULER}.{network}", group(tree, SCHEDULER).get(network)
            if not buildable(path, node, known) or any(problem.startswith(f"{SCHEDULER}.") for problem in known):
                continue
            scheduler = build(node)(optimizer)
            optimizer.step()
            scheduler.step()
        except (TypeError, ValueError) as error:  # how torch refuses arguments
            problems.append(f"{path}: {str(error).splitlines()[0]}")
            continue
        except Exception as error:  # a user's own class may fail in any way
            problems += refusal(path, error)
            continue
        rates = [float(part["lr"]) for part in optimizer.param_groups]
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            problems.append(f"{path}: gives a learning rate of {rates[0]:g} after one step")
    return problems


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
