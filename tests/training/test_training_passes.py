"""One pass of the discriminators for both updates gives the updates of the usual four passes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_training_module import TinyDiscriminator, TinyGenerator, batches, fit, module
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bcfusion.balancers.gradient import GradientBalancer
from bcfusion.discriminators.multi_scale import MultiScaleDiscriminator
from bcfusion.losses.adversarial import HingeLoss
from bcfusion.losses.feature_matching import FeatureMatchingLoss
from bcfusion.losses.waveform import L1Loss
from bcfusion.training import module as training_module
from bcfusion.training.adversary import Adversary, detached

FILES = sorted((Path(__file__).parents[2] / "conf" / "discriminators").glob("*.yaml"))


def losses() -> dict[str, nn.Module]:
    return {"l1": L1Loss(), "feature_matching": FeatureMatchingLoss()}


def spectral() -> nn.Module:
    network = TinyDiscriminator()
    parametrizations.spectral_norm(network.hidden)
    return network


def small_msd() -> nn.Module:
    return MultiScaleDiscriminator(scales=2, channels=4, max_channels=16)


def trained(steps: int = 3, lengths: list[int] | None = None, **settings: Any) -> dict[str, Tensor]:
    items = batches(steps)
    for item in items if lengths else ():
        item["lengths"] = torch.tensor(lengths)
    network = module(losses=losses(), **settings)
    fit(network, items)
    assert network.adversary is not None
    return {**network.generator.state_dict(), **network.adversary.state_dict()}


@pytest.mark.slow
@pytest.mark.parametrize("make", [TinyDiscriminator, spectral, small_msd])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_shared_passes_make_the_same_updates(make: Any, balanced: bool, accumulate: int) -> None:
    def run(shared: bool) -> dict[str, Tensor]:
        torch.manual_seed(1)
        discriminator = make()
        return trained(
            steps=4,
            discriminator=discriminator,
            balancer=GradientBalancer() if balanced else None,
            game={"shared_passes": shared},
            accumulate=accumulate,
            lengths=[64, 40],
        )

    shared, separate = run(True), run(False)
    for name, tensor in shared.items():
        torch.testing.assert_close(tensor, separate[name], rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def plain_loop(order: str, steps: int) -> dict[str, Tensor]:
    """Train in the simplest way, with four passes per step."""
    network = module(losses=losses())
    generator, adversary = network.generator, network.adversary
    assert adversary is not None
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (generator, adversary)]
    for item in batches(steps):
        estimate, target = generator(item["inputs"]), item["target"]

        def learn_generator(estimate: Tensor = estimate, target: Tensor = target, item: Any = item) -> None:
            on_estimate = adversary.judge(estimate)
            total = adversary.loss.generator(on_estimate)
            total = total + FeatureMatchingLoss()(on_estimate, adversary.judge(target))
            total = total + L1Loss()(estimate, target, item["lengths"])
            gradients = torch.autograd.grad(total, list(generator.parameters()))
            for parameter, gradient in zip(generator.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizers[0].step()

        def learn_discriminators(estimate: Tensor = estimate, target: Tensor = target) -> None:
            optimizers[1].zero_grad()
            adversary.loss.discriminator(adversary.judge(target), adversary.judge(estimate.detach())).backward()
            optimizers[1].step()

        turns = [learn_generator, learn_discriminators]
        for turn in turns if order == "generator_first" else reversed(turns):
            turn()
    return {**generator.state_dict(), **adversary.state_dict()}


@pytest.mark.parametrize(
    ("order", "shared"), [("generator_first", True), ("generator_first", False), ("discriminator_first", False)]
)
def test_the_module_makes_the_updates_of_a_plain_loop(order: str, shared: bool) -> None:
    expected = plain_loop(order, steps=3)
    for name, tensor in trained(3, game={"order": order, "shared_passes": shared}).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_the_order_makes_a_difference() -> None:
    first, second = (trained(2, game={"order": order}) for order in ("generator_first", "discriminator_first"))
    assert any(not torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_passes_are_two_when_shared_and_four_when_not() -> None:
    class Counting(TinyDiscriminator):
        calls = 0

        def forward(self, waveform: Tensor) -> Any:
            Counting.calls += 1
            return super().forward(waveform)

    calls = {}
    for shared in (True, False):
        Counting.calls = 0
        trained(1, discriminator=Counting(), game={"shared_passes": shared})
        calls[shared] = Counting.calls
    assert calls == {True: 2, False: 4}


def test_the_generator_rests_while_the_discriminators_take_several_steps() -> None:
    start = module(losses=losses()).generator.state_dict()["conv.weight"].clone()
    settings: dict[str, Any] = {"schedule": {"start_step": 0, "generator_interval": 3}}
    one, three, four = (trained(steps, **settings) for steps in (1, 3, 4))
    assert not torch.equal(one["conv.weight"], start)
    torch.testing.assert_close(three["conv.weight"], one["conv.weight"], rtol=0, atol=0)
    assert not torch.equal(four["conv.weight"], three["conv.weight"])
    assert not torch.equal(three["discriminators.tiny.out.weight"], one["discriminators.tiny.out.weight"])


def test_statistics_are_averaged_over_ranks_while_the_generator_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """It measures its items in these steps, too, and a validation may follow each of them."""
    averaged: list[nn.Module] = []
    monkeypatch.setattr(training_module, "average_running_statistics", averaged.append)
    network = module(losses=losses(), schedule={"start_step": 0, "generator_interval": 3})
    fit(network, batches(4))
    assert sum(part is network.generator for part in averaged) == 4


def test_the_discriminators_rest_while_the_generator_takes_several_steps() -> None:
    one, two = (trained(steps, schedule={"interval": 2}) for steps in (1, 2))
    name = "discriminators.tiny.out.weight"
    torch.testing.assert_close(two[name], one[name], rtol=0, atol=0)
    assert not torch.equal(two["conv.weight"], one["conv.weight"])


def test_the_ramp_scales_all_losses_that_need_the_discriminators() -> None:
    """With nothing but such losses, the first of four ramp steps of plain descent is a quarter of the whole."""

    def change(ramp_steps: int) -> Tensor:
        network = module(losses={"feature_matching": FeatureMatchingLoss()}, schedule={"ramp_steps": ramp_steps})
        start = copy.deepcopy(network.generator.state_dict())["conv.weight"]
        fit(network, batches(1))
        return network.generator.state_dict()["conv.weight"] - start

    torch.testing.assert_close(change(4), change(0) / 4, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_discriminator_gives_the_same_gradients_in_shared_passes(path: Path) -> None:
    group = OmegaConf.create({"sample_rate": 16000, "discriminators": OmegaConf.load(path)}).discriminators

    def gradients(shared: bool) -> list[Tensor]:
        torch.manual_seed(0)
        adversary = Adversary({path.stem: instantiate(group[path.stem])}, HingeLoss())
        estimate = (0.07 * torch.randn(1, 1, 1500)).requires_grad_()
        target = 0.07 * torch.randn(1, 1, 1500)
        if shared:
            for_generator = for_discriminators = adversary.judge_for_both(estimate, target)
        else:
            for_generator = adversary.judge_for_generator(estimate, target)
            for_discriminators = adversary.judge_for_discriminators(estimate, target, first=False)
        total = adversary.loss.generator(for_generator.estimate)
        total = total + FeatureMatchingLoss("reference")(for_generator.estimate, detached(for_generator.target))
        (of_estimate,) = torch.autograd.grad(total, [estimate], retain_graph=True)
        loss = adversary.loss.discriminator(for_discriminators.target, for_discriminators.estimate)
        return [of_estimate, *torch.autograd.grad(loss, adversary.learning_parameters())]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        scale = other.abs().max().clamp_min(1e-12)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-5)


def test_two_outputs_of_a_generator_are_learned_through_one_backward_pass() -> None:
    class Masking(TinyGenerator):
        provides = ("mask",)

        def forward(self, inputs: Tensor) -> Any:
            mask = torch.sigmoid(self.conv(inputs))
            return {"estimate": mask * inputs, "mask": mask}

    class MaskLoss(nn.Module):
        def forward(self, mask: Tensor) -> Tensor:
            return mask.square().mean()

    torch.manual_seed(0)
    network = module(adversarial=False, losses={"l1": L1Loss(), "mask": MaskLoss()}, generator=Masking())
    expected = copy.deepcopy(network.generator)
    item = batches(1)[0]
    outputs = expected(item["inputs"])
    (L1Loss()(outputs["estimate"], item["target"], item["lengths"]) + MaskLoss()(outputs["mask"])).backward()
    before = network.generator.conv.weight.detach().clone()
    fit(network, [item])
    torch.testing.assert_close(network.generator.conv.weight, before - 0.1 * expected.conv.weight.grad)
