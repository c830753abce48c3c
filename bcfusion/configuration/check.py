"""The check of a composed configuration: all problems at once, with their YAML paths, before anything heavy starts."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bcfusion.configuration.construction import construction_problems
from bcfusion.configuration.keys import key_problems, misspelt_keys
from bcfusion.configuration.kinds import kind_problems
from bcfusion.configuration.learning import learning_problems
from bcfusion.configuration.needed import removed_keys, without_followers
from bcfusion.configuration.selection import selection_problems
from bcfusion.configuration.targets import UnknownTarget, argument_problems, locate
from bcfusion.configuration.values import UNRESOLVED, at, group, nodes, resolved, shown, without_refused
from bcfusion.errors import ConfigError

#: groups that an evaluation does not build: the network is that of the bundle, which may need no file it was built from
TRAINING_GROUPS = frozenset(
    (
        *("generator", "objective", "losses", "discriminators", "critics", "adversarial", "balancer"),
        *("optimizer", "scheduler", "logger", "callbacks"),
    )
)
#: arguments that the program adds when it builds a node of these groups
GIVEN_WHEN_BUILT = {"logger": ("run_dir", "first_step"), "objective": ("network",)}
_SECTION = re.compile(r"[.:]")  # ends the name of a group, with which a problem begins


def verify_or_raise(cfg: DictConfig, training: bool = True) -> None:
    """Raise a ConfigError with all problems that :func:`verify` finds."""
    problems = verify(cfg, training)
    if problems:
        raise ConfigError(problems)


def verify(cfg: DictConfig, training: bool = True) -> list[str]:
    """Return every problem of a composed configuration, one line each, beginning with its YAML path.

    It finds missing mandatory values, removed keys and interpolations that lead nowhere; misspelt keys; ``_target_``
    nodes whose class does not exist or refuses its arguments; sample rates that disagree; numbers out of range; a
    selection by values that no metric gives; losses that ask for what nobody provides; sensors without a source. No
    corpus is read; simulators look whether their files are there, and refuse sample rates at which they cannot work.
    A value that is refused is not judged again where others follow it.

    Args:
        cfg: the composed configuration.
        training: false skips what an evaluation does not use: network, losses, discriminators, selection.
    """
    tree, problems = resolved(cfg)
    removed = removed_keys(tree, () if training else TRAINING_GROUPS)
    problems = [*removed.values(), *without_followers(problems, removed)]
    problems += misspelt_keys(tree, OmegaConf.to_yaml(cfg))
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    for plain_problems in (kind_problems, key_problems):
        tree, found = without_refused(tree, written, plain_problems(tree))
        problems += found
    used = tree if training else {key: value for key, value in tree.items() if key not in TRAINING_GROUPS}
    targets: dict[str, Any] = {}
    for path, node in nodes(used):
        if "_target_" in node:
            problems += _target_problems(path, node, targets)
    problems += _sample_rates(tree)
    problems += construction_problems(used, problems)
    if training:
        problems += [*_endless(tree), *learning_problems(tree, targets)]
    problems += selection_problems(tree, problems, training)
    problems += _sensors(tree, targets)
    if not training:
        problems = [problem for problem in problems if _SECTION.split(problem)[0] not in TRAINING_GROUPS]
    return list(dict.fromkeys(problems))


def _target_problems(path: str, node: dict[str, Any], targets: dict[str, Any]) -> list[str]:
    target = node["_target_"]
    if target is UNRESOLVED:
        return []
    if not isinstance(target, str):
        return [f"{path}._target_: must be the dotted path of a class, not {shown(target)}"]
    try:
        targets[path] = locate(target)
    except UnknownTarget as unknown:
        return [f"{path}._target_: {unknown}"]
    section = path.partition(".")[0]
    arguments = {key: value for key, value in node.items() if section != "losses" or key != "weight"}
    return argument_problems(path, arguments, targets[path], GIVEN_WHEN_BUILT.get(section, ()))


def _sample_rates(tree: dict[str, Any]) -> list[str]:
    rate = tree.get("sample_rate", UNRESOLVED)
    if rate is UNRESOLVED:
        return []
    return [
        f"{path}.sample_rate: is {shown(node['sample_rate'])}, but sample_rate is {shown(rate)}; write ${{sample_rate}}"
        for path, node in nodes(tree)
        if path and node.get("sample_rate", rate) not in (rate, UNRESOLVED)
    ]


def _endless(tree: dict[str, Any]) -> list[str]:
    """Return a message if neither time nor steps end a run."""
    if at(tree, "budget.minutes", 0) is None and at(tree, "trainer.max_steps", 0) is None:
        return ["budget.minutes: nothing ends the run, since trainer.max_steps is null too; write budget.minutes=60"]
    return []


def _sensors(tree: dict[str, Any], targets: dict[str, Any]) -> list[str]:
    """Return a message for each sensor without a source, if the class of the corpus declares which ones it records."""
    recorded = getattr(targets.get("data.corpus"), "recorded_sensors", None)
    sensors = at(tree, "task.sensors")
    if sensors is UNRESOLVED:
        return []
    if not sensors:
        return ["task.sensors: name at least one sensor"]
    simulated = group(tree, "degradation")
    listed = ", ".join(simulated) or "none"
    return [
        f"task.sensors: '{sensor}' is neither recorded in this corpus nor simulated by degradation ({listed})"
        for sensor in sensors
        if recorded is not None and sensor is not UNRESOLVED and sensor not in simulated and sensor not in recorded
    ]
