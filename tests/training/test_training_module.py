from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from bcfusion.balancers.fixed import FixedBalancer
from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError
from bcfusion.generators.eben import EBEN
from bcfusion.losses.adversarial import HingeLoss
from bcfusion.losses.feature_matching import FeatureMatchingLoss
from bcfusion.losses.waveform import L1Loss
from bcfusion.nn.network import WaveformNetwork, additional_lookahead
from bcfusion.nn.network import heard as heard_part
from bcfusion.training.adversary import Adversary, Schedule
from bcfusion.training.guard import NonFiniteSteps
from bcfusion.training.module import SpeechModule
from bcfusion.training.optimization import Optimization

LENGTH = 64


class TinyGenerator(nn.Module):
    provides: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 5, padding=2, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv(inputs)


class TinyDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(1, 4, 5, padding=2)
        self.out = nn.Conv1d(4, 1, 3, padding=1)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        features = torch.relu(self.hidden(waveform))
        return [Judgement(self.out(features), [features])]


def batches(count: int, size: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "inputs": torch.randn(size, 1, LENGTH, generator=generator),
            "target": torch.randn(size, 1, LENGTH, generator=generator),
            "lengths": torch.full((size,), LENGTH),
            "ids": [f"item-{index}-{i}" for i in range(size)],
        }
        for index in range(count)
    ]


class Loader:
    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.items)


def module(
    adversarial: bool = True,
    losses: dict[str, nn.Module] | None = None,
    weights: dict[str, float] | None = None,
    schedule: dict[str, int] | None = None,
    game: dict[str, Any] | None = None,
    balancer: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    generator: nn.Module | None = None,
    seed: int = 0,
    ema_decay: float | None = None,
    **optimization: Any,
) -> SpeechModule:
    torch.manual_seed(seed)
    names = ("generator", "discriminator")
    optimization.setdefault("optimizers", {name: partial(torch.optim.SGD, lr=0.1) for name in names})
    losses = {"l1": L1Loss()} if losses is None else losses
    return SpeechModule(
        generator or TinyGenerator(),
        losses=losses,
        weights=weights or dict.fromkeys(losses, 1.0),
        balancer=balancer or FixedBalancer(),
        optimization=Optimization(**optimization),
        adversary=Adversary(
            {"tiny": discriminator or TinyDiscriminator()},
            HingeLoss(),
            schedule=Schedule(**(schedule or {})),
            **(game or {}),
        )
        if adversarial
        else None,
        ema_decay=ema_decay,
    )


def fit(trained: SpeechModule, items: list[dict[str, Any]]) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(trained, train_dataloaders=Loader(items))
    return trainer


def weights_of(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


class Foreseeing(WaveformNetwork):
    """Gives what its sensor has 10 samples later, and a constant."""

    def __init__(self) -> None:
        super().__init__(1000, 1, 1, True, lookahead_ms=10)
        self.constant = nn.Parameter(torch.zeros(1))

    def body(self, inputs: Tensor) -> Tensor:
        return inputs[:, :1] + self.constant


def test_a_network_that_looks_ahead_does_not_learn_from_the_zeros_after_a_crop() -> None:
    """Its target is exactly what it gives, but for the end of a crop that goes on: there is nothing to learn."""
    speech = torch.randn(2, 1, LENGTH + 10, generator=torch.Generator().manual_seed(0))
    items = batches(1)
    items[0] |= {"inputs": speech[..., :LENGTH], "target": speech[..., 10:].clone()}
    trained = module(adversarial=False, generator=Foreseeing())
    fit(trained, items)
    assert trained.generator.constant.item() == 0.0
    assert int(trained.step) == 1

    silent_end = batches(1)[0]  # items that end before their crop: the silence after them is true
    speech[1, :, 40:] = 0.0
    silent_end |= {"inputs": speech[..., :LENGTH], "target": speech[..., 10:], "lengths": torch.tensor([LENGTH, 40])}
    found = heard_part(silent_end, 10)
    assert found["lengths"].tolist() == [LENGTH - 10, 40]
    assert torch.equal(found["target"][0, 0, : LENGTH - 10], speech[0, 0, 10:LENGTH])
    assert found["target"][0, 0, LENGTH - 10 :].abs().max() == 0
    assert found["inputs"] is silent_end["inputs"]
    assert heard_part(silent_end, LENGTH // 2 + 1) is silent_end, "a short crop is left as it is"
    assert heard_part(silent_end, 0) is silent_end
    assert additional_lookahead(nn.Sequential(TinyGenerator(), Foreseeing())) == 10
    assert additional_lookahead(TinyGenerator()) == 0


class Sealed(TinyGenerator):
    """Its estimate is what its sensor has: another output alone depends on what is trained."""

    provides = ("latent",)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"estimate": inputs[:, -1:], "latent": super().forward(inputs)}


class LatentSize(nn.Module):
    def forward(self, latent: Tensor) -> Tensor:
        return latent.square().mean()


@pytest.mark.parametrize("adversarial", [False, True])
def test_a_loss_that_teaches_nothing_is_refused(adversarial: bool) -> None:
    name = "adversarial" if adversarial else r"losses\.l1"
    losses = {"size": LatentSize(), **({} if adversarial else {"l1": L1Loss()})}
    late = {"start_step": 100}  # it is known from the first step on
    trained = module(adversarial=adversarial, generator=Sealed(), losses=losses, schedule=late)
    with pytest.raises(ConfigError, match=f"{name}: teaches nothing: no trained parameter of Sealed has an influence"):
        fit(trained, batches(1))
    fit(module(adversarial=False, generator=Sealed(), losses={"size": LatentSize()}), batches(1))


def test_look_aheads_in_series_add_up() -> None:
    class Around(WaveformNetwork):
        def __init__(self) -> None:
            super().__init__(1000, 1, 1, True, lookahead_ms=5)
            self.inner = nn.ModuleList([Foreseeing(), TinyGenerator()])

    assert additional_lookahead(Around()) == 15


def test_the_shortest_look_ahead_is_one_hop() -> None:
    for lookahead_ms in (1e-9, 1e-3, 1.0):
        assert WaveformNetwork(1000, 1, 2, True, lookahead_ms=lookahead_ms).future == 2
    assert WaveformNetwork(1000, 1, 2, True).future == 0


def test_in_a_head_start_the_discriminators_learn_and_the_generator_is_that_of_regression() -> None:
    items = batches(4)
    alone, heard = module(adversarial=False), module(schedule={"head_start": 4})
    before = weights_of(heard.adversary.discriminators["tiny"])  # type: ignore[union-attr, arg-type]
    for trained in (alone, heard):
        fit(trained, items)
    torch.testing.assert_close(weights_of(alone.generator), weights_of(heard.generator), rtol=0, atol=0)
    assert not torch.equal(before, weights_of(heard.adversary.discriminators["tiny"]))  # type: ignore[union-attr, arg-type]
    later = module(schedule={"head_start": 3})
    fit(later, items)
    assert not torch.equal(weights_of(later.generator), weights_of(heard.generator))


def test_a_step_is_a_batch_though_lightning_counts_every_optimiser() -> None:
    trained = module()
    trainer = fit(trained, batches(10))
    assert trained.step == 10
    assert trainer.global_step == 20  # why bcfusion keeps a count of its own


def test_discriminators_are_untouched_before_their_start_step() -> None:
    trained = module(schedule={"start_step": 3})
    before = weights_of(trained.adversary)
    fit(trained, batches(3))
    torch.testing.assert_close(weights_of(trained.adversary), before, rtol=0, atol=0)
    later = module(schedule={"start_step": 3})
    fit(later, batches(4))
    assert not torch.equal(weights_of(later.adversary), before)


def test_schedulers_are_stepped_once_per_optimiser_step() -> None:
    halve = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    trained = module(schedulers={"generator": halve, "discriminator": None}, accumulate=2)
    trainer = fit(trained, batches(6))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)
    assert trainer.optimizers[1].param_groups[0]["lr"] == pytest.approx(0.1)


def test_clipping_bounds_each_network_alone() -> None:
    trained = module(clip={"generator": 1e-4, "discriminator": None})
    before = weights_of(trained.generator), weights_of(trained.adversary)
    fit(trained, batches(1))
    assert (weights_of(trained.generator) - before[0]).norm() == pytest.approx(0.1 * 1e-4, rel=1e-2)
    assert (weights_of(trained.adversary) - before[1]).norm() > 1e-4


@pytest.mark.parametrize("adversarial", [False, True])
def test_accumulation_equals_a_larger_batch(adversarial: bool) -> None:
    small = batches(2)
    joined = [
        {
            key: torch.cat([b[key] for b in small])
            if isinstance(small[0][key], Tensor)
            else small[0][key] + small[1][key]
            for key in small[0]
        }
    ]
    one, two = module(adversarial), module(adversarial, accumulate=2)
    fit(one, joined)
    fit(two, small)
    torch.testing.assert_close(weights_of(two), weights_of(one), rtol=1e-5, atol=1e-7)


def test_a_non_finite_step_is_left_out_and_counted() -> None:
    items = batches(3)
    items[1]["inputs"][0, 0, 5] = float("nan")
    trained = module(ema_decay=0.9)
    fit(trained, items)
    assert trained.guard.skipped == {"generator": 1, "discriminator": 1}
    assert torch.isfinite(weights_of(trained)).all()
    without = module(ema_decay=0.9)
    fit(without, [items[0], items[2]])
    torch.testing.assert_close(weights_of(trained.generator), weights_of(without.generator), rtol=0, atol=0)


def test_too_many_non_finite_steps_in_a_row_end_the_run_with_the_ids() -> None:
    items = batches(6)
    for item in items[2:]:
        item["target"][:] = float("inf")
    trained = module(max_bad_steps=3)
    with pytest.raises(NonFiniteSteps) as caught:
        fit(trained, items)
    assert caught.value.batches == [(step, items[step]["ids"]) for step in (2, 3, 4)]
    assert "3 steps in a row" in str(caught.value)


def test_a_loss_of_weight_zero_is_logged_and_has_no_influence() -> None:
    both = module(False, losses={"l1": L1Loss(), "again": L1Loss()}, weights={"l1": 1.0, "again": 0.0})
    alone = module(False)
    fit(both, batches(3))
    fit(alone, batches(3))
    torch.testing.assert_close(weights_of(both.generator), weights_of(alone.generator), rtol=0, atol=0)
    trained = module(False, losses={"l1": L1Loss(), "again": L1Loss()}, weights={"l1": 1.0, "again": 0.0})
    logged: dict[str, float] = {}
    trained.on_train_epoch_end = lambda: logged.update(trained.take_log())  # type: ignore[method-assign]
    fit(trained, batches(2))
    assert logged["loss/again"] == pytest.approx(logged["loss/l1"])
    assert logged["loss/total"] == pytest.approx(logged["loss/l1"])


@pytest.mark.parametrize("setting", ["accumulate", "max_bad_steps"])
def test_numbers_of_the_optimization_are_at_least_1(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"Optimization: {setting}=0 must be at least 1"):
        module(**{setting: 0})


def test_a_module_without_anything_to_learn_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="losses: nothing to learn from"):
        module(adversarial=False, weights={"l1": 0.0})


class AsksForAMask(nn.Module):
    def forward(self, estimate: Tensor, mask: Tensor) -> Tensor:
        return (estimate * mask).mean()


def test_a_loss_that_asks_for_what_nobody_provides_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"losses\.masked: asks for mask"):
        module(losses={"masked": AsksForAMask()})


class JudgesBands(TinyDiscriminator):
    takes = ("bands",)

    def forward(self, waveform: Tensor, bands: Tensor) -> list[Judgement]:
        return super().forward(bands)


class GivesBands(TinyGenerator):
    provides = ("bands",)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        estimate = super().forward(inputs)
        return {"estimate": estimate, "bands": 2 * estimate}

    def inside(self, waveform: Tensor) -> dict[str, Tensor]:
        return {"bands": 2 * waveform}


def test_a_discriminator_that_judges_what_the_generator_does_not_provide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"they judge bands .* TinyGenerator does not provide"):
        module(discriminator=JudgesBands())


@pytest.mark.parametrize("shared", [True, False])
def test_both_networks_learn_from_a_signal_inside_the_generator(shared: bool) -> None:
    """Bands that are twice the waveform are as good as a first layer with twice the weights."""
    inside = module(generator=GivesBands(), discriminator=JudgesBands(), game={"shared_passes": shared})
    outside = module(game={"shared_passes": shared})
    outside.generator.load_state_dict(inside.generator.state_dict())
    assert inside.adversary is not None
    assert outside.adversary is not None
    outside.adversary.load_state_dict(inside.adversary.state_dict())
    for trained, scale in ((inside, 1.0), (outside, 2.0)):
        hidden = trained.adversary.discriminators["tiny"].hidden  # type: ignore[union-attr]
        with torch.no_grad():
            hidden.weight.mul_(scale)
    fit(inside, batches(1))
    fit(outside, batches(1))
    torch.testing.assert_close(weights_of(inside.generator), weights_of(outside.generator))
    out = [trained.adversary.discriminators["tiny"].out.weight for trained in (inside, outside)]  # type: ignore[union-attr]
    torch.testing.assert_close(*out)


def test_nothing_inside_the_generator_is_computed_for_discriminators_that_have_not_joined() -> None:
    trained = module(generator=GivesBands(), discriminator=JudgesBands(), schedule={"start_step": 2})
    asked: list[int] = []
    trained.generator.inside = lambda waveform: asked.append(trained.step) or {"bands": waveform}  # type: ignore[assignment]
    fit(trained, batches(4))
    assert asked == [2, 3]


def test_feature_matching_needs_a_discriminator() -> None:
    with pytest.raises(ConfigError, match="estimate_judgements"):
        module(adversarial=False, losses={"feature_matching": FeatureMatchingLoss()})


def test_feature_matching_waits_for_the_adversary() -> None:
    trained = module(losses={"l1": L1Loss(), "feature_matching": FeatureMatchingLoss()}, schedule={"start_step": 2})
    logged: list[dict[str, float]] = []
    trained.on_train_batch_end = lambda *_: logged.append(trained.take_log())  # type: ignore[method-assign]
    fit(trained, batches(3))
    assert ["loss/feature_matching" in values for values in logged] == [False, False, True]
    assert ["loss/adversarial" in values for values in logged] == [False, False, True]


def test_padding_does_not_reach_the_generator() -> None:
    items = batches(1)
    items[0]["lengths"] = torch.tensor([LENGTH, LENGTH // 2])
    changed = copy.deepcopy(items)
    changed[0]["target"][1, :, LENGTH // 2 :] += 100.0
    one, two = module(False), module(False)
    fit(one, items)
    fit(two, changed)
    torch.testing.assert_close(weights_of(one.generator), weights_of(two.generator), rtol=0, atol=0)


def test_warm_up_losses_hand_over_to_the_adversary() -> None:
    """They have their weight before the start, fade over the ramp, and are then only logged."""
    seen: list[dict[str, float]] = []

    class Watching(FixedBalancer):
        def backward(self, losses: Any, weights: Any, anchor: Any, backward: Any) -> Any:
            seen.append(dict(weights))
            return super().backward(losses, weights, anchor, backward)

    trained = module(
        losses={"l1": L1Loss(), "feature_matching": FeatureMatchingLoss()},
        weights={"l1": 8.0, "feature_matching": 4.0},
        schedule={"start_step": 1, "ramp_steps": 2},
        game={"warm_up_losses": ["l1"]},
        balancer=Watching(),
    )
    logged: list[dict[str, float]] = []
    trained.on_train_batch_end = lambda *_: logged.append(trained.take_log())  # type: ignore[method-assign]
    fit(trained, batches(3))
    assert seen == [
        {"l1": 8.0},
        {"adversarial": 0.5, "l1": 4.0, "feature_matching": 2.0},
        {"adversarial": 1.0, "feature_matching": 4.0},
    ]
    assert all("loss/l1" in values for values in logged)


def test_signals_from_inside_the_generator_end_where_an_item_does() -> None:
    sizes: dict[str, Any] = {"channels": 4, "strides": (2, 4), "dilations": (1, 3), "latent_channels": 8}
    eben = EBEN(provide_bands=True, **sizes)
    discriminator = TinyDiscriminator()
    vars(discriminator)["takes"] = ("bands",)
    judged = module(generator=eben, discriminator=discriminator)
    batch: Any = {"target": torch.randn(2, 1, 4000), "lengths": torch.tensor([4000, 1001])}
    outputs = {"bands": torch.ones_like(eben.inside(batch["target"])["bands"])}
    inside = judged._inside(outputs, batch)
    for bands in (inside.estimate["bands"], inside.target["bands"]):
        assert bands[0, :, -1].any()
        assert not bands[1, :, 251:].any()
        assert bands[1, :, :251].abs().sum(0).all()
