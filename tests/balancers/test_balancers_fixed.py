from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from bcfusion.balancers.fixed import FixedBalancer
from bcfusion.contracts import Balancer
from bcfusion.errors import ConfigError


class Backward:
    """The trainer's call, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, tensor: Tensor, gradient: Tensor | None = None) -> None:
        self.calls += 1
        tensor.backward(gradient)


def test_shipped_config_makes_a_balancer() -> None:
    path = Path(__file__).parents[2] / "conf" / "balancer" / "fixed.yaml"
    assert isinstance(instantiate(OmegaConf.load(path)), Balancer)
    assert path.read_text().startswith("# bcfusion train balancer=fixed\n")


def test_gradient_is_the_weighted_sum_of_gradients_in_one_backward() -> None:
    anchor = torch.tensor([1.0, -2.0], requires_grad=True)
    backward = Backward()
    losses = {"square": anchor.square().sum(), "sum": anchor.sum()}
    FixedBalancer().backward(losses, {"square": 0.5, "sum": 3.0}, anchor, backward)
    assert backward.calls == 1
    torch.testing.assert_close(anchor.grad, torch.tensor([0.5 * 2 + 3, 0.5 * -4 + 3]))


def test_a_loss_of_weight_0_reaches_no_gradient_even_as_nan() -> None:
    anchor = torch.tensor([1.0], requires_grad=True)
    graph_of_its_own = torch.tensor([1.0], requires_grad=True)
    losses = {"l1": anchor.sum(), "logged": (anchor * graph_of_its_own * float("nan")).sum()}
    shares = FixedBalancer().backward(losses, {"l1": 2.0, "logged": 0.0}, anchor, Backward())
    assert anchor.grad is not None
    assert anchor.grad.item() == 2.0
    assert graph_of_its_own.grad is None
    assert {name: float(share) for name, share in shares.items()} == {"l1": 1.0, "logged": 0.0}


def test_shares_are_of_magnitudes_sum_to_1_and_carry_no_graph() -> None:
    anchor = torch.tensor(1.0, requires_grad=True)
    losses = {"reconstruction": 3 * anchor, "adversarial": -anchor}  # the hinge may be negative
    shares = FixedBalancer().backward(losses, {"reconstruction": 1.0, "adversarial": 2.0}, anchor, Backward())
    assert list(shares) == ["reconstruction", "adversarial"]
    assert [float(share) for share in shares.values()] == pytest.approx([0.6, 0.4])
    assert all(isinstance(share, Tensor) and not share.requires_grad for share in shares.values())


def test_shares_are_0_where_all_losses_are() -> None:
    anchor = torch.zeros(3, requires_grad=True)
    shares = FixedBalancer().backward({"l1": anchor.abs().mean()}, {"l1": 1.0}, anchor, Backward())
    assert float(shares["l1"]) == 0.0


def test_weights_of_losses_that_have_not_joined_yet_do_no_harm() -> None:
    anchor = torch.tensor(1.0, requires_grad=True)
    shares = FixedBalancer().backward({"l1": anchor * 2}, {"l1": 1.0, "adversarial": 1.0}, anchor, Backward())
    assert list(shares) == ["l1"]


def test_nothing_to_train_on_is_said() -> None:
    anchor = torch.tensor(1.0, requires_grad=True)
    with pytest.raises(ConfigError, match="l1"):
        FixedBalancer().backward({"l1": anchor * 2}, {"l1": 0.0}, anchor, Backward())
    with pytest.raises(KeyError, match="l1"):
        FixedBalancer().backward({"l1": anchor * 2}, {}, anchor, Backward())


def test_has_no_state() -> None:
    assert FixedBalancer().state_dict() == {}
