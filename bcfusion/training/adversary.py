"""The adversary: discriminators, their objective and their schedule behind a few calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from bcfusion.contracts import AdversarialObjective, Judgement
from bcfusion.errors import ConfigError

Order = Literal["generator_first", "discriminator_first"]


@dataclass(frozen=True)
class Schedule:
    """Who learns when: functions of the index of the optimiser step alone, the same on every rank and after a resume.

    Attributes:
        start_step: steps in which the generator learns by reconstruction alone.
        ramp_steps: over so many steps from there, the weights of the adversarial loss and of the losses that compare
            judgements rise from 0 in equal parts: young discriminators know nothing yet.
        interval: the discriminators learn at every ``interval``-th step from ``start_step`` on.
        generator_interval: the generator learns at every ``generator_interval``-th step from ``start_step`` on.

    Raises:
        ConfigError: numbers out of range, or intervals that leave steps in which nobody learns.
    """

    start_step: int = 0
    ramp_steps: int = 0
    interval: int = 1
    generator_interval: int = 1

    def __post_init__(self) -> None:
        problems = [
            f"adversarial.{name}: must be at least {low}, not {getattr(self, name)}"
            for name, low in (("start_step", 0), ("ramp_steps", 0), ("interval", 1), ("generator_interval", 1))
            if getattr(self, name) < low
        ]
        if self.interval > 1 and self.generator_interval > 1:
            problems.append(
                f"adversarial.interval={self.interval} and generator_interval={self.generator_interval} leave steps in "
                "which nobody learns: set one of them to 1"
            )
        if problems:
            raise ConfigError(problems)

    def active(self, step: int) -> bool:
        """Whether the generator plays against the discriminators by this step."""
        return step >= self.start_step

    def discriminators_learn(self, step: int) -> bool:
        """Whether the discriminators are updated at this step."""
        return self.active(step) and (step - self.start_step) % self.interval == 0

    def generator_learns(self, step: int) -> bool:
        """Whether the generator is updated at this step; before ``start_step`` always."""
        return not self.active(step) or (step - self.start_step) % self.generator_interval == 0

    def ramp(self, step: int) -> float:
        """Factor, above 0 and up to 1, on the weights of all losses that need the discriminators."""
        return min((step - self.start_step + 1) / max(self.ramp_steps, 1), 1.0)


class Pair(NamedTuple):
    """Judgements of the same discriminators on the estimate and on the target."""

    estimate: list[Judgement]
    target: list[Judgement]


class Adversary(nn.Module):
    """Discriminators and the game they play against the generator.

    Args:
        discriminators: networks by name; each maps ``(B, 1, T)`` to a list of judgements, all lists are joined.
        objective: the adversarial losses of both sides.
        weight: of the adversarial loss in the generator's sum.
        schedule: who learns when.
        warm_up_losses: names of losses that teach the generator before ``start_step``; their weights fall to 0 as the
            ramp rises, and from there on they are logged only.
        order: ``generator_first``: at a step in which both learn, both learn from the discriminators as they are;
            ``discriminator_first``: the generator learns from the discriminators that have just been updated.
        shared_passes: at a step in which both learn, one pass on the target and one on the estimate serve both, in
            place of four. ``None``: where that gives the same result, that is for ``generator_first`` and
            discriminators whose passes are all alike (no dropout, no batch statistics).

    Raises:
        ConfigError: another ``order``, or passes that cannot be shared.
    """

    def __init__(
        self,
        discriminators: Mapping[str, nn.Module],
        objective: AdversarialObjective,
        weight: float = 1.0,
        schedule: Schedule | None = None,
        warm_up_losses: Sequence[str] = (),
        order: Order = "generator_first",
        shared_passes: bool | None = None,
    ) -> None:
        super().__init__()
        if not discriminators:
            raise ValueError("an adversary needs at least one discriminator")
        if order not in get_args(Order):
            raise ConfigError([f"adversarial.order: must be {' or '.join(get_args(Order))}, not {order!r}"])
        if shared_passes and order == "discriminator_first":
            raise ConfigError(
                [
                    "adversarial.shared_passes: with order=discriminator_first the generator is judged by other "
                    "weights than the discriminators learned with; set shared_passes=auto or order=generator_first"
                ]
            )
        self.discriminators = nn.ModuleDict(discriminators)
        self.objective = objective
        self.weight = float(weight)
        self.schedule = schedule or Schedule()
        self.warm_up_losses = frozenset(warm_up_losses)
        self.order = order
        if shared_passes is None:
            alike = not any(isinstance(module, (_DropoutNd, _BatchNorm)) for module in self.modules())
            shared_passes = order == "generator_first" and alike
        self.shared_passes = shared_passes

    def judge(self, waveform: Tensor) -> list[Judgement]:
        """Judgements of all discriminators on ``(B, 1, T)``, in the order of their names in the config."""
        return [judgement for network in self.discriminators.values() for judgement in network(waveform)]

    def learning_parameters(self) -> list[nn.Parameter]:
        """The parameters that an update of the discriminators changes."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    # ---------------------------------------------------------------- passes

    def judge_for_both(self, estimate: Tensor, target: Tensor) -> Pair:
        """One pass on each signal ``(B, 1, T)`` for both updates: a graph to the discriminators and to the estimate.

        The generator's update takes gradients of this graph for the estimate alone, the discriminators' for their
        parameters alone; the target's judgements go to the generator's losses by :func:`detached`.
        """
        with self._normalised_once(first=True):
            on_target = self.judge(target)
            return Pair(self.judge(estimate), on_target)

    def judge_for_generator(self, estimate: Tensor, target: Tensor | None, first: bool = True) -> Pair:
        """Judgements on the estimate, with a graph to it and to nothing else, and on the target, without graph.

        Args:
            estimate, target: ``(B, 1, T)``; no pass is spent on a target of None.
            first: whether these are the first passes of this batch.
        """
        with self._frozen(), self._normalised_once(first):
            with torch.no_grad():
                on_target = [] if target is None else self.judge(target)
            return Pair(self.judge(estimate), on_target)

    def judge_for_discriminators(self, estimate: Tensor, target: Tensor, first: bool = True) -> Pair:
        """Judgements with a graph to the discriminators, and to nothing else; arguments as above."""
        with self._normalised_once(first):
            on_target = self.judge(target)
            return Pair(self.judge(estimate.detach()), on_target)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Inside, discriminator weights take no gradient: the generator's backward pass needs none."""
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
        """Inside, weights under weight or spectral norm are computed once, for all passes.

        Spectral norm goes on with its power iteration at the first passes of a batch only, so that the weights do not
        depend on how many passes a batch takes.
        """
        steps = [m for m in self.modules() if isinstance(m, parametrize.ParametrizationList) and m.training]
        for step in steps:
            step.train(first)
        try:
            with parametrize.cached():
                yield
        finally:
            for step in steps:
                step.train()

    # ---------------------------------------------------------------- log

    @torch.no_grad()
    def health(self, judgements: Pair) -> dict[str, Tensor]:
        """How the game stands, as detached scalars, each a mean over sub-discriminators.

        ``score_target``, ``score_estimate``: mean logits. ``accuracy``: share of logits on the right side of the
        objective's boundary, targets and estimates counting one half each. ``feature_distance``: mean absolute
        difference of the features of estimate and target over the mean magnitude of the target's, mean over layers.
        """
        boundary = self.objective.boundary
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


def detached(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The same judgements as constants."""
    return [Judgement(j.logits.detach(), [feature.detach() for feature in j.features]) for j in judgements]
