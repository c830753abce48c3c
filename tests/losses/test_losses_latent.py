from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from bcfusion.errors import ConfigError
from bcfusion.losses.latent import KlLoss

REDUCTIONS: tuple[Literal["sum", "mean"], ...] = ("sum", "mean")


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_is_the_divergence_from_the_standard_gaussian(reduction: Literal["sum", "mean"]) -> None:
    mu, log_var = normal(3, 8, 5, seed=1), normal(3, 8, 5, seed=2)
    per_dimension = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).flatten(1)
    expected = (per_dimension.sum(-1) if reduction == "sum" else per_dimension.mean(-1)).mean()
    torch.testing.assert_close(KlLoss(reduction)(mu, log_var), expected)


def test_small_cases_by_hand() -> None:
    # mu 3, sigma 1: 9/2; mu 0, sigma^2 = e: (e - 1 - 1)/2
    mu, log_var = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert KlLoss("sum")(mu, log_var).item() == pytest.approx(4.5 + 0.3591409)
    assert KlLoss("mean")(mu, log_var).item() == pytest.approx((4.5 + 0.3591409) / 2)


def test_the_standard_gaussian_costs_nothing_and_has_no_gradient() -> None:
    mu, log_var = torch.zeros(2, 4, requires_grad=True), torch.zeros(2, 4, requires_grad=True)
    loss = KlLoss()(mu, log_var)
    loss.backward()
    assert loss.item() == 0.0
    for latent in (mu, log_var):
        assert latent.grad is not None
        assert torch.count_nonzero(latent.grad) == 0


@pytest.mark.parametrize("value", [1e-3, -1e-3])
def test_variance_close_to_one_is_not_lost_to_rounding(value: float) -> None:
    log_var = torch.full((1, 1), value)  # x^2/4 + x^3/12: in float32 sigma^2 - ln sigma^2 - 1 is wrong by a quarter
    loss = KlLoss("sum")(torch.zeros(1, 1), log_var)
    assert loss.item() == pytest.approx(value**2 / 4 + value**3 / 12, rel=1e-3)


@pytest.mark.parametrize("value", [-60.0, -20.0, 0.0, 20.0, 60.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_extreme_variances_have_finite_value_and_gradient(value: float, reduction: Literal["sum", "mean"]) -> None:
    mu, log_var = torch.full((2, 1000), 50.0, requires_grad=True), torch.full((2, 1000), value, requires_grad=True)
    loss = KlLoss(reduction)(mu, log_var)
    loss.backward()
    assert torch.isfinite(loss)
    for latent in (mu, log_var):
        assert latent.grad is not None
        assert torch.isfinite(latent.grad).all()
    assert log_var.grad is not None
    direction = torch.sign(torch.tensor(value)).expand(2, 1000)
    torch.testing.assert_close(torch.sign(log_var.grad), direction)  # descent leads back to variance 1


def test_the_gradient_is_mu_and_half_the_excess_variance() -> None:
    mu, log_var = normal(2, 6, seed=1).requires_grad_(), normal(2, 6, seed=2).requires_grad_()
    KlLoss("sum")(mu, log_var).backward()
    torch.testing.assert_close(mu.grad, mu.detach() / 2)
    torch.testing.assert_close(log_var.grad, torch.expm1(log_var.detach()) / 4)


def test_only_the_mean_has_the_same_scale_for_any_number_of_frames() -> None:
    mu, log_var = torch.ones(1, 4, 10), torch.full((1, 4, 10), 0.5)
    longer = mu.repeat(1, 1, 3), log_var.repeat(1, 1, 3)
    torch.testing.assert_close(KlLoss("mean")(*longer), KlLoss("mean")(mu, log_var))
    torch.testing.assert_close(KlLoss("sum")(*longer), 3 * KlLoss("sum")(mu, log_var))


def test_the_loss_of_an_item_does_not_depend_on_the_rest_of_its_batch() -> None:
    mu, log_var = normal(3, 8, 5, seed=1), normal(3, 8, 5, seed=2)
    mu[1] *= 100.0
    alone = [KlLoss()(mu[i : i + 1], log_var[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(KlLoss()(mu, log_var), torch.stack(alone).mean())


def test_bfloat16_latents_are_converted_to_float32_under_autocast_too() -> None:
    mu, log_var = normal(2, 300, seed=1).bfloat16(), normal(2, 300, seed=2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = KlLoss()(mu, log_var)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, KlLoss()(mu.float(), log_var.float()))


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="mu and log_var"):
        KlLoss()(torch.zeros(2, 4), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="mu and log_var"):
        KlLoss()(torch.zeros(2), torch.zeros(2))


def test_an_unknown_reduction_is_refused_with_the_choices() -> None:
    wrong: dict[str, Any] = {"reduction": "batchmean"}
    with pytest.raises(ConfigError, match=r"'batchmean'.*sum, mean"):
        KlLoss(**wrong)
