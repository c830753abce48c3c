from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.losses.adversarial import HingeObjective
from bcfusion.training.adversary import Adversary


class TinyDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(1, 4, 5, padding=2)
        self.out = nn.Conv1d(4, 1, 3, padding=1)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        features = torch.relu(self.hidden(waveform))
        return [Judgement(self.out(features), [features])]


def adversary(**schedule: int) -> Adversary:
    return Adversary({"tiny": TinyDiscriminator()}, HingeObjective(), **schedule)


def test_schedule_is_a_function_of_the_step_alone() -> None:
    game = adversary(start_step=5, interval=3)
    assert [step for step in range(15) if game.updates(step)] == [5, 8, 11, 14]
    assert [step for step in range(7) if game.active(step)] == [5, 6]


def test_generator_pass_leaves_no_gradient_in_the_discriminators() -> None:
    game = adversary()
    estimate = torch.randn(2, 1, 64, requires_grad=True)
    with game.frozen():
        on_estimate, on_target = game.judgements_for_generator(torch.randn(2, 1, 64), estimate)
        game.objective.generator(on_estimate).backward()
    assert estimate.grad is not None
    assert estimate.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in game.parameters())
    assert not on_target[0].logits.requires_grad


def test_discriminator_pass_leaves_no_gradient_in_the_estimate() -> None:
    game = adversary()
    estimate = torch.randn(2, 1, 64, requires_grad=True)
    loss, statistics = game.discriminator_loss(torch.randn(2, 1, 64), estimate)
    loss.backward()
    assert estimate.grad is None
    assert all(p.grad is not None for p in game.parameters())
    assert set(statistics) == {"score_target", "score_estimate"}


def test_all_discriminators_are_joined() -> None:
    game = Adversary({"a": TinyDiscriminator(), "b": TinyDiscriminator()}, HingeObjective())
    assert len(game.judge(torch.randn(1, 1, 32))) == 2


def test_an_adversary_without_discriminators_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Adversary({}, HingeObjective())
