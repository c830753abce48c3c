"""Checks of what a generator learns from: losses, discriminators, and the warm-up and balancer that combine them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bcfusion.configuration.accepted import WEIGHT
from bcfusion.configuration.paths import group_members
from bcfusion.configuration.targets import UnknownTarget, locate
from bcfusion.configuration.values import UNRESOLVED, at, group
from bcfusion.contracts import JUDGEMENTS, asks_for, unprovided
from bcfusion.nearest import did_you_mean
from bcfusion.requirements import is_number

if TYPE_CHECKING:
    from omegaconf import DictConfig


def provides_noise(cfg: Mapping[str, Any]) -> bool:
    """Return whether a simulator of the task gives the noise that it added, so that batches hold ``noise``."""
    sensors = at(cfg, "task.sensors")
    known = () if sensors is UNRESOLVED or sensors is None else sensors
    simulators = [node for name, node in group(cfg, "degradation").items() if name in known]
    return any(getattr(_located(node), "provides_noise", False) for node in simulators)


def full_band_sensors(cfg: Mapping[str, Any]) -> bool:
    """Return whether no sensor of the task has an empty band: each is recorded, or its simulator says ``full_band``.

    A corpus may hold recordings of a sensor that has a simulator too; that cannot be told from the configuration.
    """
    sensors = at(cfg, "task.sensors")
    known = () if sensors is UNRESOLVED or sensors is None else sensors
    simulators = [node for name, node in group(cfg, "degradation").items() if name in known]
    return all(getattr(_located(node), "full_band", False) is True for node in simulators)


def empty_band(generator: Any, input_bandwidth: Any, full_band: bool = False) -> str | None:
    """Return a warning if a generator only masks a spectrum whose upper band is empty, else None.

    Args:
        generator: an instance; one whose attribute ``only_masks`` is true multiplies its input by a mask.
        input_bandwidth: highest frequency in Hz that any sensor picks up; anything but a number is not judged.
        full_band: see :func:`full_band_sensors`. A real sensor holds little above its bandwidth, but not nothing: a
            generator whose attribute ``amplifies`` is true is then not warned of.
    """
    highest = generator.sample_rate / 2 if getattr(generator, "only_masks", False) else 0.0
    raised = full_band and getattr(generator, "amplifies", False)
    if raised or not is_number(input_bandwidth) or input_bandwidth >= 0.9 * highest:
        return None
    name = type(generator).__name__
    return (
        f"generator: {name} multiplies the spectrum of its input by a mask, and the sensors pick up nothing above "
        f"{input_bandwidth:g} Hz (input_bandwidth): nothing can be restored up to {highest:g} Hz; use a network that "
        "maps, or generator.head=mapping or generator.excitation=noise where there is one"
    )


def learning_warnings(cfg: DictConfig, generator: Any) -> list[str]:
    """Return warnings of what hardly anybody means: see :func:`empty_band`; a velocity that no loss compares; and a
    corpus of noise or of rooms that no other setting refers to, as some jobs of a sweep over degradations have.
    """
    from omegaconf import OmegaConf

    found = [empty_band(generator, cfg.get("input_bandwidth"), full_band_sensors(cfg))]
    compared = any("prediction" in asks_for(_located(node)) for node in group(cfg, "losses").values())
    if getattr(generator, "predict", None) == "velocity" and not compared:
        found.append(
            "losses: none compares the velocity that the network predicts (objective.predict); take "
            "losses=[prediction_mse], or objective.predict=data for losses of the estimate"
        )
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    others = str({key: value for key, value in written.items() if key != "data"})
    for key, what in (("noise_root", "recordings of noise"), ("room_root", "responses of rooms")):
        if OmegaConf.select(cfg, f"data.{key}", default=None) is not None and f"data.{key}" not in others:
            found.append(f"data.{key}: has no effect, since nothing in degradation takes {what}")
    return [warning for warning in found if warning is not None]


def needs_discriminators(loss: Any) -> bool:
    """Return whether a loss, an instance or a class, compares judgements of discriminators; it is left out without."""
    return not JUDGEMENTS.isdisjoint(asks_for(loss))


def loss_problems(
    asks: Mapping[str, Iterable[str]],
    weights: Mapping[str, Any],
    generator: Any,
    batch_names: Iterable[str],
    adversarial: bool,
) -> list[str]:
    """Return a message for each loss that asks for what nobody provides, and one if there is nothing to learn from.

    Args:
        asks: what each loss asks for, by name.
        weights: weight of each loss, by name.
        generator: class of the generator, or a function that makes one.
        batch_names: keys of a batch in addition to the usual ones, such as ``noise``.
        adversarial: whether there are discriminators.
    """
    provides = getattr(generator, "provides", ())
    problems = [
        f"losses.{name}: asks for {', '.join(lacking)}, which neither the data nor {generator.__name__} provides"
        for name, names in asks.items()
        if (lacking := unprovided(names, provides, batch_names, adversarial))
    ]
    if not adversarial and not any(weights.values()):
        problems.append("losses: nothing to learn from; give a loss with a weight, or discriminators")
    return problems


def critic_name_problems(critics: Iterable[str], losses: Iterable[str]) -> list[str]:
    """Return a message for each critic that has the name of another part: it is that of a loss and of an optimiser."""
    taken = {*losses, "adversarial", "generator", "discriminator"}
    return [f"critics.{name}: another part has this name; rename it" for name in critics if name in taken]


def learning_problems(tree: Mapping[str, Any], targets: Mapping[str, Any]) -> list[str]:
    """Return a message for each loss that cannot be computed, and for each phase in which nothing is learned.

    Args:
        tree: the resolved configuration.
        targets: class or function of each ``_target_`` node, by YAML path.
    """
    losses = {name: node if isinstance(node, dict) else {} for name, node in group(tree, "losses").items()}
    adversarial = bool(group(tree, "discriminators"))
    asks = {name: asks_for(targets.get(f"losses.{name}")) for name in losses}
    alone = {name: names for name, names in asks.items() if JUDGEMENTS.isdisjoint(names)}  # needs no discriminators
    weights = {name: node.get("weight") for name, node in losses.items()}
    problems = _weights(losses)
    if "generator" in targets:
        computed = asks if adversarial else alone
        batch_names = ["noise"] if provides_noise(tree) else []
        taught = targets.get("objective", targets["generator"])
        problems += loss_problems(
            computed, {name: weights[name] for name in computed}, taught, batch_names, adversarial
        )
    critics = group(tree, "critics")
    problems += critic_name_problems(critics, losses)
    if not adversarial:
        return problems
    game = group(tree, "adversarial")
    start = game.get("start_step")
    if isinstance(start, int) and start > 0 and not any(weights[name] for name in alone):
        problems.append(
            f"losses: nothing to learn from in the first {start} steps, before the discriminators join; "
            "give a loss of the signals with a weight, or set adversarial.start_step=0"
        )
    head_start = game.get("head_start")
    if isinstance(head_start, int) and head_start > 0 and start == 0 and not any(weights[name] for name in alone):
        problems.append(
            f"losses: nothing to learn from in the first {head_start} steps, in which the discriminators learn alone; "
            "give a loss of the signals with a weight, or set adversarial.head_start=0"
        )
    warm_up = game.get("warm_up_losses") or ()
    problems += [
        f"adversarial.warm_up_losses: there is no loss '{name}'{_alternatives(str(name), losses)}"
        for name in warm_up
        if name not in losses and name not in group_members("losses")  # one that is not chosen does no harm
    ]
    if game and not game.get("weight") and all(name in warm_up for name, weight in weights.items() if weight):
        problems.append(
            "adversarial: nothing teaches the generator once the warm-up losses have ended; raise adversarial.weight, "
            "or keep a loss out of adversarial.warm_up_losses"
        )
    scaled = at(tree, "balancer.adversarial")
    problems += [
        f"balancer.adversarial: there is no loss '{name}'; there are adversarial, {', '.join([*losses, *critics])}"
        for name in (scaled if isinstance(scaled, list) else ())
        if name != "adversarial" and name not in losses and name not in critics
    ]
    return problems


def _weights(losses: Mapping[str, dict[str, Any]]) -> list[str]:
    problems = []
    for name, node in losses.items():
        weight = node.get("weight", UNRESOLVED)
        if node and "weight" not in node:
            problems.append(f"losses.{name}.weight: give one; 0 logs the loss only")
        elif weight is not UNRESOLVED and (problem := WEIGHT.problem(weight)):
            problems.append(f"losses.{name}.weight: {problem}")
    return problems


def _alternatives(name: str, losses: Mapping[str, Any]) -> str:
    return did_you_mean(name, losses) or (f"; there are {', '.join(losses)}" if losses else "")


def _located(node: Any) -> Any:
    try:
        return locate(node["_target_"])
    except (KeyError, TypeError, UnknownTarget):  # reported by the check of the node itself
        return None
