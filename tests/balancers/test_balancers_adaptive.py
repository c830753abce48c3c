from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.balancers.adaptive import AdaptiveBalancer
from bcfusion.balancers.fixed import FixedBalancer
from bcfusion.contracts import Balancer
from bcfusion.errors import ConfigError
from bcfusion.training.anchor import OutputAnchor

L1 = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # of two items the gradients of their own losses: norms 5 and 1, mean 3
STFT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
ADVERSARIAL = torch.tensor([[0.0, 0.3], [0.1, 0.0]])  # mean norm 0.2


class Counting(OutputAnchor):
    passes = 0

    def gradient(self, loss: Tensor) -> Tensor:
        self.passes += 1
        return super().gradient(loss)


def step(balancer: Balancer, slopes: dict[str, Tensor], weights: dict[str, float]) -> tuple[Tensor, Any, int]:
    """Return the items' own gradients ``(2, 2)`` for losses of known slopes, the shares, the number of measurements."""
    anchor = Counting({"estimate": torch.zeros(2, 1, 2, requires_grad=True)})
    losses = {name: (slope * anchor.outputs["estimate"][:, 0]).sum(-1).mean() for name, slope in slopes.items()}
    given: list[Tensor] = []
    shares = balancer.backward(losses, weights, anchor, given.append)
    assert len(given) == 1
    return 2 * given[0][:, 0], {name: float(share) for name, share in shares.items()}, anchor.passes


def test_the_adversarial_gradient_is_its_weight_times_that_of_the_reconstruction() -> None:
    gradient, shares, _ = step(
        AdaptiveBalancer(), {"l1": L1, "adversarial": ADVERSARIAL}, {"l1": 2.0, "adversarial": 0.8}
    )
    factor = 2.0 * 3.0 / (0.2 + 1e-4)  # the norm of the adversarial gradient is taken without its weight
    torch.testing.assert_close(gradient, 2.0 * L1 + factor * 0.8 * ADVERSARIAL)
    assert shares == pytest.approx({"l1": 1 / 1.8, "adversarial": 0.8 / 1.8}, rel=1e-3)


def test_reconstruction_is_the_weighted_sum_of_all_other_losses() -> None:
    slopes = {"l1": L1, "stft": STFT, "adversarial": ADVERSARIAL}
    gradient, shares, _ = step(AdaptiveBalancer(), slopes, {"l1": 1.0, "stft": -3.0, "adversarial": 1.0})
    reconstruction = L1 - 3.0 * STFT  # (0, 4) and (0, -2)
    torch.testing.assert_close(gradient, reconstruction + 3.0 / 0.2001 * ADVERSARIAL)
    assert shares["l1"] == pytest.approx(shares["stft"])
    assert shares["l1"] == pytest.approx(shares["adversarial"], rel=1e-3)


def test_each_loss_is_measured_once() -> None:
    slopes = {"l1": L1, "stft": STFT, "adversarial": ADVERSARIAL}
    assert step(AdaptiveBalancer(), slopes, dict.fromkeys(slopes, 1.0))[2] == 3


def test_several_adversarial_losses_are_their_weighted_mean() -> None:
    slopes = {"l1": L1, "one": ADVERSARIAL, "two": 3 * ADVERSARIAL}
    weights = {"l1": 1.0, "one": 0.6, "two": 0.2}
    gradient, _, _ = step(AdaptiveBalancer(adversarial=("one", "two"), eps=1e-12), slopes, weights)
    torch.testing.assert_close(gradient, L1 + 0.8 * 3.0 / 0.2 * ADVERSARIAL)  # 0.8 of the reconstruction's norm


def test_without_adversarial_losses_or_with_nothing_else_it_is_the_weighted_sum() -> None:
    for slopes in ({"l1": L1, "stft": STFT}, {"adversarial": ADVERSARIAL}):
        weights = {"l1": 2.0, "stft": 0.5, "adversarial": 0.3}
        gradient, shares, _ = step(AdaptiveBalancer(), slopes, weights)
        torch.testing.assert_close(gradient, step(FixedBalancer(), slopes, weights)[0])
        assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("eps", "max_weight", "factor"), [(1e-4, 5.0, 5.0), (1.3, 1e4, 2.0), (1e-12, 1e4, 15.0)])
def test_the_factor_is_bounded_by_its_limit_and_by_eps(eps: float, max_weight: float, factor: float) -> None:
    slopes = {"l1": L1, "adversarial": ADVERSARIAL}  # 3 / 0.2 where nothing bounds it
    balancer = AdaptiveBalancer(eps=eps, max_weight=max_weight)
    gradient, shares, _ = step(balancer, slopes, {"l1": 1.0, "adversarial": 1.0})
    torch.testing.assert_close(gradient, L1 + factor * ADVERSARIAL)
    assert shares["adversarial"] == pytest.approx(factor * 0.2 / (3.0 + factor * 0.2))


def test_a_vanished_adversarial_gradient_leaves_the_reconstruction() -> None:
    nothing = {"l1": L1, "adversarial": 0 * ADVERSARIAL}
    gradient, shares, _ = step(AdaptiveBalancer(), nothing, {"l1": 1.0, "adversarial": 1.0})
    torch.testing.assert_close(gradient, L1)
    assert shares == {"l1": 1.0, "adversarial": 0.0}


def test_a_perfect_reconstruction_leaves_no_adversarial_gradient() -> None:
    gradient, shares, _ = step(
        AdaptiveBalancer(), {"l1": 0 * L1, "adversarial": ADVERSARIAL}, {"l1": 1.0, "adversarial": 1.0}
    )
    assert torch.count_nonzero(gradient) == 0
    assert shares == {"l1": 0.0, "adversarial": 0.0}


@pytest.mark.parametrize("name", ["l1", "adversarial"])
def test_a_non_finite_loss_is_left_to_the_guard_of_the_trainer(name: str) -> None:
    slopes = {"l1": L1, "adversarial": ADVERSARIAL}
    slopes[name] = slopes[name] * float("nan")
    assert step(AdaptiveBalancer(), slopes, {"l1": 1.0, "adversarial": 1.0})[0].isnan().any()


def test_a_loss_of_weight_0_is_left_out_even_as_nan() -> None:
    slopes = {"l1": L1, "stft": float("nan") * STFT, "adversarial": ADVERSARIAL}
    gradient, shares, _ = step(AdaptiveBalancer(), slopes, {"l1": 1.0, "stft": 0.0, "adversarial": 0.0})
    torch.testing.assert_close(gradient, L1)
    assert shares == {"l1": 1.0, "stft": 0.0, "adversarial": 0.0}


def test_all_arguments_out_of_range_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        AdaptiveBalancer(adversarial="adversarial", eps=0.0, max_weight=float("nan"))
    assert error.value.problems == [
        "AdaptiveBalancer: eps=0.0 must be above 0",
        "AdaptiveBalancer: max_weight=nan must be above 0",
        "AdaptiveBalancer: adversarial='adversarial' must be a list of names of losses",
    ]


def test_has_no_state() -> None:
    assert AdaptiveBalancer().state_dict() == {}
