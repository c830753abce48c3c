"""The check of a composed configuration: all problems at once, with their YAML paths, before anything heavy starts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from bcfusion.configuration.keys import WEIGHT, at, choice_problems, misspelt_keys, nodes, number_problems, shown
from bcfusion.configuration.paths import group_members
from bcfusion.configuration.targets import UNRESOLVED, UnknownTarget, argument_problems, is_number, locate
from bcfusion.errors import BcfusionError, ConfigError
from bcfusion.nearest import nearest

BATCH_NAMES = ("inputs", "target", "lengths", "estimate")
JUDGEMENTS = ("estimate_judgements", "target_judgements")
#: groups that an evaluation does not build
TRAINING_GROUPS = (
    "losses",
    "discriminators",
    "adversarial",
    "balancer",
    "optimizer",
    "scheduler",
    "logger",
    "callbacks",
)
#: arguments that the program adds when it builds a node of these groups
GIVEN_WHEN_BUILT = {"logger": ("run_dir", "first_step")}


def verify_or_raise(cfg: DictConfig, training: bool = True) -> None:
    """Raises a ConfigError with all that :func:`verify` finds."""
    problems = verify(cfg, training)
    if problems:
        raise ConfigError(problems)


def verify(cfg: DictConfig, training: bool = True) -> list[str]:
    """Every problem of a composed configuration, one line each, beginning with its YAML path.

    Found are: missing mandatory values and interpolations that lead nowhere; names that resemble a known one;
    ``_target_`` nodes whose class does not exist or takes other arguments; sample rates that disagree; numbers out of
    range; a selection by values that no metric gives; losses that ask for what nobody provides; sensors without source.
    Nothing is built but the metrics.

    Args:
        cfg: composed configuration.
        training: false leaves out what an evaluation does not use: losses, discriminators, selection.
    """
    tree, problems = _resolved(cfg)
    problems += misspelt_keys(tree, OmegaConf.to_yaml(cfg))
    targets: dict[str, Any] = {}
    for path, node in nodes(tree):
        if "_target_" in node and (training or path.partition(".")[0] not in TRAINING_GROUPS):
            problems += _target_problems(path, node, targets)
    problems += _sample_rates(tree)
    problems += number_problems(tree)
    if training:
        problems += choice_problems(tree)
        problems += _losses(tree, targets)
        problems += _adversarial(tree)
        problems += _windows(tree)
    problems += _quality(cfg, tree, problems, training)
    problems += _sensors(tree, targets)
    return list(dict.fromkeys(problems))


def provides_noise(cfg: DictConfig) -> bool:
    """Whether a simulator of the task gives the noise that it added, so that batches hold ``noise``."""
    names = set(cfg.task.sensors)
    nodes = [node for name, node in (cfg.get("degradation") or {}).items() if name in names]
    return any(getattr(locate(node["_target_"]), "provides_noise", False) for node in nodes)


def needs_discriminators(loss: Any) -> bool:
    """Whether a loss compares judgements of discriminators; without any, the trainer leaves it out."""
    return not set(JUDGEMENTS).isdisjoint(_asks(loss))


def _asks(loss: Any) -> list[str]:
    """What the ``forward`` of a loss asks for by argument name."""
    forward = getattr(loss, "forward", None)
    return [] if forward is None else [name for name in inspect.signature(forward).parameters if name != "self"]


# ---------------------------------------------------------------- values


def _resolved(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Plain containers with UNRESOLVED where a value is missing or leads nowhere, and why."""
    problems: list[str] = []
    failures: dict[str, list[tuple[str, str]]] = {}

    def walk(node: DictConfig | ListConfig, path: str) -> Any:
        keys = list(node) if isinstance(node, DictConfig) else range(len(node))
        values: dict[Any, Any] = {}
        for key in keys:
            values[key] = leaf(node, key, f"{path}.{key}" if path else str(key))
        return values if isinstance(node, DictConfig) else list(values.values())

    def leaf(node: DictConfig | ListConfig, key: Any, path: str) -> Any:
        if OmegaConf.is_missing(node, key):
            problems.append(f"{path}: a value is needed, as in {path}=VALUE")
            return UNRESOLVED
        try:
            value = node[key]
        except InterpolationToMissingValueError:  # the missing value is reported at its own place
            return UNRESOLVED
        except OmegaConfBaseException as error:
            raw: Any = OmegaConf.to_container(node, resolve=False)
            failures.setdefault(_cause(error), []).append((path, str(raw[key])))
            return UNRESOLVED
        return walk(value, path) if isinstance(value, (DictConfig, ListConfig)) else value

    tree = walk(cfg, "")
    for cause, places in failures.items():
        # A broken interpolation breaks those that lead to it: the problem is where the name is written.
        name = cause.split("'")[1] if "'" in cause else ""
        direct = [path for path, written in places if name and name in written]
        problems += [f"{path}: {cause}" for path in direct or [places[0][0]]]
    return tree, problems


def _cause(error: OmegaConfBaseException) -> str:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, BcfusionError):
            return str(link)
        link = link.__cause__ or link.__context__
    return str(error).splitlines()[0]


def _group(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The members of a list group; empty where it is empty, null or broken."""
    node = tree.get(name)
    return node if isinstance(node, dict) else {}


# ---------------------------------------------------------------- rules


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
    group = path.partition(".")[0]
    arguments = {key: value for key, value in node.items() if group != "losses" or key != "weight"}
    return argument_problems(path, arguments, targets[path], GIVEN_WHEN_BUILT.get(group, ()))


def _sample_rates(tree: dict[str, Any]) -> list[str]:
    rate = tree.get("sample_rate", UNRESOLVED)
    if rate is UNRESOLVED:
        return []
    return [
        f"{path}.sample_rate: is {shown(node['sample_rate'])}, but sample_rate is {shown(rate)}; write ${{sample_rate}}"
        for path, node in nodes(tree)
        if path and node.get("sample_rate", rate) not in (rate, UNRESOLVED)
    ]


def _adversarial(tree: dict[str, Any]) -> list[str]:
    """Combinations that the adversary refuses as well, when it is built."""
    game = _group(tree, "adversarial") if _group(tree, "discriminators") else {}
    problems = []
    intervals = (game.get("interval", 1), game.get("generator_interval", 1))
    if all(isinstance(n, int) and n > 1 for n in intervals):
        problems.append(
            "adversarial: interval or generator_interval must be 1, or there are steps in which nobody learns"
        )
    if game.get("order") == "discriminator_first" and game.get("shared_passes") is True:
        problems.append("adversarial.shared_passes: must be auto or false with adversarial.order=discriminator_first")
    losses = _group(tree, "losses")
    for name in game.get("warm_up_losses") or ():
        if name not in losses and name not in group_members("losses"):  # one that is not chosen does no harm
            near = nearest(str(name), losses)
            hint = f"; did you mean '{near}'?" if near else f"; there are {', '.join(losses)}" if losses else ""
            problems.append(f"adversarial.warm_up_losses: there is no loss '{name}'{hint}")
    passing = set(game.get("warm_up_losses") or ())
    lasting = [name for name, node in losses.items() if name not in passing and isinstance(node, dict)]
    if game and not game.get("weight") and not any(losses[name].get("weight") for name in lasting):
        problems.append(
            "adversarial: nothing teaches the generator once the warm-up losses have ended; raise adversarial.weight, "
            "or keep a loss out of adversarial.warm_up_losses"
        )
    scaled = at(tree, "balancer.adversarial")
    for name in scaled if game and isinstance(scaled, list) else ():
        if name != "adversarial" and name not in losses:
            problems.append(
                f"balancer.adversarial: there is no loss '{name}'; there are adversarial, {', '.join(losses)}"
            )
    return problems


def _losses(tree: dict[str, Any], targets: dict[str, Any]) -> list[str]:
    losses, adversary = _group(tree, "losses"), bool(_group(tree, "discriminators"))
    problems = []
    for name, node in losses.items():
        weight = node.get("weight", UNRESOLVED) if isinstance(node, dict) else UNRESOLVED
        if isinstance(node, dict) and "weight" not in node:
            problems.append(f"losses.{name}.weight: give one; 0 logs the loss only")
        elif weight is not UNRESOLVED and (problem := WEIGHT.problem(weight)):
            problems.append(f"losses.{name}.weight: {problem}")
    if not adversary and not any(isinstance(node, dict) and node.get("weight") for node in losses.values()):
        problems.append("losses: nothing to learn from; give a loss with a weight, or discriminators")
    first = at(tree, "adversarial.start_step")
    if adversary and isinstance(first, int) and first > 0 and not _teaches_alone(losses, targets):
        problems.append(
            f"losses: nothing to learn from in the first {first} steps, before the discriminators join; "
            "give a loss of the signals with a weight, or set adversarial.start_step=0"
        )
    generator = targets.get("generator")
    provided = {*BATCH_NAMES, *JUDGEMENTS}  # a loss that lacks nothing but judgements is left out by the trainer
    provided |= set(getattr(generator, "provides", ()))
    if any(
        getattr(targets.get(f"degradation.{name}"), "provides_noise", False) for name in _group(tree, "degradation")
    ):
        provided.add("noise")
    network = getattr(generator, "__name__", "the generator")
    for name in losses if generator is not None else ():
        lacking = [argument for argument in _asks(targets.get(f"losses.{name}")) if argument not in provided]
        if lacking:
            problems.append(
                f"losses.{name}: asks for {', '.join(lacking)}, which neither the data nor {network} provides"
            )
    return problems


def _teaches_alone(losses: dict[str, Any], targets: dict[str, Any]) -> bool:
    """Whether some loss has a weight and needs no discriminator."""
    return any(
        isinstance(node, dict) and node.get("weight") and not needs_discriminators(targets.get(f"losses.{name}"))
        for name, node in losses.items()
    )


def _windows(tree: dict[str, Any]) -> list[str]:
    """Steps at which a state is saved must not lie between batches whose gradients are accumulated."""
    accumulate = at(tree, "trainer.accumulate")
    if not isinstance(accumulate, int) or accumulate < 2:
        return []
    keys = ("validate_every", "checkpoint_every", "max_steps")
    values = {key: at(tree, f"trainer.{key}") for key in keys}
    return [
        f"trainer.{key}: {value} must be a multiple of trainer.accumulate, {accumulate}"
        for key, value in values.items()
        if isinstance(value, int) and value % accumulate
    ]


def _quality(cfg: DictConfig, tree: dict[str, Any], known: list[str], training: bool) -> list[str]:
    """Selection and best checkpoints, against the values that the metrics give."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    problems: list[str] = []
    directions: dict[str, bool | None] = {}
    broken = False
    for name in _group(tree, "metrics"):
        if any(problem.startswith((f"metrics.{name}.", f"metrics.{name}:")) for problem in known):
            broken = True
            continue
        try:
            directions |= dict(instantiate(cfg.metrics[name]).higher_is_better)
        except InstantiationException as error:
            broken = True
            problems.append(f"metrics.{name}: {str(error.__cause__ or error).splitlines()[0]}")
    if not directions and not broken:
        problems.append("metrics: name at least one; the best checkpoint is chosen by them")
    if not training:
        return problems
    selection = _group(tree, "selection")
    if not selection:
        problems.append("selection: name at least one metric value, as in selection=stoi")
    chosen = [(f"selection.{name}", name) for name in selection]
    keep_best = at(tree, "trainer.keep_best")
    chosen += [("trainer.keep_best", str(name)) for name in keep_best] if isinstance(keep_best, list) else []
    for path, name in chosen:
        if name in directions:
            if directions[name] is None:
                problems.append(f"{path}: {name} is neither better high nor low; nothing can be selected by it")
        elif not broken:
            near = nearest(name, directions)
            hint = f"; did you mean '{near}'?" if near else f"; they give {', '.join(directions)}"
            problems.append(f"{path}: no metric gives '{name}'{hint}")
    for name, criterion in selection.items():
        problems += _criterion(f"selection.{name}", criterion, directions.get(name))
    return problems


def _criterion(path: str, criterion: Any, higher_is_better: bool | None) -> list[str]:
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


def _sensors(tree: dict[str, Any], targets: dict[str, Any]) -> list[str]:
    """Sensors that are neither simulated nor recorded, where the corpus says beforehand which ones it records."""
    recorded = getattr(targets.get("data.corpus"), "recorded_sensors", None)
    sensors = at(tree, "task.sensors")
    if not isinstance(sensors, list):
        return []
    if not sensors:
        return ["task.sensors: name at least one sensor"]
    simulated = _group(tree, "degradation")
    listed = ", ".join(simulated) or "none"
    return [
        f"task.sensors: '{sensor}' is neither recorded in this corpus nor simulated by degradation ({listed})"
        for sensor in sensors
        if recorded is not None and sensor is not UNRESOLVED and sensor not in simulated and sensor not in recorded
    ]
