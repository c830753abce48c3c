from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError
from bcfusion.losses.adversarial import HingeObjective, LeastSquaresObjective

OBJECTIVES = (HingeObjective("plain"), HingeObjective("clipped"), LeastSquaresObjective())
NAMES = ("hinge", "hinge_clipped", "least_squares")


def judgements(*logits: list[float] | Tensor) -> list[Judgement]:
    return [Judgement(logits=torch.as_tensor(values)[None], features=[]) for values in logits]


def test_an_undecided_discriminator_pays_2_and_a_certain_one_nothing() -> None:
    objective = HingeObjective()
    assert objective.discriminator(judgements([0.0, 0.0]), judgements([0.0, 0.0])).item() == 2.0
    assert objective.discriminator(judgements([1.0, 7.0]), judgements([-1.0, -7.0])).item() == 0.0


def test_the_discriminator_pays_for_logits_on_the_wrong_side_of_the_margin() -> None:
    # relu(1 - y): 0.5, 3 -> 1.75; relu(1 + x): 0, 1.5 -> 0.75
    loss = HingeObjective().discriminator(judgements([0.5, -2.0]), judgements([-3.0, 0.5]))
    assert loss.item() == pytest.approx(2.5)


def test_the_plain_form_rewards_deception_without_limit_and_the_clipped_one_up_to_the_margin() -> None:
    logits = torch.tensor([3.0, 0.5, -2.0], requires_grad=True)
    plain, clipped = HingeObjective("plain"), HingeObjective("clipped")
    assert plain.generator(judgements(logits)).item() == pytest.approx(-0.5)
    assert clipped.generator(judgements(logits)).item() == pytest.approx((0 + 0.5 + 3) / 3)
    (gradient,) = torch.autograd.grad(plain.generator(judgements(logits)), logits)
    assert gradient.tolist() == pytest.approx([-1 / 3] * 3)
    (gradient,) = torch.autograd.grad(clipped.generator(judgements(logits)), logits)
    assert gradient.tolist() == pytest.approx([0.0, -1 / 3, -1 / 3])


def test_least_squares_pull_logits_to_1_for_speech_and_to_0_for_estimates() -> None:
    objective = LeastSquaresObjective()
    assert objective.discriminator(judgements([1.0, 1.0]), judgements([0.0, 0.0])).item() == 0.0
    assert objective.generator(judgements([1.0, 1.0])).item() == 0.0
    # (1 - y)^2: 0.25, 9 -> 4.625; x^2: 4, 0.25 -> 2.125
    assert objective.discriminator(judgements([0.5, -2.0]), judgements([2.0, -0.5])).item() == pytest.approx(6.75)
    # (1 - x)^2: 1, 2.25
    assert objective.generator(judgements([2.0, -0.5])).item() == pytest.approx(1.625)


def test_least_squares_pull_a_generator_back_that_deceives_too_well() -> None:
    logits = torch.tensor([3.0, 1.0, 0.5, -2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(LeastSquaresObjective().generator(judgements(logits)), logits)
    assert gradient.tolist() == pytest.approx([2 * (x - 1) / 4 for x in logits.tolist()])


def test_gradients_of_the_discriminators_at_chosen_logits() -> None:
    target = torch.tensor([2.0, 0.5, -1.5], requires_grad=True)
    estimate = torch.tensor([-2.0, -0.5, 1.5], requires_grad=True)
    for objective, of_target, of_estimate in (
        (HingeObjective(), [0.0, -1.0, -1.0], [0.0, 1.0, 1.0]),  # beyond the margin there is nothing left to learn
        (LeastSquaresObjective(), [2.0, -1.0, -5.0], [-4.0, -1.0, 3.0]),
    ):
        loss = objective.discriminator(judgements(target), judgements(estimate))
        first, second = torch.autograd.grad(loss, (target, estimate))
        assert (3 * first).tolist() == pytest.approx(of_target)
        assert (3 * second).tolist() == pytest.approx(of_estimate)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_discriminators_pay_equally_on_either_side_of_the_boundary(
    objective: HingeObjective | LeastSquaresObjective,
) -> None:
    """Logits mirrored at the boundary, with the roles exchanged, cost the same; no other logit has this property."""

    def cost(target: float, estimate: float) -> float:
        return objective.discriminator(judgements([target]), judgements([estimate])).item()

    def gap(centre: float) -> float:
        pairs = ((0.0, 3.0), (0.2, -0.7), (2.5, 0.4))
        return max(abs(cost(centre + y, centre + x) - cost(centre - x, centre - y)) for y, x in pairs)

    assert gap(objective.boundary) == pytest.approx(0.0, abs=1e-5)
    assert gap(objective.boundary + 0.25) > 0.1
    assert gap(objective.boundary - 0.25) > 0.1


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_training_moves_logits_of_speech_above_the_boundary_and_those_of_estimates_below_it(
    objective: HingeObjective | LeastSquaresObjective,
) -> None:
    start = torch.linspace(-0.9, 0.9, 7) + objective.boundary
    target, estimate = start.clone().requires_grad_(), start.clone().requires_grad_()
    descent = torch.optim.SGD([target, estimate], lr=0.1)
    for _ in range(200):
        descent.zero_grad()
        objective.discriminator(judgements(target), judgements(estimate)).backward()
        descent.step()
    assert (target > objective.boundary).all()
    assert (estimate < objective.boundary).all()


@pytest.mark.parametrize("number", [1, 3, 8])
def test_the_mean_ignores_the_number_of_sub_discriminators_and_the_sum_grows_with_it(number: int) -> None:
    target, estimate = [0.5, -2.0], [2.0, -0.5]
    for mean, total in (
        (HingeObjective(), HingeObjective(per_discriminator="sum")),
        (HingeObjective("clipped"), HingeObjective("clipped", per_discriminator="sum")),
        (LeastSquaresObjective(), LeastSquaresObjective(per_discriminator="sum")),
    ):
        alone = mean.discriminator(judgements(target), judgements(estimate)).item()
        several = judgements(*[target] * number), judgements(*[estimate] * number)
        assert mean.discriminator(*several).item() == pytest.approx(alone)
        assert total.discriminator(*several).item() == pytest.approx(number * alone)
        alone = mean.generator(judgements(estimate)).item()
        assert mean.generator(several[1]).item() == pytest.approx(alone)
        assert total.generator(several[1]).item() == pytest.approx(number * alone)


def test_the_sum_adds_means_of_sub_discriminators_not_logits() -> None:
    few, many = [-1.0], [3.0] * 100
    assert HingeObjective(per_discriminator="sum").generator(judgements(few, many)).item() == pytest.approx(-2.0)
    # (1 + 1)^2 and (1 - 3)^2
    least_squares = LeastSquaresObjective(per_discriminator="sum")
    assert least_squares.generator(judgements(few, many)).item() == pytest.approx(8.0)


def test_sub_discriminators_have_equal_influence_however_many_logits_they_output() -> None:
    few, many = [-1.0], [3.0] * 100
    assert HingeObjective().generator(judgements(few, many)).item() == pytest.approx(-1.0)
    # D: (0 + 4) / 2 for the estimate, (2 + 0) / 2 for the target
    assert HingeObjective().discriminator(judgements(few, many), judgements(few, many)).item() == pytest.approx(3.0)


def test_logits_of_bfloat16_are_averaged_in_float32() -> None:
    logits = torch.full((1000,), 1.0078125, dtype=torch.bfloat16)
    loss = HingeObjective().generator(judgements(logits))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-1.0078125, rel=1e-6)
    loss = LeastSquaresObjective().generator(judgements(logits))  # in bfloat16 the square would be rounded
    assert loss.item() == pytest.approx(0.0078125**2, rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_missing_or_unequal_judgements_are_refused(objective: HingeObjective | LeastSquaresObjective) -> None:
    with pytest.raises(ValueError, match="no sub-discriminator"):
        objective.generator([])
    with pytest.raises(ValueError, match="no sub-discriminator"):
        objective.discriminator([], [])
    with pytest.raises(ValueError, match="2 judgements of the target, 1 of the estimate"):
        objective.discriminator(judgements([0.0], [0.0]), judgements([0.0]))


def test_unknown_options_are_refused_with_the_choices() -> None:
    wrong: dict[str, Any] = {"generator_form": "soft"}
    with pytest.raises(ConfigError, match=r"HingeObjective: generator_form='soft'.*plain, clipped"):
        HingeObjective(**wrong)
    wrong = {"per_discriminator": "median"}
    for objective in (HingeObjective, LeastSquaresObjective):
        with pytest.raises(ConfigError, match=rf"{objective.__name__}: per_discriminator='median'.*mean, sum"):
            objective(**wrong)
