"""Two processes with half of a batch each make the update of one process with the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy
from test_training_module import batches, fit, module
from torch import Tensor, nn

from bcfusion.balancers.adaptive import AdaptiveBalancer
from bcfusion.balancers.gradient import GradientBalancer
from bcfusion.losses.feature_matching import FeatureMatchingLoss
from bcfusion.losses.waveform import L1Loss
from bcfusion.training.module import SpeechModule

BALANCERS: dict[str, Any] = {
    "fixed": lambda: None,
    "gradient": lambda: GradientBalancer(decay=0.9),
    "adaptive": lambda: AdaptiveBalancer(eps=1e-8),
}


class Half:
    """The part of every batch that belongs to this rank."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rank = torch.distributed.get_rank()
        for item in self.items:
            yield {key: value[rank::2] for key, value in item.items()}


def build(balancer: str, **game: Any) -> SpeechModule:
    losses: dict[str, nn.Module] = {"l1": L1Loss(), "feature_matching": FeatureMatchingLoss()}
    return module(losses=losses, balancer=BALANCERS[balancer](), game=game)


def state(trained: SpeechModule) -> dict[str, Tensor]:
    assert trained.adversary is not None
    return {**trained.generator.state_dict(), **trained.adversary.state_dict()}


def save(trained: SpeechModule, folder: Path) -> None:
    torch.save(state(trained), folder / f"{torch.distributed.get_rank()}.pt")


def train_on_two_ranks(halves: SpeechModule, items: list[dict[str, Any]], tmp_path: Path) -> None:
    Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(start_method="fork", find_unused_parameters=True, broadcast_buffers=False),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    ).fit(halves, train_dataloaders=Half(items))


@pytest.mark.slow
@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize(
    "game",
    [{}, {"shared_passes": False}, {"order": "discriminator_first"}],
    ids=["shared", "separate", "discriminator_first"],
)
def test_two_ranks_make_the_updates_of_one(balancer: str, game: dict[str, Any], tmp_path: Path) -> None:
    items = batches(3, size=4)
    whole = build(balancer, **game)
    fit(whole, items)

    halves = build(balancer, **game)
    halves.on_train_end = partial(save, halves, tmp_path)  # type: ignore[method-assign]
    train_on_two_ranks(halves, items, tmp_path)

    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, expected in state(whole).items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-6)


class Masking(nn.Module):
    """A generator with weight norm, biases and a second output."""

    provides: tuple[str, ...] = ("mask",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 3, 5, padding=2)
        self.last = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 1, 5, padding=2))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.first(inputs))
        return {"estimate": self.last(hidden), "mask": torch.sigmoid(hidden)}


class MaskEnergy(nn.Module):
    def forward(self, mask: Tensor) -> Tensor:
        return mask.square().mean()


ANCHORED = [
    (partial(GradientBalancer, decay=0.9), "output"),
    (partial(GradientBalancer, decay=0.9), "last.weight"),
    (partial(GradientBalancer, decay=0.9), "last.bias"),
    (partial(GradientBalancer, decay=0.9, weights="equal"), "first.weight"),
    (partial(AdaptiveBalancer, eps=1e-8), "output"),
    (partial(AdaptiveBalancer, eps=1e-8), "last.weight"),
    (partial(AdaptiveBalancer, eps=1e-8), "first.bias"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("balancer", "anchor"), ANCHORED)
def test_a_balancer_makes_the_same_updates_on_any_number_of_ranks(balancer: Any, anchor: str, tmp_path: Path) -> None:
    def build() -> SpeechModule:
        losses: dict[str, nn.Module] = {
            "l1": L1Loss(),
            "mask": MaskEnergy(),
            "feature_matching": FeatureMatchingLoss(),
        }
        torch.manual_seed(0)
        rates = {"generator": 5e-3, "discriminator": 0.1}
        optimizers = {name: partial(torch.optim.SGD, lr=lr) for name, lr in rates.items()}
        return module(generator=Masking(), losses=losses, balancer=balancer(anchor=anchor), optimizers=optimizers)

    items = batches(5, size=4)
    whole, halves = build(), build()
    fit(whole, items)
    halves.on_train_end = partial(save, halves, tmp_path)  # type: ignore[method-assign]
    train_on_two_ranks(halves, items, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    start = state(build())
    assert max(float((first[name] - start[name]).abs().max()) for name in start) > 0.01
    for name, expected in state(whole).items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-6)


class Normalised(nn.Module):
    """A generator with running statistics."""

    provides: tuple[str, ...] = ()
    sample_rate, in_channels, hop, causal, delay = 16000, 1, 1, True, 0

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(1), nn.Conv1d(1, 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        y: Tensor = self.last(self.norm(inputs))
        return y


def test_ranks_agree_on_running_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    losses: dict[str, nn.Module] = {"l1": L1Loss()}
    halves = module(generator=Normalised(), losses=losses, adversarial=False, ema_decay=0.9)

    def save_generators() -> None:
        assert halves.ema is not None
        states = {"trained": halves.generator.state_dict(), "averaged": halves.ema.network.state_dict()}
        torch.save(states, tmp_path / f"{torch.distributed.get_rank()}.pt")

    halves.on_train_end = save_generators  # type: ignore[method-assign]
    train_on_two_ranks(halves, batches(3, size=4), tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("trained", "averaged"):
        assert first[name]["norm.running_mean"].abs() > 0
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), (name, key)
