"""What one training step does, counted: passes, transforms, values that the host reads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from test_training_module import batches, module
from torch.utils._python_dispatch import TorchDispatchMode

from bcfusion.balancers.gradient import GradientBalancer
from bcfusion.losses.feature_matching import FeatureMatchingLoss
from bcfusion.losses.spectral import MultiResolutionStftLoss
from bcfusion.training.adversary import Adversary
from bcfusion.training.module import SpeechModule
from bcfusion.training.optimization import fused_on_cpu

RESOLUTIONS = ((64, 16, 32), (32, 8, 16))
READS = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.nonzero", "aten.equal")


class Operators(TorchDispatchMode):
    """Counts the operators that are called, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func).rpartition(".")[0]] += 1
        return func(*args, **(kwargs or {}))

    def count(self, *names: str) -> int:
        return sum(self.calls[name] for name in names)


def counted(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Counter[str], Operators]:
    """Take two steps of a game and return what the second one did."""
    done: Counter[str] = Counter()
    losses = {"mr_stft": MultiResolutionStftLoss(RESOLUTIONS), "feature_matching": FeatureMatchingLoss()}
    optimizers = dict.fromkeys(("generator", "discriminator"), torch.optim.Adam)
    network = module(losses=losses, balancer=GradientBalancer(), optimizers=optimizers, **settings)
    made = network.configure_optimizers()
    monkeypatch.setattr(network, "_optimizer", lambda name: made[0 if name == "generator" else 1])

    def backward(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        done["backward"] += 1
        loss.backward(*args, **kwargs)

    monkeypatch.setattr(network, "manual_backward", backward)
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (done.update(["grad"]), grad(*a, **k))[1])
    judge = Adversary.judge
    monkeypatch.setattr(Adversary, "judge", lambda *a, **k: (done.update(["judge"]), judge(*a, **k))[1])
    first, second = batches(2)
    network.training_step(first, 0)
    done.clear()
    with Operators() as operators:
        network.training_step(second, 1)
    return done, operators


def test_a_step_of_the_game_takes_no_more_passes_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    done, operators = counted(monkeypatch)
    assert done["judge"] == 2, "one pass on the target, one on the estimate"
    assert done["grad"] == 3, "one for each loss: two that were given, and the adversarial one"
    assert done["backward"] == 2, "one for each network"
    assert operators.count("aten._fft_r2c") == len(RESOLUTIONS), "one for both signals"
    assert operators.count("aten._fft_c2r") == len(RESOLUTIONS), "the gradient"
    assert operators.count("aten._fft_c2c") == 0
    assert operators.count("aten._fused_adam_") == 2
    assert operators.count(*READS) == 2, "whether the gradient of each network is finite"


def test_four_passes_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = counted(monkeypatch, game={"shared_passes": False})
    assert done["judge"] == 4


def test_nothing_is_transformed_back_for_a_loss_that_is_only_logged() -> None:
    estimate, target = torch.randn(2, 1, 400), torch.randn(2, 1, 400)
    with Operators() as operators:
        MultiResolutionStftLoss(RESOLUTIONS)(estimate, target, torch.tensor([400, 300]))
    assert operators.count("aten._fft_r2c") == len(RESOLUTIONS)
    assert operators.count("aten._fft_c2r") == 0


def test_a_module_without_an_adversary_reads_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    network: SpeechModule = module(losses={"mr_stft": MultiResolutionStftLoss(RESOLUTIONS)}, adversarial=False)
    optimizers = network.configure_optimizers()
    monkeypatch.setattr(network, "_optimizer", lambda _: optimizers[0])
    monkeypatch.setattr(network, "manual_backward", lambda loss, **given: loss.backward(**given))
    first, second = batches(2)
    network.training_step(first, 0)
    with Operators() as operators:
        network.training_step(second, 1)
    assert operators.count(*READS) == 1


def test_adam_is_fused_on_a_cpu_unless_the_configuration_chooses() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    assert fused_on_cpu(torch.optim.Adam([parameter])).param_groups[0]["fused"] is True
    assert fused_on_cpu(torch.optim.AdamW([parameter])).param_groups[0]["fused"] is True
    assert fused_on_cpu(torch.optim.Adam([parameter], foreach=False)).param_groups[0]["fused"] is None
    assert fused_on_cpu(torch.optim.Adam([parameter], fused=False)).param_groups[0]["fused"] is False
    complex_one = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    assert fused_on_cpu(torch.optim.Adam([complex_one])).param_groups[0]["fused"] is None
    assert not fused_on_cpu(torch.optim.SGD([parameter])).param_groups[0].get("fused")


def test_fused_adam_makes_the_same_updates() -> None:
    found = []
    for make in (lambda p: fused_on_cpu(torch.optim.Adam(p, lr=0.1)), lambda p: torch.optim.Adam(p, lr=0.1)):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = make([parameter])
        for step in range(5):
            parameter.grad = torch.sin(parameter.detach() + step)
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
