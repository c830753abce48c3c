"""The adversary: discriminators, their objective and their schedule behind a few calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bcfusion.contracts import AdversarialObjective, Judgement


class Adversary(nn.Module):
    """Discriminators and the game they play against the generator.

    The schedule is a function of the index of the optimiser step only: the same on every rank, and after a resume.

    Args:
        discriminators: networks by name; each maps ``(B, 1, T)`` to a list of judgements, all lists are joined.
        objective: the adversarial losses of both sides.
        weight: of the adversarial loss in the generator's sum.
        start_step: steps in which the generator learns by reconstruction alone.
        interval: the discriminators are updated at every ``interval``-th step from ``start_step`` on.
    """

    def __init__(
        self,
        discriminators: Mapping[str, nn.Module],
        objective: AdversarialObjective,
        weight: float = 1.0,
        start_step: int = 0,
        interval: int = 1,
    ) -> None:
        super().__init__()
        if not discriminators:
            raise ValueError("an adversary needs at least one discriminator")
        if interval < 1 or start_step < 0:
            raise ValueError(f"interval must be at least 1 and start_step at least 0, not {interval} and {start_step}")
        self.discriminators = nn.ModuleDict(discriminators)
        self.objective = objective
        self.weight = float(weight)
        self.start_step = start_step
        self.interval = interval

    def active(self, step: int) -> bool:
        """Whether the generator plays against the discriminators at this step."""
        return step >= self.start_step

    def updates(self, step: int) -> bool:
        """Whether the discriminators learn at this step."""
        return self.active(step) and (step - self.start_step) % self.interval == 0

    def judge(self, waveform: Tensor) -> list[Judgement]:
        """Judgements of all discriminators on ``(B, 1, T)``, in the order of their names in the config."""
        return [judgement for network in self.discriminators.values() for judgement in network(waveform)]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, discriminator weights take no gradient: the generator's backward pass needs none."""
        learning = [p for p in self.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)

    def discriminator_loss(self, target: Tensor, estimate: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminators' loss on ``(B, 1, T)`` signals, and detached means of their scores for the log."""
        on_target = self.judge(target)
        on_estimate = self.judge(estimate.detach())
        loss = self.objective.discriminator(on_target, on_estimate)
        with torch.no_grad():
            statistics = {
                "score_target": torch.stack([j.logits.float().mean() for j in on_target]).mean(),
                "score_estimate": torch.stack([j.logits.float().mean() for j in on_estimate]).mean(),
            }
        return loss, statistics

    def judgements_for_generator(self, target: Tensor, estimate: Tensor) -> tuple[list[Judgement], list[Judgement]]:
        """Judgements on the estimate, with graph, and on the target, without: what the generator's losses ask for.

        Call inside :meth:`frozen`.
        """
        with torch.no_grad():
            on_target = self.judge(target)
        return self.judge(estimate), on_target
