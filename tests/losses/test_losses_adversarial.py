from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError
from bcfusion.losses.adversarial import HingeLoss, LeastSquaresLoss

GAMES = (HingeLoss("plain"), HingeLoss("clipped"), LeastSquaresLoss())
NAMES = ("hinge", "hinge_clipped", "least_squares")


def judgements(*logits: list[float] | Tensor) -> list[Judgement]:
    return [Judgement(logits=torch.as_tensor(values)[None], features=[]) for values in logits]


def test_an_undecided_discriminator_pays_2_and_a_certain_one_nothing() -> None:
    game = HingeLoss()
    assert game.discriminator(judgements([0.0, 0.0]), judgements([0.0, 0.0])).item() == 2.0
    assert game.discriminator(judgements([1.0, 7.0]), judgements([-1.0, -7.0])).item() == 0.0


def test_the_discriminator_pays_for_logits_on_the_wrong_side_of_the_margin() -> None:
    # relu(1 - y): 0.5, 3 -> 1.75; relu(1 + x): 0, 1.5 -> 0.75
    loss = HingeLoss().discriminator(judgements([0.5, -2.0]), judgements([-3.0, 0.5]))
    assert loss.item() == pytest.approx(2.5)


def test_the_plain_form_rewards_deception_without_limit_and_the_clipped_one_up_to_the_margin() -> None:
    logits = torch.tensor([3.0, 0.5, -2.0], requires_grad=True)
    plain, clipped = HingeLoss("plain"), HingeLoss("clipped")
    assert plain.generator(judgements(logits)).item() == pytest.approx(-0.5)
    assert clipped.generator(judgements(logits)).item() == pytest.approx((0 + 0.5 + 3) / 3)
    (gradient,) = torch.autograd.grad(plain.generator(judgements(logits)), logits)
    assert gradient.tolist() == pytest.approx([-1 / 3] * 3)
    (gradient,) = torch.autograd.grad(clipped.generator(judgements(logits)), logits)
    assert gradient.tolist() == pytest.approx([0.0, -1 / 3, -1 / 3])


def test_least_squares_pull_logits_to_1_for_speech_and_to_0_for_estimates() -> None:
    game = LeastSquaresLoss()
    assert game.discriminator(judgements([1.0, 1.0]), judgements([0.0, 0.0])).item() == 0.0
    assert game.generator(judgements([1.0, 1.0])).item() == 0.0
    # (1 - y)^2: 0.25, 9 -> 4.625; x^2: 4, 0.25 -> 2.125
    assert game.discriminator(judgements([0.5, -2.0]), judgements([2.0, -0.5])).item() == pytest.approx(6.75)
    # (1 - x)^2: 1, 2.25
    assert game.generator(judgements([2.0, -0.5])).item() == pytest.approx(1.625)


def test_least_squares_pull_a_generator_back_that_deceives_too_well() -> None:
    logits = torch.tensor([3.0, 1.0, 0.5, -2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(LeastSquaresLoss().generator(judgements(logits)), logits)
    assert gradient.tolist() == pytest.approx([2 * (x - 1) / 4 for x in logits.tolist()])


def test_gradients_of_the_discriminators_at_chosen_logits() -> None:
    target = torch.tensor([2.0, 0.5, -1.5], requires_grad=True)
    estimate = torch.tensor([-2.0, -0.5, 1.5], requires_grad=True)
    for game, of_target, of_estimate in (
        (HingeLoss(), [0.0, -1.0, -1.0], [0.0, 1.0, 1.0]),  # beyond the margin there is nothing left to learn
        (LeastSquaresLoss(), [2.0, -1.0, -5.0], [-4.0, -1.0, 3.0]),
    ):
        loss = game.discriminator(judgements(target), judgements(estimate))
        first, second = torch.autograd.grad(loss, (target, estimate))
        assert (3 * first).tolist() == pytest.approx(of_target)
        assert (3 * second).tolist() == pytest.approx(of_estimate)


@pytest.mark.parametrize("game", GAMES, ids=NAMES)
def test_discriminators_pay_equally_on_either_side_of_the_boundary(
    game: HingeLoss | LeastSquaresLoss,
) -> None:
    """Logits mirrored at the boundary, with the roles exchanged, cost the same; no other logit has this property."""

    def cost(target: float, estimate: float) -> float:
        return game.discriminator(judgements([target]), judgements([estimate])).item()

    def gap(centre: float) -> float:
        pairs = ((0.0, 3.0), (0.2, -0.7), (2.5, 0.4))
        return max(abs(cost(centre + y, centre + x) - cost(centre - x, centre - y)) for y, x in pairs)

    assert gap(game.boundary) == pytest.approx(0.0, abs=1e-5)
    assert gap(game.boundary + 0.25) > 0.1
    assert gap(game.boundary - 0.25) > 0.1


@pytest.mark.parametrize("game", GAMES, ids=NAMES)
def test_training_moves_logits_of_speech_above_the_boundary_and_those_of_estimates_below_it(
    game: HingeLoss | LeastSquaresLoss,
) -> None:
    start = torch.linspace(-0.9, 0.9, 7) + game.boundary
    target, estimate = start.clone().requires_grad_(), start.clone().requires_grad_()
    descent = torch.optim.SGD([target, estimate], lr=0.1)
    for _ in range(200):
        descent.zero_grad()
        game.discriminator(judgements(target), judgements(estimate)).backward()
        descent.step()
    assert (target > game.boundary).all()
    assert (estimate < game.boundary).all()


@pytest.mark.parametrize("number", [1, 3, 8])
def test_the_mean_ignores_the_number_of_sub_discriminators_and_the_sum_grows_with_it(number: int) -> None:
    target, estimate = [0.5, -2.0], [2.0, -0.5]
    for mean, total in (
        (HingeLoss(), HingeLoss(per_discriminator="sum")),
        (HingeLoss("clipped"), HingeLoss("clipped", per_discriminator="sum")),
        (LeastSquaresLoss(), LeastSquaresLoss(per_discriminator="sum")),
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
    assert HingeLoss(per_discriminator="sum").generator(judgements(few, many)).item() == pytest.approx(-2.0)
    # (1 + 1)^2 and (1 - 3)^2
    least_squares = LeastSquaresLoss(per_discriminator="sum")
    assert least_squares.generator(judgements(few, many)).item() == pytest.approx(8.0)


def test_sub_discriminators_have_equal_influence_however_many_logits_they_output() -> None:
    few, many = [-1.0], [3.0] * 100
    assert HingeLoss().generator(judgements(few, many)).item() == pytest.approx(-1.0)
    # D: (0 + 4) / 2 for the estimate, (2 + 0) / 2 for the target
    assert HingeLoss().discriminator(judgements(few, many), judgements(few, many)).item() == pytest.approx(3.0)


def test_logits_of_bfloat16_are_averaged_in_float32() -> None:
    logits = torch.full((1000,), 1.0078125, dtype=torch.bfloat16)
    loss = HingeLoss().generator(judgements(logits))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-1.0078125, rel=1e-6)
    loss = LeastSquaresLoss().generator(judgements(logits))  # in bfloat16 the square would be rounded
    assert loss.item() == pytest.approx(0.0078125**2, rel=1e-6)


@pytest.mark.parametrize("game", GAMES, ids=NAMES)
def test_missing_or_unequal_judgements_are_refused(game: HingeLoss | LeastSquaresLoss) -> None:
    with pytest.raises(ValueError, match="no sub-discriminator"):
        game.generator([])
    with pytest.raises(ValueError, match="no sub-discriminator"):
        game.discriminator([], [])
    with pytest.raises(ValueError, match="2 judgements of the target, 1 of the estimate"):
        game.discriminator(judgements([0.0], [0.0]), judgements([0.0]))


def test_unknown_options_are_refused_with_the_choices() -> None:
    wrong: dict[str, Any] = {"generator_form": "soft"}
    with pytest.raises(ConfigError, match=r"HingeLoss: generator_form='soft'.*plain, clipped"):
        HingeLoss(**wrong)
    wrong = {"per_discriminator": "median"}
    for game in (HingeLoss, LeastSquaresLoss):
        with pytest.raises(ConfigError, match=rf"{game.__name__}: per_discriminator='median'.*mean, sum"):
            game(**wrong)
