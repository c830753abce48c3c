"""A generator without anything to train writes the run directory of any other."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, TINY_DISCRIMINATOR
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bcfusion
from bcfusion.commands import check
from bcfusion.configuration.compose import drop_unchosen
from bcfusion.errors import ConfigError
from bcfusion.run.record import Provenance
from bcfusion.training.run import Result, train

pytestmark = pytest.mark.slow

Compose = Callable[..., DictConfig]
SETTINGS = [setting for setting in TINY if not setting.startswith("generator.")]


@pytest.fixture
def untrained(composed: Compose, speech: Path) -> Compose:
    def build(*overrides: str) -> DictConfig:
        cfg = composed(*overrides, "data=folder", f"data.root={speech}", *SETTINGS)
        drop_unchosen(cfg)
        return cfg

    return build


def run(cfg: DictConfig, run_dir: Path) -> Result:
    return train(cfg, run_dir, Provenance(recipe="bone_to_air", experiment="identity"))


def test_the_identity_is_validated_tested_and_bundled_without_a_step(
    untrained: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(untrained("experiment=identity"), tmp_path / "run")
    assert capsys.readouterr().out.count("nothing to train") == 1
    assert result.step == 0
    for name in ("config.yaml", "run.json", "checkpoints/best.ckpt", "bundle/config.yaml", "quality/test.md"):
        assert (result.run_dir / name).stat().st_size > 0, name
    assert result.closing is not None
    scores = result.closing.scores
    assert scores.mean("enhanced") == scores.mean("input")
    events = EventAccumulator(str(result.run_dir)).Reload()
    assert [event.step for event in events.Scalars("valid/stoi")] == [0]
    with (result.run_dir / "metrics.csv").open() as file:
        [row] = csv.DictReader(file)
    assert not [tag for tag in row if tag.startswith(("loss/", "lr/", "gradient_norm/"))]
    signal = 0.1 * torch.randn(1, 1, 3000)
    assert torch.equal(bcfusion.load_generator(result.run_dir)(signal), signal)


def test_it_takes_the_losses_and_discriminators_of_another_experiment_and_leaves_them_idle(
    untrained: Compose, tmp_path: Path
) -> None:
    settings = ["experiment=seanet", "generator=identity", *TINY_DISCRIMINATOR]
    result = run(untrained(*settings, "trainer.max_steps=5"), tmp_path / "run")
    assert result.step == 0
    assert result.closing is not None


def test_transposition_changes_the_input_and_its_bundle_repeats_it(untrained: Compose, tmp_path: Path) -> None:
    result = run(untrained("experiment=transposition", "generator.method=translation"), tmp_path / "run")
    assert result.closing is not None
    scores = result.closing.scores
    assert scores.mean("enhanced")["si_sdr"] != scores.mean("input")["si_sdr"]
    signal = 0.1 * torch.randn(1, 1, 3000)
    restored = bcfusion.load_generator(result.run_dir / "bundle")
    best = bcfusion.load_generator(result.run_dir / "checkpoints" / "best.ckpt")
    assert torch.equal(restored(signal), best(signal))
    assert (restored(signal) - signal).std() > 0.005


def test_there_is_nothing_to_resume(untrained: Compose, tmp_path: Path) -> None:
    run(untrained("experiment=identity"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"holds no checkpoints/last\.ckpt"):
        run(untrained("experiment=identity", f"resume={tmp_path / 'run'}"), tmp_path / "run")


def test_check_shows_a_network_without_parameters(untrained: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    check.task(untrained("experiment=identity"))
    rows = capsys.readouterr().out
    assert "0.000 M" in rows
    assert "past 0 samples (0.0 ms), future 0 samples (0.0 ms)" in rows


def test_a_network_that_could_learn_is_evaluated_as_it_is_without_steps(
    tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = bcfusion.load_generator(run(tiny("trainer.max_steps=1"), tmp_path / "start").run_dir)
    cfg = tiny("trainer.max_steps=0", f"init_from={tmp_path / 'start'}")
    drop_unchosen(cfg)
    result = run(cfg, tmp_path / "run")
    assert "trainer.max_steps=0: no steps" in capsys.readouterr().out
    assert result.step == 0
    signal = 0.1 * torch.randn(1, 1, 3000)
    with torch.no_grad():
        torch.testing.assert_close(bcfusion.load_generator(result.run_dir)(signal), start(signal))
