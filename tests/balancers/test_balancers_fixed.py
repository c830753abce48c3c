from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bcfusion.balancers.fixed import FixedBalancer
from bcfusion.errors import ConfigError
from bcfusion.training.anchor import OutputAnchor


class Backward:
    """The trainer's backward pass; keeps its gradients."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []

    def __call__(self, gradient: Tensor) -> None:
        self.gradients.append(gradient)

    @property
    def gradient(self) -> Tensor:
        assert len(self.gradients) == 1, "the generator has one backward pass"
        return self.gradients[0]


def anchored(*values: float) -> tuple[OutputAnchor, Tensor]:
    """Return an anchor and the leaf ``(1, 1, T)`` that the losses are computed on."""
    anchor = OutputAnchor({"estimate": torch.tensor([[list(values)]], requires_grad=True)})
    return anchor, anchor.outputs["estimate"]


def test_gradient_is_the_weighted_sum_of_gradients_in_one_backward() -> None:
    anchor, x = anchored(1.0, -2.0)
    backward = Backward()
    losses = {"square": x.square().sum(), "sum": x.sum()}
    FixedBalancer().backward(losses, {"square": 0.5, "sum": 3.0}, anchor, backward)
    torch.testing.assert_close(backward.gradient.flatten(), torch.tensor([0.5 * 2 + 3, 0.5 * -4 + 3]))


def test_the_sum_is_measured_in_one_pass() -> None:
    class Counting(OutputAnchor):
        calls = 0

        def gradient(self, loss: Tensor) -> Tensor:
            self.calls += 1
            return super().gradient(loss)

    anchor = Counting({"estimate": torch.ones(1, 1, 3, requires_grad=True)})
    x = anchor.outputs["estimate"]
    losses = {"a": x.sum(), "b": x.square().sum(), "c": x.abs().sum()}
    FixedBalancer().backward(losses, dict.fromkeys(losses, 1.0), anchor, Backward())
    assert anchor.calls == 1


def test_a_loss_of_weight_0_reaches_no_gradient_even_as_nan() -> None:
    anchor, x = anchored(1.0)
    backward = Backward()
    losses = {"l1": x.sum(), "logged": (x * float("nan")).sum()}
    shares = FixedBalancer().backward(losses, {"l1": 2.0, "logged": 0.0}, anchor, backward)
    assert backward.gradient.item() == 2.0
    assert {name: float(share) for name, share in shares.items()} == {"l1": 1.0, "logged": 0.0}


def test_shares_are_of_magnitudes_sum_to_1_and_carry_no_graph() -> None:
    anchor, x = anchored(1.0)
    losses = {"reconstruction": 3 * x.sum(), "adversarial": -x.sum()}  # the hinge may be negative
    shares = FixedBalancer().backward(losses, {"reconstruction": 1.0, "adversarial": 2.0}, anchor, Backward())
    assert list(shares) == ["reconstruction", "adversarial"]
    assert [float(share) for share in shares.values()] == pytest.approx([0.6, 0.4])
    assert all(isinstance(share, Tensor) and not share.requires_grad for share in shares.values())


def test_shares_are_0_if_all_losses_are() -> None:
    anchor, x = anchored(0.0, 0.0)
    shares = FixedBalancer().backward({"l1": x.abs().mean()}, {"l1": 1.0}, anchor, Backward())
    assert float(shares["l1"]) == 0.0


def test_a_constant_loss_changes_nothing_and_alone_gives_no_gradient() -> None:
    anchor, x = anchored(1.0, 2.0)
    with_constant, alone = Backward(), Backward()
    losses = {"l1": x.sum(), "constant": torch.tensor(5.0)}
    FixedBalancer().backward(losses, {"l1": 2.0, "constant": 1.0}, anchor, with_constant)
    FixedBalancer().backward({"constant": torch.tensor(5.0)}, {"constant": 1.0}, anchor, alone)
    assert with_constant.gradient.flatten().tolist() == [2.0, 2.0]
    assert alone.gradient.flatten().tolist() == [0.0, 0.0]


def test_weights_of_losses_that_have_not_joined_yet_do_no_harm() -> None:
    anchor, x = anchored(1.0)
    shares = FixedBalancer().backward({"l1": x.sum() * 2}, {"l1": 1.0, "adversarial": 1.0}, anchor, Backward())
    assert list(shares) == ["l1"]


def test_weights_that_are_all_0_are_refused() -> None:
    anchor, x = anchored(1.0)
    with pytest.raises(ConfigError, match="l1"):
        FixedBalancer().backward({"l1": x.sum()}, {"l1": 0.0}, anchor, Backward())
    with pytest.raises(KeyError, match="l1"):
        FixedBalancer().backward({"l1": x.sum()}, {}, anchor, Backward())


def test_has_no_state() -> None:
    assert FixedBalancer().state_dict() == {}
