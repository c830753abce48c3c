"""Two ranks with half of a batch each do what one process with the whole batch does, step by step, in every number."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf
from rank_processes import forked
from test_training_metric_gan import Distance, Likeness
from test_training_module import TinyDiscriminator
from torch import Tensor, nn

from bcfusion.losses.adversarial import HingeLoss
from bcfusion.losses.feature_matching import FeatureMatchingLoss
from bcfusion.losses.waveform import L1Loss
from bcfusion.training.adversary import Adversary, Schedule
from bcfusion.training.metric_gan import MetricGan
from bcfusion.training.module import SpeechModule
from bcfusion.training.optimization import Optimization

pytestmark = pytest.mark.slow

BALANCERS = sorted((Path(__file__).parents[2] / "conf" / "balancer").glob("*.yaml"))
ANCHORS = {path.stem: ["output", "last.weight"] if "anchor" in OmegaConf.load(path) else [None] for path in BALANCERS}
CASES = [(path, anchor) for path in BALANCERS for anchor in ANCHORS[path.stem]]
SAMPLES, SIZE, BATCHES, ACCUMULATE = 256, 4, 16, 2
TOLERANCE = 1e-13  # relative to the largest element, of networks in float64; each item's loss is the same float32


class Generator(nn.Module):
    """A generator with weight norm and a second output."""

    provides: tuple[str, ...] = ("mask",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 3, 5, padding=2)
        self.last = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 1, 5, padding=2))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.first(inputs))
        return {"estimate": self.last(hidden), "mask": torch.sigmoid(hidden)}


class Energy(nn.Module):
    def forward(self, mask: Tensor) -> Tensor:
        return mask.square().mean()


class Cubed(nn.Module):
    """A loss in the precision of its inputs."""

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        return (estimate - target).abs().pow(3).mean()


def batches(count: int = BATCHES, size: int = SIZE) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(count):
        signals = torch.randn(2, size, 1, SAMPLES, generator=generator).double()
        lengths = torch.randint(SAMPLES // 2, SAMPLES + 1, (size,), generator=generator)
        signals *= torch.arange(SAMPLES) < lengths.view(-1, 1, 1)
        signals[1, index % size if index % 3 == 0 else size - 1] *= 1e-4  # a pause: the critic learns nothing of it
        ids = [f"item-{index}-{number}" for number in range(size)]
        made.append({"inputs": signals[0], "target": signals[1], "lengths": lengths, "ids": ids})
    return made


class Part:
    """The part of every batch that belongs to this rank."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rank, count = 0, 1
        if torch.distributed.is_initialized():
            rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
        for item in self.items:
            yield {key: value[rank::count] for key, value in item.items()}


def build(
    path: Path,
    anchor: str | None,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    judge: nn.Module | None = None,
) -> SpeechModule:
    torch.manual_seed(0)
    losses: dict[str, nn.Module] = {
        "energy": Energy(),
        "cubed": Cubed(),
        "l1": L1Loss(),
        "feature_matching": FeatureMatchingLoss(),
    }
    rates = {"generator": 5e-3, "discriminator": 0.05}
    critic = MetricGan(
        judge or Distance(),
        Likeness(),
        "likeness",
        [0.0, 1.0],
        partial(torch.optim.SGD, lr=0.1),
        **{"workers": 0, "delay": 2, "history": 0, "weight": 0.3, "ramp_steps": 3},
    )
    schedule = Schedule(start_step=1, head_start=1, ramp_steps=3, interval=2)
    return SpeechModule(
        generator or Generator(),
        losses=losses,
        weights=dict.fromkeys(losses, 1.0),
        balancer=instantiate(OmegaConf.load(path), **({} if anchor is None else {"anchor": anchor})),
        optimization=Optimization(
            optimizers={name: partial(torch.optim.SGD, lr=lr, momentum=0.9) for name, lr in rates.items()},
            clip={"generator": 0.5, "discriminator": 1.0},
            accumulate=ACCUMULATE,
        ),
        adversary=Adversary(
            {"tiny": discriminator or TinyDiscriminator()},
            HingeLoss(),
            schedule=schedule,
            warm_up_losses=["l1"],
        ),
        ema_decay=0.8,
        critics={"pleasing": critic},
    ).double()


class Recorder(Callback):
    """Keeps, of each batch, all states, the gradients before the step and what is logged; writes them for each rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        assert isinstance(module, SpeechModule)
        gradients = {
            f"gradient of {name}": parameter.grad.clone()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
        weights = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        balancer = {
            f"balancer: {loss}: {key}": value
            for loss, record in module.balancer.state_dict().get("_extra_state", {}).items()
            for key, value in record.items()
        }
        self.steps.append({"tensors": weights | gradients | balancer, "log": module.take_log()})

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        torch.save(self.steps, self.folder / f"{trainer.global_rank}.pt")


def train(module: SpeechModule, items: list[dict[str, Any]], folder: Path, ranks: int) -> list[list[dict[str, Any]]]:
    """Return what each rank has recorded."""
    folder.mkdir()
    if ranks == 1:
        fit(module, items, folder, "auto", 1)
    else:
        strategy = DDPStrategy(start_method="fork", find_unused_parameters=True, broadcast_buffers=False)
        fit(module, items, folder, strategy, ranks)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def fit(module: SpeechModule, items: list[dict[str, Any]], folder: Path, strategy: Any, ranks: int) -> None:
    Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=strategy,
        max_epochs=1,
        logger=False,
        callbacks=[Recorder(folder)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    ).fit(module, train_dataloaders=Part(items))


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest value, at least 1e-3."""
    scale = max(float(one.abs().max()), 1e-3) if one.numel() else 1.0
    return float((one - other).abs().max()) / scale if one.numel() else 0.0


# means over ranks of what is not a mean over items
NONLINEAR = ("share/", "discriminator/feature_distance")


@pytest.mark.parametrize(("path", "anchor"), CASES, ids=[f"{path.stem}-{anchor}" for path, anchor in CASES])
def test_every_step_of_a_game_is_that_of_one_process(path: Path, anchor: str | None, tmp_path: Path) -> None:
    items = batches()
    [whole] = train(build(path, anchor), items, tmp_path / "one", 1)
    first, second = train(build(path, anchor), items, tmp_path / "two", 2)
    assert len(whole) == len(first) == len(second) == BATCHES
    worst = 0.0
    for step, (expected, one, other) in enumerate(zip(whole, first, second, strict=True)):
        assert expected["tensors"].keys() == one["tensors"].keys() == other["tensors"].keys(), step
        for name, value in expected["tensors"].items():
            assert torch.equal(one["tensors"][name], other["tensors"][name]), (step, name)
            worst = max(worst, difference(value, one["tensors"][name]))
            assert difference(value, one["tensors"][name]) <= TOLERANCE, (step, name)
        assert expected["log"].keys() == one["log"].keys(), step
        for tag, mean in expected["log"].items():
            if tag.endswith("waiting"):
                continue
            assert one["log"][tag] == other["log"][tag], (step, tag)
            if not tag.startswith(NONLINEAR):
                assert one["log"][tag] == pytest.approx(mean, rel=1e-5, abs=1e-6), (step, tag)
    print(f"{path.stem} at {anchor}: largest relative difference {worst:.1e}")

    learned = [
        "".join(name[0] for name in ("generator", "discriminator") if f"gradient_norm/{name}" in step["log"])
        for step in whole
    ]
    assert "".join(f"{names}." for names in learned[1::2]) == "g.gd.g.gd.g.gd.g.gd."
    assert set(learned[::2]) == {""}  # gradients are accumulated
    assert all(whole[-1]["log"][f"skipped_steps/{name}"] == 0 for name in ("generator", "discriminator", "pleasing"))
    start, last = build(path, anchor).state_dict(), whole[-1]["tensors"]
    for name in ("generator.last.bias", "ema.network.last.bias", "adversary.discriminators.tiny.out.weight"):
        assert float((start[name] - last[name]).abs().max()) > 1e-4, name
    assert float((start["_critic_networks.pleasing.slope"] - last["_critic_networks.pleasing.slope"]).abs()) > 1e-4


def test_a_value_that_is_not_finite_on_one_rank_is_skipped_by_both_or_ends_both(tmp_path: Path) -> None:
    path = next(path for path in BALANCERS if path.stem == "fixed")
    items = batches()
    items[5]["target"][1] = torch.inf  # of the second rank, in the third of the optimiser steps
    first, second = train(build(path, None), items, tmp_path / "skipped", 2)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(value, other["tensors"][name]) for name, value in one["tensors"].items())
    for steps in (first, second):
        assert steps[-1]["log"]["skipped_steps/generator"] == 1
        assert all(bool(value.isfinite().all()) for name, value in steps[-1]["tensors"].items() if "grad" not in name)

    for index in (7, 9):
        items[index]["target"][3] = torch.inf
    module = build(path, None)
    module.guard.max_bad_steps = 3
    strategy = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
    errors = forked(lambda _: fit(module, items, tmp_path, strategy, 2), tmp_path / "ended")
    says = "diverged at step 9: 3 steps in a row had a non-finite gradient. Last batch: item-9-1, item-9-3"
    assert [error.partition("\n")[0] for error in errors] == [says, says]  # items of the second rank alone


class Normalised(nn.Module):
    """A network behind a batch normalisation of its inputs."""

    provides = ("mask",)
    least_samples = 8

    def __init__(self, network: nn.Module, channels: int = 1) -> None:
        super().__init__()
        self.norm, self.network = nn.BatchNorm1d(channels), network

    def forward(self, *inputs: Tensor) -> Any:
        joined = torch.cat(inputs, dim=1).to(self.norm.weight.dtype)
        return self.network(*self.norm(joined).split(1, dim=1))


def test_running_statistics_of_all_networks_are_the_same_on_all_ranks(tmp_path: Path) -> None:
    path = next(path for path in BALANCERS if path.stem == "eben")
    networks = Normalised(Generator()), Normalised(TinyDiscriminator()), Normalised(Distance(), channels=2)
    module = build(path, None, *networks)
    start = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    first, second = train(module, batches(), tmp_path / "run", 2)
    last = first[-1]["tensors"]
    for name, value in last.items():
        assert torch.equal(value, second[-1]["tensors"][name]), name
    running = [name for name in last if "running" in name]
    assert {name.partition(".")[0] for name in running} == {"generator", "ema", "adversary", "_critic_networks"}
    assert not [name for name in running if torch.equal(start[name], last[name])]
