from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bcfusion.contracts import Anchor
from bcfusion.errors import ConfigError
from bcfusion.training.anchor import OUTPUT, OutputAnchor, anchor_parameter


class Network(nn.Module):
    """Returns a waveform, a mask of other dimensions, and a latent variable."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 6, 5, padding=2)
        self.unused = nn.Linear(2, 2)
        self.last = parametrizations.weight_norm(nn.Conv1d(6, 1, 5, padding=2))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.first(inputs))
        mask = torch.sigmoid(hidden).unflatten(-1, (-1, 8))
        return {"estimate": self.last(hidden), "mask": mask, "mu": hidden.mean(-1)}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(3, 1, 40, generator=torch.Generator().manual_seed(1))


def losses(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {
        "l1": (outputs["estimate"] - 0.1).abs().mean(),
        "energy": outputs["estimate"].square().mean(),
    }
    if "mask" in outputs:
        found["mask"] = (outputs["mask"] * outputs["estimate"].mean(-1)[:, :, None, None]).square().mean()
    if "mu" in outputs:
        found["kl"] = outputs["mu"].square().mean()
    return found


def run(tensor: Tensor, gradient: Tensor | None = None) -> None:
    tensor.backward(gradient)


def some(outputs: dict[str, Tensor], names: str) -> dict[str, Tensor]:
    return {name: outputs[name] for name in names.split()}


NAMES = ["estimate", "estimate mask", "estimate mask mu"]


@pytest.mark.parametrize("names", NAMES)
def test_gradients_at_the_output_are_those_of_the_uncut_graph(network: Network, inputs: Tensor, names: str) -> None:
    outputs = some(network(inputs), names)
    anchor: Anchor = OutputAnchor(outputs)
    assert isinstance(anchor, OutputAnchor)
    cut, uncut = losses(anchor.outputs), losses(outputs)
    for name in uncut:
        torch.testing.assert_close(cut[name], uncut[name], rtol=0, atol=0)
        expected = torch.autograd.grad(uncut[name], list(outputs.values()), retain_graph=True, allow_unused=True)
        flat = [
            (torch.zeros_like(value) if gradient is None else gradient).flatten(1)
            for value, gradient in zip(outputs.values(), expected, strict=True)
        ]
        torch.testing.assert_close(anchor.gradient(cut[name]).flatten(1), torch.cat(flat, 1))


@pytest.mark.parametrize("names", NAMES)
def test_backward_through_the_leaf_is_that_of_the_weighted_sum(network: Network, inputs: Tensor, names: str) -> None:
    weights = {"l1": 1.0, "energy": -0.3, "mask": 40.0, "kl": 2.0}
    weighted = [weights[name] * loss for name, loss in losses(some(network(inputs), names)).items()]
    torch.stack(weighted).sum().backward()
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad(set_to_none=True)

    anchor = OutputAnchor(some(network(inputs), names))
    parts = [weights[name] * anchor.gradient(loss) for name, loss in losses(anchor.outputs).items()]
    assert all(parameter.grad is None for parameter in network.parameters()), "measuring leaves nothing behind"
    anchor.backward(torch.stack(parts).sum(0), run)
    for name, parameter in network.named_parameters():
        if name.startswith("unused"):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=1e-6)


def test_a_single_output_is_the_leaf_and_the_trainer_gets_it_with_the_gradient(
    network: Network, inputs: Tensor
) -> None:
    estimate = network(inputs)["estimate"]
    anchor = OutputAnchor({"estimate": estimate})
    calls: list[Any] = []
    anchor.backward(2 * torch.ones_like(anchor.leaf), lambda tensor, gradient: calls.append((tensor, gradient)))
    ((tensor, gradient),) = calls
    assert tensor is estimate
    assert gradient.eq(2).all()
    assert anchor.outputs["estimate"] is anchor.leaf


def test_outputs_without_gradient_are_unchanged(inputs: Tensor) -> None:
    number = torch.tensor([1, 2, 3])
    anchor = OutputAnchor({"estimate": inputs.clone().requires_grad_(), "frames": number})
    assert anchor.outputs["frames"] is number
    assert anchor.leaf.shape == inputs.shape
    with pytest.raises(ValueError, match="has a gradient"):
        OutputAnchor({"estimate": inputs})


def test_a_loss_that_does_not_depend_on_the_output_has_no_gradient(network: Network, inputs: Tensor) -> None:
    anchor = OutputAnchor(network(inputs))
    for loss in (torch.tensor(3.0), network.first.weight.sum()):
        assert torch.count_nonzero(anchor.gradient(loss)) == 0
        assert anchor.gradient(loss).shape == anchor.leaf.shape


def test_losses_that_share_a_graph_are_measured_one_by_one(network: Network, inputs: Tensor) -> None:
    anchor = OutputAnchor(some(network(inputs), "estimate"))
    shared = anchor.outputs["estimate"].square().sum(-1)
    torch.testing.assert_close(anchor.gradient(shared.sum()), 2 * anchor.leaf)
    torch.testing.assert_close(anchor.gradient(3 * shared.sum()), 6 * anchor.leaf)


# ---------------------------------------------------------------- norms


def test_norms_at_the_output_are_sums_over_items() -> None:
    anchor = OutputAnchor({"estimate": torch.zeros(2, 1, 2, requires_grad=True)})
    one = torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]])
    assert anchor.norms([one, 2 * one, 0 * one]).tolist() == [6.0, 12.0, 0.0]


@pytest.mark.parametrize("items", [1, 2, 8])
def test_the_norm_of_a_mean_over_items_is_the_mean_norm_of_the_items_own_gradients(items: int) -> None:
    slopes = torch.randn(items, 1, 5, generator=torch.Generator().manual_seed(2))
    anchor = OutputAnchor({"estimate": torch.zeros(items, 1, 5, requires_grad=True)})
    loss = (slopes * anchor.outputs["estimate"]).sum((1, 2)).mean()
    own = torch.stack([slope.norm() for slope in slopes])
    torch.testing.assert_close(anchor.norms([anchor.gradient(loss)])[0], own.mean())


def test_the_norm_of_a_non_finite_gradient_is_nan() -> None:
    anchor = OutputAnchor({"estimate": torch.zeros(2, 1, 2, requires_grad=True)})
    one = torch.ones(2, 1, 2)
    for value in (float("nan"), float("inf"), float("-inf")):
        bad = one.clone()
        bad[1, 0, 1] = value
        norms = anchor.norms([one, bad])
        assert norms.isnan().tolist() == [False, True]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("name", ["last.weight", "first.weight", "first.bias", OUTPUT])
def test_norms_at_a_parameter_are_those_of_the_uncut_gradient(
    network: Network, inputs: Tensor, names: str, name: str
) -> None:
    parameter = anchor_parameter(network, name)
    outputs = some(network(inputs), names)
    anchor = OutputAnchor(outputs, parameter)
    norms = anchor.norms([anchor.gradient(loss) for loss in losses(anchor.outputs).values()])
    assert norms.shape == (len(losses(outputs)),)
    if parameter is None:
        return
    uncut = [
        torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)[0]
        for loss in losses(outputs).values()
    ]
    expected = torch.stack([torch.zeros(()) if gradient is None else gradient.norm() for gradient in uncut])
    torch.testing.assert_close(norms, expected)
    assert all(p.grad is None for p in network.parameters())


def test_a_parameter_that_the_output_does_not_depend_on_is_named(network: Network, inputs: Tensor) -> None:
    anchor = OutputAnchor(network(inputs), anchor_parameter(network, "unused.weight"))
    with pytest.raises(ConfigError, match=r"balancer\.anchor: .*does not depend on this parameter"):
        anchor.norms([torch.ones_like(anchor.leaf)])


# ---------------------------------------------------------------- names of parameters


def test_a_weight_under_weight_norm_is_its_direction(network: Network) -> None:
    assert anchor_parameter(network, OUTPUT) is None
    assert anchor_parameter(network, "first.weight") is network.first.weight
    direction = dict(network.named_parameters())["last.parametrizations.weight.original1"]
    assert anchor_parameter(network, "last.weight") is direction
    assert anchor_parameter(network, "last.parametrizations.weight.original1") is direction
    assert anchor_parameter(nn.Conv1d(1, 1, 3), "weight") is not None


@pytest.mark.parametrize("name", ["last.kernel", "", "Output", "weight"])
def test_an_unknown_parameter_is_named_with_the_last_ones(network: Network, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        anchor_parameter(network, name)
    (problem,) = error.value.problems
    assert problem.startswith(f"balancer.anchor: Network has no parameter '{name}'")
    assert "last.bias" in problem


# ---------------------------------------------------------------- bf16


@pytest.mark.parametrize("names", ["estimate", "estimate mask"])
def test_bf16_outputs_are_measured_in_float32_and_get_gradients_of_their_own_type(
    network: Network, inputs: Tensor, names: str
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = some(network(inputs), names)
        assert outputs["estimate"].dtype == torch.bfloat16
        anchor = OutputAnchor(outputs, anchor_parameter(network, "last.weight"))
        assert anchor.leaf.dtype == torch.float32
        gradients = [anchor.gradient(loss) for loss in losses(anchor.outputs).values()]
        norms = anchor.norms(gradients)
        anchor.backward(gradients[0], run)
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    assert norms.dtype == torch.float32
    assert norms.isfinite().all()

    found = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    network.zero_grad(set_to_none=True)
    losses(some(network(inputs), names))["l1"].backward()
    for name, gradient in found.items():
        expected = network.get_parameter(name).grad
        assert expected is not None
        assert (gradient - expected).norm() < 0.03 * expected.norm(), name


def test_gradients_pass_through_complex_outputs_and_outputs_of_one_dimension() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, requires_grad=True)
    outputs = {"estimate": weight * torch.ones(2, 1, 4), "mask": torch.complex(weight, 2 * weight).expand(2, 4).clone()}
    outputs["score"] = weight.sum().expand(2) * 3

    def loss(given: dict[str, Tensor]) -> Tensor:
        return given["estimate"].square().mean() + (given["mask"] * (1 + 2j)).abs().mean() + given["score"].mean()

    (expected,) = torch.autograd.grad(loss(outputs), [weight], retain_graph=True)
    anchor = OutputAnchor(outputs)
    anchor.backward(anchor.gradient(loss(anchor.outputs)), lambda tensor, **arguments: tensor.backward(**arguments))
    torch.testing.assert_close(weight.grad, expected)


def test_a_nan_that_a_dead_unit_hides_is_a_nan_at_the_parameter() -> None:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.bias.fill_(-100.0)
    anchor = OutputAnchor({"estimate": torch.relu(layer(torch.ones(2, 1, 3)))}, layer.weight)
    gradient = torch.full((2, 1, 3), float("nan"))
    assert anchor.norms([gradient]).isnan().all()
