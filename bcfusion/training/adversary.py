"""The adversary: discriminators, their loss and their schedule behind a few calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from bcfusion.configuration.keys import key_rules
from bcfusion.contracts import AdversarialLoss, Judgement
from bcfusion.requirements import require

Network = Literal["generator", "discriminator"]
Order = Literal["generator_first", "discriminator_first"]


@dataclass(frozen=True)
class Schedule:
    """Who learns when: functions of the index of the optimiser step alone, the same on every rank and after a resume.

    Attributes:
        start_step: steps in which the generator learns by reconstruction alone.
        head_start: steps from there in which the discriminators learn and the generator does not hear them: untrained
            discriminators know nothing yet.
        ramp_steps: steps after these over which the weights of the adversarial loss and of the losses that compare
            judgements rise linearly from 0.
        interval: the discriminators learn at every ``interval``-th step from ``start_step`` on.
        generator_interval: the generator learns at every ``generator_interval``-th step from ``start_step`` on.

    Raises:
        ConfigError: a number is out of range, or the intervals leave steps in which nobody learns.
    """

    start_step: int = 0
    head_start: int = 0
    ramp_steps: int = 0
    interval: int = 1
    generator_interval: int = 1

    def __post_init__(self) -> None:
        require(self, key_rules("adversarial", **asdict(self)))

    def active(self, step: int) -> bool:
        """Return whether the discriminators take part at this step."""
        return step >= self.start_step

    def discriminators_learn(self, step: int) -> bool:
        """Return whether the discriminators are updated at this step."""
        return self.active(step) and (step - self.start_step) % self.interval == 0

    def generator_learns(self, step: int) -> bool:
        """Return whether the generator is updated at this step; before ``start_step`` it always is."""
        return not self.active(step) or (step - self.start_step) % self.generator_interval == 0

    def steps(self, network: Network, turns: int) -> int:
        """Return how often a network is updated in the first ``turns`` optimiser steps of the game."""
        alone, joint = min(turns, self.start_step), max(0, turns - self.start_step)
        if network == "discriminator":
            return -(-joint // self.interval)
        return alone - (-joint // self.generator_interval)

    def ramp(self, step: int) -> float:
        """Return the factor, in [0, 1], on the weights of all losses that need the discriminators."""
        heard = step - self.start_step - self.head_start
        return 0.0 if heard < 0 else min((heard + 1) / max(self.ramp_steps, 1), 1.0)


@dataclass(frozen=True)
class Turn:
    """One optimiser step of the game: who learns, in which order, from which passes. The default is regression.

    Attributes:
        order: the networks that learn, first to last.
        adversarial: whether the discriminators judge; if not, losses that need them are left out.
        ramp: factor on the weights of the losses that need the discriminators.
        shared_passes: whether one pass on each signal serves both updates.
    """

    order: tuple[Network, ...] = ("generator",)
    adversarial: bool = False
    ramp: float = 0.0
    shared_passes: bool = False


class Pair(NamedTuple):
    """Judgements of the same discriminators on the estimate and on the target."""

    estimate: list[Judgement]
    target: list[Judgement]


class Inside(NamedTuple):
    """Signals from inside the generator that discriminators judge in addition to a waveform, by name.

    Attributes:
        estimate: those that the estimate was made of.
        target: the same of the target.
    """

    estimate: Mapping[str, Tensor] = {}
    target: Mapping[str, Tensor] = {}


NOTHING = Inside()


class Adversary(nn.Module):
    """The discriminators and the game that they play against the generator.

    Args:
        discriminators: networks by name; each maps ``(B, 1, T)`` to a list of judgements; the lists are concatenated.
            One with an attribute ``takes`` is also given the signals of these names from inside the generator.
        loss: of both sides.
        weight: of the adversarial loss in the generator's total loss.
        schedule: who learns when.
        warm_up_losses: names of losses that train the generator before ``start_step``; their weights fall to 0 as the
            ramp rises, and from then on they are only logged.
        order: of the updates at a step in which both learn. ``generator_first``: both learn from the discriminators
            before their update; ``discriminator_first``: the generator learns from the updated discriminators.
        shared_passes: at a step in which both learn, one pass on the target and one on the estimate serve both updates
            instead of four. ``None``: share them if that gives the same result, that is with ``generator_first`` and
            discriminators whose passes are all alike (no dropout, no batch statistics).

    Raises:
        ConfigError: no discriminators, an unknown ``order``, or passes that cannot be shared.
    """

    def __init__(
        self,
        discriminators: Mapping[str, nn.Module],
        loss: AdversarialLoss,
        weight: float = 1.0,
        schedule: Schedule | None = None,
        warm_up_losses: Sequence[str] = (),
        order: Order = "generator_first",
        shared_passes: bool | None = None,
    ) -> None:
        require(
            self,
            (discriminators, "discriminators must hold at least one network"),
            key_rules("adversarial", order=order, shared_passes="auto" if shared_passes is None else shared_passes),
        )
        super().__init__()
        self.discriminators = nn.ModuleDict(discriminators)
        self.loss = loss
        self.weight = float(weight)
        self.schedule = schedule or Schedule()
        self.warm_up_losses = frozenset(warm_up_losses)
        self.order = order
        if shared_passes is None:
            alike = not any(isinstance(module, (_DropoutNd, _BatchNorm)) for module in self.modules())
            shared_passes = order == "generator_first" and alike
        self.shared_passes = shared_passes

    def turn(self, step: int) -> Turn:
        """Return who learns at optimiser step ``step``, counted from 0."""
        if not self.schedule.active(step):
            return Turn()
        order: list[Network] = ["generator"] if self.schedule.generator_learns(step) else []
        if self.schedule.discriminators_learn(step):
            order.insert(len(order) if self.order == "generator_first" else 0, "discriminator")
        return Turn(
            order=tuple(order),
            adversarial=True,
            ramp=self.schedule.ramp(step),
            shared_passes=self.shared_passes and len(order) == 2,
        )

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the signals from inside the generator that the discriminators judge."""
        return tuple(dict.fromkeys(name for network in self.discriminators.values() for name in _takes(network)))

    def judge(self, waveform: Tensor, inside: Mapping[str, Tensor] = {}) -> list[Judgement]:
        """Return the judgements of all discriminators on ``(B, 1, T)``, in the order of the configuration."""
        return [
            judgement
            for network in self.discriminators.values()
            for judgement in network(waveform, **{name: inside[name] for name in _takes(network)})
        ]

    def learning_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that an update of the discriminators changes."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    # ---------------------------------------------------------------- passes

    def judge_for_both(self, estimate: Tensor, target: Tensor, inside: Inside = NOTHING) -> Pair:
        """Judge both signals ``(B, 1, T)`` once for both updates, with a graph to the discriminators and the estimate.

        The generator's update takes gradients of this graph with respect to the estimate only, the discriminators'
        update with respect to their parameters only. The generator's losses get the judgements of the target through
        :func:`detached`.
        """
        with self._normalised_once(first=True):
            on_target = self.judge(target, inside.target)
            return Pair(self.judge(estimate, inside.estimate), on_target)

    def judge_for_generator(
        self, estimate: Tensor, target: Tensor | None, first: bool = True, inside: Inside = NOTHING
    ) -> Pair:
        """Judge the estimate, with a graph to it and nothing else, and the target, without a graph.

        Args:
            estimate: ``(B, 1, T)``.
            target: ``(B, 1, T)``, or None to save the pass on it.
            first: whether these are the first passes of this batch.
            inside: what the discriminators take from inside the generator.
        """
        with self._frozen(), self._normalised_once(first):
            with torch.no_grad():
                on_target = [] if target is None else self.judge(target, inside.target)
            return Pair(self.judge(estimate, inside.estimate), on_target)

    def judge_for_discriminators(
        self, estimate: Tensor, target: Tensor, first: bool = True, inside: Inside = NOTHING
    ) -> Pair:
        """Judge both signals with a graph to the discriminators and nothing else.

        Args:
            estimate: ``(B, 1, T)``.
            target: ``(B, 1, T)``.
            first: whether these are the first passes of this batch.
            inside: what the discriminators take from inside the generator.
        """
        of_estimate = {name: value.detach() for name, value in inside.estimate.items()}
        with self._normalised_once(first):
            on_target = self.judge(target, inside.target)
            return Pair(self.judge(estimate.detach(), of_estimate), on_target)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Turn off the gradients of the discriminators' weights, which the generator's backward pass does not need."""
        learning = self.learning_parameters()
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)

    @contextmanager
    def _normalised_once(self, first: bool) -> Iterator[None]:
        """Compute weights under weight or spectral norm once for all passes inside.

        Spectral norm continues its power iteration in the first passes of a batch only, so that the weights do not
        depend on the number of passes.
        """
        norms = [m for m in self.modules() if isinstance(m, parametrize.ParametrizationList) and m.training]
        for norm in norms:
            norm.train(first)
        try:
            with parametrize.cached():
                yield
        finally:
            for norm in norms:
                norm.train()

    # ---------------------------------------------------------------- log

    @torch.no_grad()
    def health(self, judgements: Pair) -> dict[str, Tensor]:
        """Return measures of the state of the game, as detached scalars.

        Returns:
            ``score_target`` and ``score_estimate``: mean logits. ``accuracy``: share of logits on the right side of
            the loss's boundary; targets and estimates count one half each. ``feature_distance``: mean absolute
            difference between the features of estimate and target, relative to the mean magnitude of the target's and
            averaged over layers; only if the discriminators return features. All are means over sub-discriminators.
        """
        boundary = self.loss.boundary
        on_estimate = [judgement.logits.float() for judgement in judgements.estimate]
        on_target = [judgement.logits.float() for judgement in judgements.target]
        right = [(logits > boundary).float().mean() for logits in on_target]
        right += [(logits < boundary).float().mean() for logits in on_estimate]
        distances = [
            (estimate.float() - target.float()).abs().mean() / target.float().abs().mean().clamp_min(1e-8)
            for of_estimate, of_target in zip(judgements.estimate, judgements.target, strict=True)
            for estimate, target in zip(of_estimate.features, of_target.features, strict=True)
        ]
        health = {
            "score_target": torch.stack([logits.mean() for logits in on_target]).mean(),
            "score_estimate": torch.stack([logits.mean() for logits in on_estimate]).mean(),
            "accuracy": torch.stack(right).mean(),
        }
        if distances:
            health["feature_distance"] = torch.stack(distances).mean()
        return health


def _takes(network: nn.Module) -> tuple[str, ...]:
    return tuple(getattr(network, "takes", ()))


def detached(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Return the same judgements as constants."""
    return [Judgement(j.logits.detach(), [feature.detach() for feature in j.features]) for j in judgements]
