"""The published recipes: docs/published.md and conf/experiment say the same, and a CPU's settings stay affordable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from bcfusion.configuration.compose import register_resolvers
from bcfusion.configuration.paths import conf_dir, group_members

PAGE = Path(__file__).parents[2] / "docs" / "published.md"
EXPERIMENTS = conf_dir() / "experiment"
CPU = EXPERIMENTS / "cpu"


@dataclass(frozen=True)
class Recipe:
    batch: int
    crop: float  # s
    optimiser: str
    rate: float
    betas: list[float]
    steps: int


def published() -> dict[str, Recipe]:
    """Return the rows of the page's tables of experiments, by experiment."""
    recipes = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        names = re.findall(r"`(\w+)`", cells[0])
        if not line.startswith("| `") or len(cells) < 7:
            continue
        batch, crop = re.fullmatch(r"(\d+) x ([\d.]+) s", cells[2]).groups()
        pattern = r"(AdamW?) ([\de.-]+), betas ([\d.]+) and ([\d.]+)"
        optimiser, rate, *betas = re.fullmatch(pattern, cells[3]).groups()
        steps = int(cells[6].replace(" ", ""))
        row = Recipe(int(batch), float(crop), optimiser, float(rate), [float(beta) for beta in betas], steps)
        recipes.update(dict.fromkeys(names, row))
    return recipes


def ours() -> set[str]:
    """Return the experiments that the page calls ours."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Ours\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`(\w+)`", section)) & set(group_members("experiment"))


PUBLISHED = published()


@cache  # a composition takes a tenth of a second
def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", list(overrides))


def test_the_page_has_every_experiment_once() -> None:
    assert set(PUBLISHED) | ours() == set(group_members("experiment"))
    assert not set(PUBLISHED) & ours()


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_experiment_trains_as_the_page_says(name: str) -> None:
    cfg, row = composed(f"experiment={name}"), PUBLISHED[name]
    assert (cfg.data.batch_size, cfg.data.segment_seconds) == (row.batch, row.crop)
    assert cfg.trainer.max_steps == row.steps
    networks = ["generator", "discriminator"] if cfg.discriminators else ["generator"]
    for network in networks:
        optimiser = instantiate(cfg.optimizer[network])(nn.Linear(1, 1).parameters())
        assert type(optimiser).__name__ == row.optimiser
        assert optimiser.defaults["lr"] == row.rate
        assert list(optimiser.defaults["betas"]) == row.betas


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_experiment_names_its_sources_and_is_validated_a_few_hundred_times_at_most(name: str) -> None:
    cfg = composed(f"experiment={name}")
    assert cfg.trainer.max_steps / 1000 <= cfg.trainer.validate_every <= cfg.trainer.max_steps / 10
    if cfg.scheduler.generator is not None and "every" in cfg.scheduler.generator:
        assert cfg.scheduler.every < cfg.trainer.max_steps
    assert cfg.adversarial.start_step < cfg.trainer.max_steps
    header = [line for line in (EXPERIMENTS / f"{name}.yaml").read_text().splitlines() if line.startswith("# ")]
    inherits = re.search(r"^  - \w+$", (EXPERIMENTS / f"{name}.yaml").read_text(), re.MULTILINE)
    assert inherits or re.search(r"\w+/[\w-]+|experiment=\w+|paper, section", " ".join(header[2:]))


@pytest.mark.parametrize("path", sorted(CPU.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_cpu_gets_another_size_of_the_same_network(path: Path) -> None:
    name = path.stem
    here, there = composed(f"experiment={name}"), composed(f"experiment=cpu/{name}")
    assert here.generator == there.generator
    assert there.machine == "cpu"
    assert there.trainer.max_steps is None, "the published number takes days"
    crops = [cfg.data.batch_size * cfg.data.segment_seconds for cfg in (here, there)]
    assert crops[1] <= 10, "seconds of speech in a step"
    assert crops[1] <= crops[0]


@pytest.mark.parametrize("path", sorted(CPU.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_file_for_a_cpu_opens_with_its_command_and_builds_on_the_experiment(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    command = lines[1].removesuffix(" recipe=fusion").removesuffix(" recipe=bandwidth_extension")
    assert command == f"# bcfusion train experiment={path.stem} machine=cpu"
    assert lines[2].startswith("# What a CPU needs")
    base = next(line for line in lines if line.startswith("  - "))
    assert re.fullmatch(r"  - /experiment/(cpu/)?\w+", base)
    assert (EXPERIMENTS / f"{path.stem}.yaml").is_file()
