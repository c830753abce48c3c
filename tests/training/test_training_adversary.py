from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError
from bcfusion.losses.adversarial import HingeLoss
from bcfusion.training.adversary import Adversary, Inside, Pair, Schedule, Turn


class TinyDiscriminator(nn.Module):
    """One hidden layer; ``between`` precedes the logits."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(1, 4, 5, padding=2)
        self.between = between or nn.Identity()
        self.out = nn.Conv1d(4, 1, 3, padding=1)
        self.calls = 0

    def forward(self, waveform: Tensor) -> list[Judgement]:
        self.calls += 1
        features = torch.relu(self.hidden(waveform))
        return [Judgement(self.out(self.between(features)), [features])]


def adversary(network: nn.Module | None = None, **settings: Any) -> Adversary:
    return Adversary({"tiny": network or TinyDiscriminator()}, HingeLoss(), **settings)


def signals() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    estimate = torch.randn(2, 1, 64, generator=generator).requires_grad_()
    return estimate, torch.randn(2, 1, 64, generator=generator)


def test_the_schedule_is_a_function_of_the_step_alone() -> None:
    schedule = Schedule(start_step=5, interval=3)
    assert [step for step in range(15) if schedule.discriminators_learn(step)] == [5, 8, 11, 14]
    assert all(schedule.generator_learns(step) for step in range(15))
    assert [step for step in range(7) if schedule.active(step)] == [5, 6]


def test_several_discriminator_steps_per_generator_step() -> None:
    schedule = Schedule(start_step=2, generator_interval=3)
    assert [step for step in range(10) if schedule.generator_learns(step)] == [0, 1, 2, 5, 8]
    assert [step for step in range(5) if schedule.discriminators_learn(step)] == [2, 3, 4]


def test_the_ramp_rises_linearly_from_the_start_step() -> None:
    schedule = Schedule(start_step=10, ramp_steps=4)
    assert [schedule.ramp(step) for step in (10, 11, 12, 13, 14, 1000)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert Schedule(start_step=10).ramp(10) == 1.0


def test_the_generator_does_not_hear_the_discriminators_during_their_head_start() -> None:
    schedule = Schedule(start_step=10, head_start=5, ramp_steps=2)
    assert [schedule.ramp(step) for step in (10, 14, 15, 16, 17)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert schedule.discriminators_learn(10)
    assert schedule.generator_learns(10)


G, D = "generator", "discriminator"


@pytest.mark.parametrize(
    ("order", "schedule", "expected"),
    [
        ("generator_first", {}, [(G, D), (G, D), (G, D), (G, D)]),
        ("discriminator_first", {}, [(D, G), (D, G), (D, G), (D, G)]),
        ("generator_first", {"start_step": 2}, [(G,), (G,), (G, D), (G, D)]),
        ("discriminator_first", {"interval": 2}, [(D, G), (G,), (D, G), (G,)]),
        ("generator_first", {"generator_interval": 3}, [(G, D), (D,), (D,), (G, D)]),
    ],
)
def test_a_turn_names_who_learns_in_which_order(order: Any, schedule: dict[str, int], expected: list[Any]) -> None:
    turns = [adversary(order=order, schedule=Schedule(**schedule)).turn(step) for step in range(4)]
    assert [turn.order for turn in turns] == expected
    shared = order == "generator_first"
    assert [turn.shared_passes for turn in turns] == [shared and len(names) == 2 for names in expected]


def test_before_the_start_step_a_turn_is_regression() -> None:
    game = adversary(schedule=Schedule(start_step=1, ramp_steps=2))
    assert game.turn(0) == Turn()
    assert [game.turn(step).ramp for step in (0, 1, 2)] == [0.0, 0.5, 1.0]
    assert [game.turn(step).adversarial for step in (0, 1)] == [False, True]


def test_a_schedule_in_which_nobody_learns_at_some_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody learns"):
        Schedule(interval=2, generator_interval=3)
    with pytest.raises(ConfigError, match="ramp_steps"):
        Schedule(ramp_steps=-1)


def test_passes_are_shared_if_that_gives_the_same_result() -> None:
    assert adversary().shared_passes
    assert not adversary(order="discriminator_first").shared_passes
    assert not adversary(TinyDiscriminator(nn.Dropout(0.1))).shared_passes
    assert not adversary(TinyDiscriminator(nn.BatchNorm1d(4))).shared_passes
    assert not adversary(shared_passes=False).shared_passes


def test_passes_cannot_be_shared_between_discriminators_before_and_after_their_update() -> None:
    with pytest.raises(ConfigError, match="shared_passes: must be auto or false"):
        adversary(order="discriminator_first", shared_passes=True)


def test_the_generators_pass_leaves_no_gradient_in_the_discriminators() -> None:
    game = adversary()
    estimate, target = signals()
    judgements = game.judge_for_generator(estimate, target)
    game.loss.generator(judgements.estimate).backward()
    assert estimate.grad is not None
    assert estimate.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in game.parameters())
    assert not judgements.target[0].logits.requires_grad


def test_no_pass_is_spent_on_a_target_that_no_loss_asks_for() -> None:
    network = TinyDiscriminator()
    judgements = adversary(network).judge_for_generator(signals()[0], None)
    assert judgements.target == []
    assert network.calls == 1


def test_the_discriminators_pass_leaves_no_gradient_in_the_estimate() -> None:
    game = adversary()
    estimate, target = signals()
    judgements = game.judge_for_discriminators(estimate, target)
    game.loss.discriminator(judgements.target, judgements.estimate).backward()
    assert estimate.grad is None
    assert all(p.grad is not None for p in game.parameters())


def test_the_judgements_of_all_discriminators_are_concatenated() -> None:
    game = Adversary({"a": TinyDiscriminator(), "b": TinyDiscriminator()}, HingeLoss())
    assert len(game.judge(torch.randn(1, 1, 32))) == 2


class InsideDiscriminator(TinyDiscriminator):
    """Judges a signal from inside the generator in place of the waveform."""

    takes = ("bands",)

    def forward(self, waveform: Tensor, bands: Tensor) -> list[Judgement]:
        return super().forward(bands)


def test_a_discriminator_gets_the_signals_from_inside_the_generator_that_it_takes() -> None:
    game = Adversary({"outside": TinyDiscriminator(), "inside": InsideDiscriminator()}, HingeLoss())
    assert game.takes == ("bands",)
    estimate, target = signals()
    inside = Inside({"bands": 2 * estimate}, {"bands": 3 * target})
    for pair in (
        game.judge_for_both(estimate, target, inside),
        game.judge_for_generator(estimate, target, inside=inside),
        game.judge_for_discriminators(estimate, target, inside=inside),
    ):
        network = game.discriminators["inside"]
        for judged, waveform in ((pair.estimate, 2 * estimate), (pair.target, 3 * target)):
            torch.testing.assert_close(judged[1].logits, TinyDiscriminator.forward(network, waveform)[0].logits)
    assert not torch.autograd.grad(pair.estimate[1].logits.sum(), estimate, allow_unused=True)[0]


def test_an_adversary_without_discriminators_is_refused() -> None:
    with pytest.raises(ConfigError, match="discriminators must hold at least one network"):
        Adversary({}, HingeLoss())


def test_spectral_norm_iterates_once_per_batch_whatever_the_number_of_passes() -> None:
    def vectors(shared: bool) -> Tensor:
        torch.manual_seed(0)
        network = TinyDiscriminator()
        parametrizations.spectral_norm(network.hidden)
        game = adversary(network)
        estimate, target = signals()
        if shared:
            game.judge_for_both(estimate, target)
        else:
            game.judge_for_generator(estimate, target, first=True)
            game.judge_for_discriminators(estimate, target, first=False)
        assert all(module.training for module in game.modules())
        return dict(network.named_buffers())["hidden.parametrizations.weight.0._u"]

    torch.testing.assert_close(vectors(shared=True), vectors(shared=False), rtol=0, atol=0)


def judged(target: float, estimate: float, feature: float = 1.0) -> Pair:
    def of(value: float, height: float) -> list[Judgement]:
        return [Judgement(torch.full((2, 1, 8), value), [torch.full((2, 4, 8), height)])]

    return Pair(estimate=of(estimate, feature), target=of(target, 2.0))


@pytest.mark.parametrize(("target", "estimate", "accuracy"), [(1.0, -1.0, 1.0), (1.0, 1.0, 0.5), (-1.0, 1.0, 0.0)])
def test_accuracy_is_the_share_of_logits_on_the_right_side_of_the_boundary(
    target: float, estimate: float, accuracy: float
) -> None:
    health = adversary().health(judged(target, estimate))
    assert health["accuracy"] == pytest.approx(accuracy)
    assert health["score_target"] == pytest.approx(target)
    assert health["score_estimate"] == pytest.approx(estimate)


def test_feature_distance_is_relative_to_the_features_of_the_target() -> None:
    assert adversary().health(judged(1.0, 1.0, feature=1.5))["feature_distance"] == pytest.approx(0.25)
    assert adversary().health(judged(1.0, 1.0, feature=2.0))["feature_distance"] == pytest.approx(0.0)
