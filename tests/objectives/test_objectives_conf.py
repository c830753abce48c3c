"""Every entry of conf/objective composes with networks of both domains, trains, resumes and ships."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT, Call
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict

from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import build, drop_unchosen, generator_node
from bcfusion.configuration.paths import conf_dir
from bcfusion.contracts import Stepwise
from bcfusion.errors import ConfigError
from bcfusion.objectives.bridge import Bridge
from bcfusion.run.bundle import bundle_of, in_steps, load_generator
from bcfusion.run.record import Provenance
from bcfusion.training.run import train

ROOT = Path(__file__).parents[2]
FILES = sorted((conf_dir() / "objective").glob("*.yaml"))
SMALL = ["experiment=dpcrn", "generator.channels=[4,4,4,4,4]", "generator.blocks=1"]
LEARNED = {"flow": ["losses=[prediction_mse]"], "bridge": ["losses=[l1,mr_stft]", "discriminators=[melgan_msd]"]}


def overrides_of(name: str) -> list[str]:
    return [*SMALL, f"objective={name}", *LEARNED.get(name, [])]


def test_the_group_has_what_the_documentation_lists() -> None:
    assert {path.stem for path in FILES} == {"regression", "flow", "bridge"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_file_opens_with_its_command_and_explains_every_key(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# bcfusion train ")
    assert f"objective={path.stem}" in lines[0].split()
    assert lines[1].startswith("# ")
    keys = [line for line in lines[2:] if ":" in line and line.strip() != "path:"]
    assert all(" #" in line for line in keys)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_has_no_problem_with_any_recipe(composed: Callable[..., DictConfig], path: Path) -> None:
    for recipe in ("bone_to_air", "fusion", "bandwidth_extension"):
        cfg = composed(*overrides_of(path.stem), f"recipe={recipe}")
        drop_unchosen(cfg)
        assert verify(cfg) == []


@pytest.mark.slow
@pytest.mark.parametrize("predict", ["velocity", "data"])
def test_the_networks_that_take_a_path_in_the_spectrum_are_those_that_the_documentation_lists(
    composed: Callable[..., DictConfig], predict: str
) -> None:
    text = (ROOT / "docs" / "objectives.md").read_text()
    always, _, with_data = text.partition("of a network on spectra (")[2].partition(")")[0].partition(";")
    listed = set(re.findall(r"`(\w+)`", always + with_data * (predict == "data")))
    cfg = composed("objective=flow", f"objective.predict={predict}", "cutoff_frequency=4000")
    taken = set()
    for path in sorted((ROOT / "conf" / "generator").glob("*.yaml")):
        own = OmegaConf.load(path)
        if "defaults" in own:  # a network around others, whose names are there
            continue
        with open_dict(cfg):
            cfg.generator = own
        try:
            with torch.device("meta"):
                build(generator_node(cfg))
        except (ConfigError, InstantiationException):
            continue
        taken.add(path.stem)
    variants = {name for name in taken if re.sub(r"_(causal|cl)$", "", name) in taken - {name}}
    assert taken - variants == listed - {"data"}


def test_regression_is_the_generator_itself(composed: Callable[..., DictConfig]) -> None:
    cfg = composed(*SMALL)
    assert generator_node(cfg) is cfg.generator
    before = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(before, dict)
    del before["objective"]  # as runs of earlier versions have recorded it
    assert generator_node(before) == before["generator"]


def test_the_objective_is_built_around_the_generator(composed: Callable[..., DictConfig]) -> None:
    cfg = composed(*overrides_of("flow"), "objective.path.sigma=0.3", "task.sensors=[body,noisy]")
    bridge = build(generator_node(cfg))
    assert isinstance(bridge, Bridge)
    assert isinstance(bridge, Stepwise)
    assert (bridge.in_channels, bridge.path.sigma) == (2, 0.3)
    assert bridge.domain.network.in_channels == 4  # with the signal on the path and the time


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["objective=flow", "objective.steps=0"], "objective: Bridge: steps=0 must be at least 1"),
        (["objective=bridge", "objective.predict=velocity"], "objective: Bridge: predict=velocity: SchroedingerBridge"),
        (
            ["objective=flow", "objective.predict=data", "experiment=eben", "losses=[l1]"],
            "objective: domain=spectrum: EBEN does not map",
        ),
        (["objective=flow", "objective.path.sigma=-1"], "objective: Flow: sigma=-1 must be at least 0"),
        (["losses=[prediction_mse]"], "losses.prediction_mse: asks for prediction, prediction_target"),
        (["objective=flow", "generator.blocks=0"], "generator: DPCRN: blocks=0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_said_once_with_its_path(
    composed: Callable[..., DictConfig], overrides: list[str], problem: str
) -> None:
    cfg = composed(*([] if "experiment=eben" in overrides else ["experiment=dpcrn"]), *overrides)
    drop_unchosen(cfg)
    [found] = verify(cfg)
    assert found.startswith(problem)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow", "bridge"])
def test_it_trains_resumes_bit_for_bit_and_ships(
    composed: Callable[..., DictConfig], name: str, speech: Path, tmp_path: Path, called: Call
) -> None:
    sizes = ["discriminators.melgan_msd.channels=2", "discriminators.melgan_msd.max_channels=4"]
    extra = sizes if name == "bridge" else []

    def run(folder: str, steps: int, *more: str) -> Path:
        typed = [
            *overrides_of(name), "data=folder", f"data.root={speech}", *SHORT, *extra, f"trainer.max_steps={steps}",
            "trainer.validate_every=2", "trainer.checkpoint_every=2", "adversarial.start_step=1", *more,
        ]  # fmt: skip
        cfg = composed(*typed)
        drop_unchosen(cfg)
        return train(cfg, tmp_path / folder, Provenance("bone_to_air", name, typed)).run_dir

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4, f"resume={tmp_path / 'parts'}")
    first, second = load_generator(whole / "bundle"), load_generator(parts / "bundle")
    assert isinstance(first, Bridge)
    first_steps = first.steps
    for (key, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    bundle = bundle_of(first)
    assert bundle is not None
    assert bundle.generator["path"]["_target_"].startswith("bcfusion.objectives.paths.")
    with (whole / "metrics.csv").open() as file:
        logged = {tag for row in csv.DictReader(file) for tag, value in row.items() if value}
    assert {"loss/prediction_mse"} <= logged if name == "flow" else {"loss/l1", "loss/adversarial"} <= logged
    sound = 0.1 * torch.randn(1, 1, 4000)
    with torch.inference_mode():
        before = first(sound)
        changed = in_steps(load_generator(whole), 3)(sound)
    assert (changed - before).abs().max() > 1e-5
    described: Any = bundle_of(in_steps(first, 3))
    assert described.generator["steps"] == 3

    GlobalHydra.instance().clear()  # the verb composes again

    def scored(output: str, *settings: str) -> str:
        place = tmp_path / output
        done = called("evaluate", str(whole), *settings, "metrics=[si_sdr]", "trainer.samples=0", f"output={place}")
        assert done.returncode == 0, done.stderr
        assert ("in 3 steps on the test files" in done.stdout) == (settings == ("steps=3",))
        return (place / "scores.csv").read_text()

    of_model = scored("of_model")
    assert scored("same", f"steps={first_steps}") == of_model
    assert scored("three", "steps=3") != of_model


def test_steps_of_a_network_without_any_are_refused() -> None:
    network = torch.nn.Identity()
    assert in_steps(network, None) is network
    with pytest.raises(ConfigError, match="--steps: Identity restores speech in one pass"):
        in_steps(network, 2)
