"""Scales and shifts per frequency in a run: when they start, from which batches, and what they leave as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SHORT
from lightning import LightningModule
from omegaconf import DictConfig
from torch import Tensor

import bcfusion
from bcfusion.adaptation.fold_run import Trainee
from bcfusion.configuration.compose import build, drop_unchosen
from bcfusion.contracts import Batch
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.loaders import TrainLoader
from bcfusion.errors import CheckpointError
from bcfusion.nn.statistics import start_from_statistics
from bcfusion.run import checkpoint
from bcfusion.run.record import Provenance
from bcfusion.training.assemble import build_datamodule
from bcfusion.training.module import SpeechModule
from bcfusion.training.rehearsal import rehearse
from bcfusion.training.run import train

Compose = Callable[..., DictConfig]
SMALL = ["channels=[4,4]", "freq_kernels=[5,3]", "freq_strides=[2,2]", "blocks=1", "n_fft=80", "hop_length=40"]
SIZES = [f"generator.{setting}" for setting in (*SMALL, "win_length=80")]
REGRESSION = ["discriminators=[]", "losses=[l1]", "balancer=fixed", "scheduler=constant"]
ON, STEPS = "generator.frequency_norm=learnable", "trainer.max_steps=2"


@pytest.fixture
def dpcrn(composed: Compose, speech: Path) -> Compose:
    def compose(*overrides: str) -> DictConfig:
        settings = ["generator=dpcrn", *REGRESSION, "data=folder", f"data.root={speech}", *SHORT, *SIZES]
        cfg = composed(*settings, "trainer.validate_every=2", "trainer.statistics_batches=2", *overrides)
        drop_unchosen(cfg)
        return cfg

    return compose


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[TrainLoader]:
    """The passes over the training set for statistics."""
    made: list[TrainLoader] = []
    pass_dataloader = SpeechDataModule.pass_dataloader

    def spy(self: SpeechDataModule) -> TrainLoader:
        made.append(pass_dataloader(self))
        return made[-1]

    monkeypatch.setattr(SpeechDataModule, "pass_dataloader", spy)
    return made


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Tensor]]:
    """The ids of each training step, and torch's random state at that time."""
    steps: list[tuple[list[str], Tensor]] = []
    step = SpeechModule.training_step

    def spy(self: SpeechModule, batch: Batch, batch_idx: int) -> None:
        steps.append((batch["ids"], torch.get_rng_state()))
        step(self, batch, batch_idx)

    monkeypatch.setattr(SpeechModule, "training_step", spy)
    return steps


def run(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    train(cfg, run_dir, Provenance(recipe="bone_to_air"))
    return checkpoint.read(run_dir / "checkpoints" / "last.ckpt")


def statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = ("deviation", "mean", "started")
    found = {name: value for name, value in state.items() if name.rpartition(".")[2] in names}
    assert len(found) == 4  # two layers for complex spectra
    return found


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.slow
def test_a_new_run_starts_from_the_first_batches_and_a_resumed_one_continues_exactly(
    dpcrn: Compose, passes: list[TrainLoader], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(dpcrn(ON, STEPS), tmp_path / "parts")
    assert len(passes) == 1
    assert "Started DPCRN from statistics of the training set: 2 batches, 0.0 min of speech" in capsys.readouterr().out

    datamodule = build_datamodule(dpcrn(ON))
    datamodule.setup("fit")
    alone = build(dpcrn(ON).generator).eval()
    given = iter(datamodule.pass_dataloader())
    start_from_statistics(alone, [next(given), next(given)])
    found = statistics(alone.state_dict())
    assert float(found["frequency_in.deviation"].std()) > 0.001
    assert_same(statistics(first["generator"]), found)
    assert_same(statistics(first["generator_ema"]), found)
    assert_same(statistics(bcfusion.load_generator(tmp_path / "parts" / "bundle").state_dict()), found)
    assert not torch.equal(first["generator"]["frequency_in.weight"], alone.state_dict()["frequency_in.weight"])

    del passes[:]
    resumed = run(dpcrn(ON, "trainer.max_steps=4", f"resume={tmp_path / 'parts'}"), tmp_path / "parts")
    assert passes == []
    whole = run(dpcrn(ON, "trainer.max_steps=4"), tmp_path / "whole")
    for part in ("generator", "generator_ema"):
        assert_same(whole[part], resumed[part])


@pytest.mark.slow
def test_batches_and_random_numbers_of_the_training_are_those_without_the_option(
    dpcrn: Compose, trained_on: list[tuple[list[str], Tensor]], passes: list[TrainLoader], tmp_path: Path
) -> None:
    run(dpcrn(STEPS), tmp_path / "off")
    assert passes == []
    off = trained_on.copy()
    del trained_on[:]
    run(dpcrn(STEPS, ON), tmp_path / "on")
    assert len(passes) == 1
    assert [ids for ids, _ in trained_on] == [ids for ids, _ in off]
    assert all(torch.equal(one[1], two[1]) for one, two in zip(trained_on, off, strict=True))


@pytest.mark.slow
def test_a_run_that_starts_from_other_weights_keeps_their_statistics(
    dpcrn: Compose, passes: list[TrainLoader], tmp_path: Path
) -> None:
    first = run(dpcrn(ON, STEPS, "data.speakers=[s00]"), tmp_path / "first")
    start = f"init_from={tmp_path / 'first'}"
    second = run(dpcrn(ON, STEPS, start), tmp_path / "second")
    assert len(passes) == 1
    assert_same(statistics(second["generator"]), statistics(first["generator"]))
    with pytest.raises(CheckpointError, match=r"unknown \(such as frequency_in.deviation\)"):
        run(dpcrn(STEPS, start), tmp_path / "third")


def test_all_ranks_start_from_the_same_statistics(dpcrn: Compose) -> None:
    found = []
    for rank in range(2):
        datamodule = build_datamodule(dpcrn(ON))
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        generator = build(dpcrn(ON).generator).eval()
        start_from_statistics(generator, datamodule.pass_dataloader())
        found.append(statistics(generator.state_dict()))
    assert_same(*found)


@pytest.mark.slow
def test_a_check_takes_no_pass_over_the_training_set(dpcrn: Compose, passes: list[TrainLoader]) -> None:
    assert rehearse(dpcrn(ON, STEPS)).problems == []
    assert passes == []


@pytest.mark.slow
def test_an_adaptation_keeps_the_statistics_unless_it_starts_afresh(dpcrn: Compose, tmp_path: Path) -> None:
    cfg = dpcrn(ON, STEPS)
    bundle = tmp_path / "run" / "bundle"
    run(cfg, tmp_path / "run")
    datamodule = build_datamodule(cfg)
    datamodule.setup("fit")
    batches = list(datamodule.pass_dataloader())
    for batch in batches:
        batch["inputs"] = 3 * batch["inputs"]
    pairs: Any = SimpleNamespace(one_pass=lambda: batches)
    found = {}
    for fresh in (False, True):
        settings: Any = SimpleNamespace(fresh=fresh, seed=0, lr=1e-3)
        trainee = Trainee(bcfusion.load_generator(bundle), bundle, ["body"], (), settings, "cpu")
        learner = trainee.learner(pairs)
        network = learner.network
        assert isinstance(network, torch.nn.Module)
        assert not isinstance(network, LightningModule)
        found[fresh] = statistics(network.state_dict())
    assert_same(found[False], statistics(trainee.start.state_dict()))
    loudest = int(found[True]["frequency_in.deviation"].argmax())
    ratio = found[True]["frequency_in.deviation"].flatten()[loudest] / found[False]["frequency_in.deviation"].flatten()
    assert 1.5 < float(ratio[loudest]) < 6
