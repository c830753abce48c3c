"""A run written by an earlier version, before modules moved: everything that reads runs still reads it.

``old_run`` comes from commit af20d1e, without sounds, pictures and TensorBoard events. It was trained on the demo
corpus, and its overrides name a class at a path that has moved since. ``old_run_output.npy`` is what that version's
``load_generator`` gave for ``SIGNAL``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig

from bcfusion import load_generator
from bcfusion.commands.shared.recorded import recorded_overrides
from bcfusion.configuration.check import verify_or_raise
from bcfusion.configuration.compose import build
from bcfusion.data.loading.augmentation import Augmentation
from bcfusion.report.comparison.runs import find_runs
from bcfusion.run import checkpoint
from bcfusion.run.bundle import bundle_of

OLD = Path(__file__).parent / "old_run"
SIGNAL = 0.1 * torch.sin(torch.arange(400.0) ** 2 / 500)[None, None]
OLD_TARGET = "bcfusion.data.augmentation.Augmentation"


@pytest.mark.parametrize("part", ["", "bundle", "checkpoints/best.ckpt"])
def test_its_generator_computes_what_it_did(part: str) -> None:
    generator = load_generator(OLD / part)
    with torch.inference_mode():
        output = generator(SIGNAL)
    torch.testing.assert_close(output[0, 0], torch.from_numpy(np.load(f"{OLD}_output.npy")), rtol=0, atol=1e-6)
    bundle = bundle_of(generator)
    assert bundle is not None
    assert (bundle.sensors, bundle.training["step"]) == (["body"], 4)


def test_its_configuration_composes_and_builds(composed: Callable[..., DictConfig]) -> None:
    overrides = recorded_overrides(OLD)
    assert f"data.augmentation._target_={OLD_TARGET}" in overrides
    cfg = composed(*overrides)
    verify_or_raise(cfg)
    assert isinstance(build(cfg.data.augmentation), Augmentation)
    recorded = yaml.safe_load((OLD / "config.yaml").read_text())
    assert recorded["data"]["augmentation"]["_target_"] == OLD_TARGET
    assert isinstance(build(DictConfig(recorded["data"]["augmentation"])), Augmentation)


@pytest.mark.parametrize("part", ["", "bundle", "checkpoints/best.ckpt", "checkpoints/last.ckpt"])
def test_a_new_run_begins_from_its_weights(part: str, composed: Callable[..., DictConfig]) -> None:
    state, discriminators = checkpoint.weights_of(OLD / part)
    generator = build(composed(*recorded_overrides(OLD)).generator)
    checkpoint.load_weights(generator, state, OLD)
    assert (discriminators is None) == (part == "bundle")


def test_comparisons_read_it() -> None:
    (run,) = find_runs([OLD], print)
    assert run.state == "finished"
    assert run.best["stoi"] == pytest.approx(0.687, abs=5e-4)
    assert list(run.closing_scores["enhanced"].metrics["stoi"].values()) == [0.841521]


@pytest.mark.slow
def test_it_resumes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    done = subprocess.run(
        [sys.executable, "-m", "bcfusion", "train", f"resume={run}", "trainer.max_steps=6"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "BCFUSION_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert checkpoint.read(run / "checkpoints" / "last.ckpt")["step"] == 6
    steps = [line.partition(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert {"2", "4", "5", "6"} <= set(steps)
