"""Made-up run directories for tests, written with the same code as real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.report.table import markdown_table
from bcfusion.training.loggers import CsvLogger

DIRECTIONS: dict[str, bool | None] = {"stoi": True, "lsd": False, "si_sdr_lag_ms": None}


def utterances(stoi: float, count: int = 20, spread: float = 0.1, seed: int = 0, lsd: float = 1.0) -> list[list[float]]:
    """STOI, LSD and lag of each utterance around the given means; the same ones are hard for all systems."""
    hardness = np.random.default_rng(0).uniform(-spread, spread, count)
    own = np.random.default_rng(seed).normal(0, 0.002, count)
    return [[stoi + h + o, lsd - h, 0.25] for h, o in zip(hardness - hardness.mean(), own - own.mean(), strict=True)]


def write_scores(folder: Path, systems: Mapping[str, Sequence[Sequence[float]]], split: str = "test") -> None:
    """Write the table of a closing evaluation."""
    rows = [
        ItemScore(f"{split}/{number}", system, dict(zip(DIRECTIONS, values, strict=True)))
        for system, of in systems.items()
        for number, values in enumerate(of)
    ]
    scores = Scores(rows, DIRECTIONS)
    scores.write_csv(folder / "quality" / f"{split}.csv")
    table = markdown_table({system: scores.mean(system) for system in scores.systems}, scores.higher_is_better)
    (folder / "quality" / f"{split}.md").write_text(table + "\n")


def made_up_run(
    folder: Path,
    *overrides: str,
    experiment: str = "seanet",
    recipe: str = "bone_to_air",
    choices: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    valid_stoi: Sequence[float] = (0.7, 0.8),
    closing: Sequence[Sequence[float]] | None = None,
    input_stoi: float = 0.6,
    finished: bool = True,
) -> Path:
    """Write a run that validated every 100 steps with the given STOI and ended with the given closing scores."""
    folder.mkdir(parents=True)
    typed = [f"experiment={experiment}", *overrides]
    config: dict[str, Any] = {
        "optimizer": {"lr": 1e-3, "generator": {"lr": 1e-3}},
        "generator": {"channels": 8},
        "losses": {"l1": {"weight": 1.0}},
        "metrics": {"stoi": {"extended": False}},
        "selection": {"stoi": {"weight": 1, "worst": 0.0, "best": 1.0}},
        "seed": 0,
        **(settings or {}),
    }
    record = {
        "recipe": recipe,
        "experiment": experiment,
        "choices": {"generator": experiment, "data": "demo", **(choices or {})},
        "config_dir": None,
        "sessions": [{"started": "2026-01-01T10:00:00+0000", "overrides": typed}],
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(typed))
    (folder / ".hydra").mkdir()
    composed = {**config, "optimizer": {"lr": 1e-3, "generator": {"lr": "${optimizer.lr}"}}}
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(composed))
    logger = CsvLogger(folder)
    best = -1.0
    for number, stoi in enumerate(valid_stoi, 1):
        logger.log_metrics({"loss/l1": 1.0 / number, "rate/steps_per_second": 2.0 * number}, step=100 * number - 50)
        values = {"valid/stoi": stoi, "valid/selection": stoi, "valid_input/stoi": input_stoi}
        best = max(best, stoi)
        logger.log_metrics({**values, "best/stoi": best, "best/selection": best}, step=100 * number)
    if finished:
        (folder / "bundle").mkdir()
        bundle = {"sample_rate": 16000, "delay": 320, "hop": 256}
        (folder / "bundle" / "config.yaml").write_text(yaml.safe_dump(bundle))
        weights = {"conv.weight": np.zeros((4, 5), np.float32), "norm.running_mean": np.zeros(7, np.float32)}
        save_file(weights, folder / "bundle" / "generator.safetensors")
        write_scores(
            folder, {"input": utterances(input_stoi), "enhanced": closing or utterances(max(valid_stoi), seed=1)}
        )
    return folder
