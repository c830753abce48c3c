from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError
from bcfusion.losses.adversarial import Reduction
from bcfusion.losses.feature_matching import FeatureMatchingLoss, Normalization

BOTH: tuple[Normalization, ...] = ("none", "reference")


def judgement(*features: Tensor) -> Judgement:
    return Judgement(logits=torch.zeros(1), features=list(features))


def constant(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value)


def test_plain_loss_is_the_mean_difference_averaged_over_layers_then_discriminators() -> None:
    estimate = [judgement(constant(1.5, 2, 4, 10), constant(3.0, 2, 99, 7)), judgement(constant(9.0, 2, 1, 3))]
    target = [judgement(constant(1.0, 2, 4, 10), constant(2.0, 2, 99, 7)), judgement(constant(4.0, 2, 1, 3))]
    # first: (0.5 + 1) / 2; second: 5
    assert FeatureMatchingLoss("none")(estimate, target).item() == pytest.approx((0.75 + 5.0) / 2)


@pytest.mark.parametrize(
    ("per_layer", "per_discriminator", "expected"),
    [
        ("mean", "mean", (0.75 + 5.0) / 2),
        ("sum", "mean", (1.5 + 5.0) / 2),
        ("mean", "sum", 0.75 + 5.0),
        ("sum", "sum", 1.5 + 5.0),  # MelGAN, HiFi-GAN
    ],
)
def test_layers_and_discriminators_are_averaged_or_added_up(
    per_layer: Reduction, per_discriminator: Reduction, expected: float
) -> None:
    # layers differ by 0.5 and 1 in the first, by 5 in the second; equal items, which are averaged in every form
    estimate = [judgement(constant(1.5, 2, 4, 10), constant(3.0, 2, 99, 7)), judgement(constant(9.0, 2, 1, 3))]
    target = [judgement(constant(1.0, 2, 4, 10), constant(2.0, 2, 99, 7)), judgement(constant(4.0, 2, 1, 3))]
    loss = FeatureMatchingLoss("none", per_layer=per_layer, per_discriminator=per_discriminator)
    assert loss(estimate, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("normalization", BOTH)
@pytest.mark.parametrize(("layers", "discriminators"), [(1, 1), (6, 1), (1, 3), (6, 3)])
def test_the_mean_ignores_the_number_of_layers_and_discriminators_and_the_sum_grows_with_both(
    normalization: Normalization, layers: int, discriminators: int
) -> None:
    estimate, target = torch.randn(2, 3, 8, 20, generator=torch.Generator().manual_seed(0)).unbind(0)
    alone = FeatureMatchingLoss(normalization)([judgement(estimate)], [judgement(target)])
    several = [[judgement(*[x] * layers)] * discriminators for x in (estimate, target)]
    torch.testing.assert_close(FeatureMatchingLoss(normalization)(*several), alone)
    total = FeatureMatchingLoss(normalization, per_layer="sum", per_discriminator="sum")
    torch.testing.assert_close(total(*several), layers * discriminators * alone)


def test_reference_form_is_relative_to_the_target_of_each_layer() -> None:
    estimate = [judgement(constant(1.5, 2, 4, 10), constant(3.0, 2, 99, 7))]
    target = [judgement(constant(1.0, 2, 4, 10), constant(-2.0, 2, 99, 7))]
    assert FeatureMatchingLoss("reference")(estimate, target).item() == pytest.approx((0.5 + 5 / 2) / 2)


@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_only_the_reference_form_ignores_the_scale_of_a_discriminators_features(scale: float) -> None:
    estimate, target = torch.randn(2, 3, 8, 20, generator=torch.Generator().manual_seed(0)).unbind(0)
    for normalization, factor in zip(BOTH, (scale, 1.0), strict=True):
        loss = FeatureMatchingLoss(normalization)
        scaled = loss([judgement(scale * estimate)], [judgement(scale * target)])
        torch.testing.assert_close(scaled, factor * loss([judgement(estimate)], [judgement(target)]))


def test_growing_features_of_the_estimate_do_not_make_the_loss_smaller() -> None:
    target = [judgement(constant(1.0, 1, 4, 10))]
    loss = FeatureMatchingLoss("reference")
    assert loss([judgement(constant(9.0, 1, 4, 10))], target).item() == pytest.approx(8.0)  # the estimate's: 0.89


@pytest.mark.parametrize("normalization", BOTH)
def test_gradient_reaches_the_estimate_and_never_the_target(normalization: Normalization) -> None:
    estimate = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = (2 * torch.ones(2, 4, 10)).requires_grad_()
    FeatureMatchingLoss(normalization)([judgement(estimate)], [judgement(target)]).backward()
    assert target.grad is None
    assert estimate.grad is not None
    # |gradient| = 1 / (items * features), divided by the target's magnitude, a constant, in the reference form
    expected = torch.sign(estimate.detach() - 2) / 80 / (2 if normalization == "reference" else 1)
    torch.testing.assert_close(estimate.grad, expected)


def test_a_loud_item_does_not_determine_the_normalisation_of_a_quiet_one() -> None:
    target = torch.cat([constant(100.0, 1, 4, 10), constant(0.1, 1, 4, 10)])
    loss = FeatureMatchingLoss("reference")([judgement(1.5 * target)], [judgement(target)])
    assert loss.item() == pytest.approx(0.5)


def test_layers_that_do_not_respond_to_silence_are_measured_against_eps() -> None:
    loss = FeatureMatchingLoss("reference", eps=0.1)
    assert loss([judgement(constant(0.05, 1, 4, 10))], [judgement(torch.zeros(1, 4, 10))]).item() == pytest.approx(0.5)


def test_unequal_numbers_of_discriminators_or_layers_are_refused() -> None:
    loss, layer = FeatureMatchingLoss(), torch.zeros(2, 4, 10)
    for estimate, target in (
        ([], []),
        ([judgement(layer)], []),
        ([judgement(layer)], [judgement(layer, layer)]),
        ([judgement()], [judgement()]),
        ([judgement(layer)], [judgement(layer[:1])]),
    ):
        with pytest.raises(ValueError):
            loss(estimate, target)


@pytest.mark.parametrize(
    ("argument", "choices"),
    [
        ("normalization", "none, reference, estimate"),
        ("per_layer", "mean, sum, last"),
        ("per_discriminator", "mean, sum"),
    ],
)
def test_unknown_options_are_refused_with_the_choices(argument: str, choices: str) -> None:
    wrong: dict[str, Any] = {argument: "median"}
    with pytest.raises(ConfigError, match=f"FeatureMatchingLoss: {argument}='median'.*{choices}"):
        FeatureMatchingLoss(**wrong)


def test_a_sum_over_channels_counts_each_channel_and_changes_nothing_under_reference() -> None:
    target, estimate = torch.full((2, 8, 10), 2.0), torch.full((2, 8, 10), 2.5)
    logits = torch.zeros(2, 1, 10)

    def value(**settings: str) -> float:
        judged = ([Judgement(logits, [signal])] for signal in (estimate, target))
        return FeatureMatchingLoss(**settings)(*judged).item()

    assert value(per_channel="mean") == pytest.approx(0.5)
    assert value(per_channel="sum") == pytest.approx(8 * 0.5)
    assert value(normalization="reference", per_channel="sum") == pytest.approx(0.25)


def test_the_public_code_of_eben_divides_by_the_features_of_the_estimates_of_the_whole_batch() -> None:
    loud, quiet = constant(3.0, 1, 4, 10), constant(1.0, 1, 4, 10)
    estimate, target = torch.cat([loud, quiet]).requires_grad_(), torch.cat([loud - 1, quiet + 2])
    public = FeatureMatchingLoss("estimate", normalized_over="batch")([judgement(estimate)], [judgement(target)])
    assert public.item() == pytest.approx(((1 + 2) / 2) / ((3 + 1) / 2))
    per_item = FeatureMatchingLoss("estimate")([judgement(estimate)], [judgement(target)])
    assert per_item.item() == pytest.approx((1 / 3 + 2 / 1) / 2)
    (gradient,) = torch.autograd.grad(per_item, estimate)
    # of |e - t| / e per item, by hand: t / e^2 for e > t, and -t / e^2 for e < t; 40 values, two items
    torch.testing.assert_close(gradient[:, 0, 0], torch.tensor([2 / 9, -3.0]) / 80)


def test_layers_may_be_divided_by_the_number_that_the_last_discriminator_has() -> None:
    estimate = [judgement(*[constant(2.0, 1, 4, 10)] * 3), judgement(*[constant(2.0, 1, 4, 10)] * 2)]
    target = [judgement(*[constant(1.0, 1, 4, 10)] * 3), judgement(*[constant(1.0, 1, 4, 10)] * 2)]
    assert FeatureMatchingLoss(per_layer="last")(estimate, target).item() == pytest.approx((3 / 2 + 1) / 2)


def test_the_logits_may_count_as_one_more_layer() -> None:
    estimate = [Judgement(constant(5.0, 1, 1, 3), [constant(2.0, 1, 4, 10)])]
    target = [Judgement(constant(1.0, 1, 1, 3), [constant(1.0, 1, 4, 10)])]
    assert FeatureMatchingLoss()(estimate, target).item() == pytest.approx(1.0)
    assert FeatureMatchingLoss(logits=True)(estimate, target).item() == pytest.approx((1 + 4) / 2)
