"""Every conf/adversarial/*.yaml, shipped now or added later, defines the whole game: its loss and its schedule."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from bcfusion.contracts import AdversarialLoss, Judgement

FILES = sorted((Path(__file__).parents[2] / "conf" / "adversarial").glob("*.yaml"))
SCHEDULE = (
    "weight",
    "start_step",
    "head_start",
    "ramp_steps",
    "warm_up_losses",
    "interval",
    "generator_interval",
    "order",
    "shared_passes",
    "speech_level",
)


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def load(path: Path) -> DictConfig:
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def logits_at(value: float) -> torch.Tensor:
    return torch.full((2, 1, 5), value, requires_grad=True)


def test_there_are_both_games_and_both_forms_of_the_hinge() -> None:
    assert {"hinge", "hinge_clipped", "least_squares"} <= {path.stem for path in FILES}


def test_file_opens_with_its_command_and_explains_every_key(path: Path) -> None:
    first, *lines = path.read_text().splitlines()
    assert first == f"# bcfusion train adversarial={path.stem}"
    silent = [line for line in lines if line.strip() and "#" not in line]
    assert not silent, "keys without a comment"


def test_all_files_have_the_same_keys_so_that_any_override_works_with_any_game(path: Path) -> None:
    assert set(load(path)) == {*SCHEDULE, "loss"}


def test_file_shows_every_setting_of_the_loss(path: Path) -> None:
    node = load(path).loss
    assert set(node) - {"_target_"} == set(inspect.signature(get_class(node["_target_"])).parameters)


def test_the_loss_separates_the_sides_at_its_boundary(path: Path) -> None:
    game = instantiate(load(path).loss)
    assert isinstance(game, AdversarialLoss)
    target, estimate = logits_at(game.boundary), logits_at(game.boundary)
    game.discriminator([Judgement(target, [])], [Judgement(estimate, [])]).backward()
    assert target.grad is not None
    assert estimate.grad is not None
    assert (target.grad < 0).all(), "descent raises logits of the target"
    assert (estimate.grad > 0).all(), "and lowers those of the estimate"
    estimate.grad = None
    game.generator([Judgement(estimate, [])]).backward()
    assert estimate.grad is not None
    assert (estimate.grad < 0).all(), "the generator raises them"


def test_the_clipped_hinge_differs_from_the_hinge_only_in_the_generators_form() -> None:
    plain, clipped = ({p.stem: load(p) for p in FILES}[name] for name in ("hinge", "hinge_clipped"))
    assert plain.loss.generator_form == "plain"
    assert clipped.loss.generator_form == "clipped"
    clipped.loss.generator_form = "plain"
    assert plain == clipped
