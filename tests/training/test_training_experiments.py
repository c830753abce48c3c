"""Every shipped experiment, and every ablation of the recipes, composes, passes its check and trains."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SHORT, SMALL_DISCRIMINATORS, noise_problem, skip_without_extra
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf, open_dict

from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import drop_unchosen
from bcfusion.configuration.paths import conf_dir
from bcfusion.run.record import Provenance
from bcfusion.training.assemble import build_datamodule, build_module
from bcfusion.training.fitting import Fitting
from bcfusion.training.module import SpeechModule
from bcfusion.training.run import train

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((conf_dir() / "experiment").glob("*.yaml"))
ABLATIONS = sorted(ROOT.glob("recipes/*/conf/experiment/*.yaml"))
FILES = [*EXPERIMENTS, *ABLATIONS]
SIZES = ROOT / "tests" / "generators" / "small"  # of the generators


def name_of(path: Path) -> str:
    return path.stem


def generator_of(path: Path) -> str:
    """Return the entry of conf/generator that an experiment, or the one that it builds upon, chooses."""
    text = path.read_text()
    if chosen := re.search(r"^  - override /generator: (\w+)", text, flags=re.MULTILINE):
        return chosen[1]
    base = re.search(r"^  - (?:/experiment/)?([\w/]+)$", text, flags=re.MULTILINE)
    assert base is not None, path
    return generator_of(conf_dir() / "experiment" / f"{base[1]}.yaml")


@pytest.fixture
def small(composed: Callable[..., DictConfig], speech: Path, noise: Path) -> Callable[..., DictConfig]:
    def build(path: Path, *overrides: str) -> DictConfig:
        skip_without_extra(path.stem)
        if path.read_text().splitlines()[1].endswith(" recipe=fusion"):
            overrides = ("recipe=fusion", f"data.noise_root={noise}", *overrides)
        search = [] if path in EXPERIMENTS else [f"hydra.searchpath=[file://{path.parents[1]}]"]
        if path in EXPERIMENTS:
            overrides = ("machine=gpu", *overrides)  # the published settings; those for a CPU are the other tests'
        if path.stem == "hifigan_plus":
            overrides = (*overrides, "data.segment_seconds=0.2")  # its longest window is mirrored
        experiment = f"experiment={path.stem}"
        cfg = composed(*search, experiment, "data=folder", f"data.root={speech}", *SHORT, *overrides)
        drop_unchosen(cfg)
        sizes = SIZES / f"{generator_of(path)}.yaml"
        with open_dict(cfg):
            if sizes.is_file():
                cfg.generator = OmegaConf.merge(cfg.generator, OmegaConf.load(sizes))
            for name in cfg.discriminators:
                cfg.discriminators[name] = OmegaConf.merge(cfg.discriminators[name], SMALL_DISCRIMINATORS[str(name)])
        return cfg

    return build


def test_every_network_has_an_experiment_of_the_same_name() -> None:
    networks = {path.stem for path in (conf_dir() / "generator").glob("*.yaml")}
    assert networks <= {path.stem for path in EXPERIMENTS}


def test_the_experiments_of_the_paper_are_there() -> None:
    assert {path.stem for path in EXPERIMENTS} >= {
        "seanet",
        "seanet_streaming",
        "seanet_mrstft",
        "seanet_lsgan_mpd_msd",
        "seanet_regression",
        "seanet_adaptive",
        "seanet_balanced",
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_file_opens_with_its_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    option = "" if path in EXPERIMENTS else f"--config-dir {path.parents[1].relative_to(ROOT)} "
    command = lines[1].removesuffix(" recipe=fusion").removesuffix(" recipe=bandwidth_extension")
    assert command == f"# bcfusion train {option}experiment={path.stem}"
    assert lines[2].startswith("# ")


@pytest.mark.parametrize("path", ABLATIONS, ids=name_of)
def test_an_ablation_says_what_changes_in_a_few_lines(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert 3 <= len(lines) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("path", ABLATIONS, ids=name_of)
def test_an_ablation_composes_without_a_problem_in_every_recipe(
    composed: Callable[..., DictConfig], path: Path, noise: Path
) -> None:
    """As the experiments do in the tests of the check."""
    for recipe in ("bone_to_air", "bandwidth_extension", "fusion"):
        cfg = composed(
            f"hydra.searchpath=[file://{path.parents[1]}]",
            f"experiment={path.stem}",
            f"recipe={recipe}",
            f"data.noise_root={noise}",
        )
        drop_unchosen(cfg)
        assert verify(cfg) == noise_problem(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_it_trains_two_steps_with_all_of_its_losses(
    small: Callable[..., DictConfig], path: Path, tmp_path: Path
) -> None:
    cfg = small(path, "trainer.max_steps=2", "trainer.validate_every=2")
    if cfg.discriminators and list(cfg.losses) != ["feature_matching"]:
        cfg.adversarial.start_step = 1  # one step without the adversary, one with it
        cfg.adversarial.ramp_steps = 2  # and with the losses that hand over to it
    result = train(cfg, tmp_path / "run", Provenance("bone_to_air", path.stem, []))
    untrained = path.stem in ("identity", "transposition")
    assert result.step == (0 if untrained else 2)
    with (result.run_dir / "metrics.csv").open() as file:
        logged = {tag for row in csv.DictReader(file) for tag, value in row.items() if value}
    if untrained:
        assert "best/stoi" in logged
        return
    assert {f"{what}/{name}" for what in ("loss", "share") for name in cfg.losses} <= logged
    networks = ["generator", "discriminator"] if cfg.discriminators else ["generator"]
    for network in networks:
        assert {f"gradient_norm/{network}", f"lr/{network}", f"skipped_steps/{network}"} <= logged
    if cfg.discriminators:
        health = ("loss", "score_target", "score_estimate", "accuracy", "feature_distance")
        assert {f"discriminator/{name}" for name in health} <= logged


class Watch(Callback):
    """Keeps the log of each step."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        assert isinstance(module, SpeechModule)
        self.logs.append(module.take_log())


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_in_bf16_losses_are_finite_and_parameters_and_optimiser_states_stay_float32(
    small: Callable[..., DictConfig], path: Path, tmp_path: Path
) -> None:
    """BCFUSION_BF16_STEPS=200 takes as many steps with each experiment; docs/reliability.md has the figures."""
    steps = int(os.environ.get("BCFUSION_BF16_STEPS", "3"))
    cfg = small(path, "trainer.precision=bf16-mixed", "trainer.log_every=1")
    if cfg.discriminators and list(cfg.losses) != ["feature_matching"]:
        cfg.adversarial.start_step, cfg.adversarial.ramp_steps = 1, 2
    if cfg.discriminators:
        cfg.adversarial.head_start = min(cfg.adversarial.head_start, 1)  # steps of the discriminators alone
    torch.manual_seed(0)
    datamodule = build_datamodule(cfg)
    datamodule.setup("fit")
    module, _ = build_module(cfg)
    if not module.trainable:
        pytest.skip("nothing to train")
    module.complete_batch = datamodule.on_after_batch_transfer
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision=cfg.trainer.precision,
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        logger=False,
        callbacks=[Fitting(datamodule, 2), watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    try:
        trainer.fit(module, train_dataloaders=datamodule.train_dataloader())
    finally:
        datamodule.teardown("fit")
        module.close()

    assert len(watch.logs) == module.step == steps
    for step, log in enumerate(watch.logs):
        assert not [tag for tag, value in log.items() if not math.isfinite(value)], step
        assert not [tag for tag, value in log.items() if tag.startswith("skipped") and value], step
    assert {f"loss/{name}" for name in cfg.losses} <= set().union(*watch.logs)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    states = [state for optimizer in trainer.optimizers for held in optimizer.state.values() for state in held.values()]
    assert states
    assert {state.dtype for state in states} == {torch.float32}
