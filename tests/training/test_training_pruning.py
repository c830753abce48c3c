"""A search ends a run that is not promising, and leaves its files in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from bcfusion.run.record import Provenance
from bcfusion.training.callbacks.pruning import RunPruned
from bcfusion.training.run import train

PROVENANCE = Provenance(recipe="bone_to_air", experiment="seanet")


@pytest.mark.slow
def test_a_pruned_run_ends_at_its_validation_with_all_files_written(
    tiny: Callable[..., DictConfig], tmp_path: Path
) -> None:
    asked: list[tuple[int, float]] = []

    def prune(step: int, score: float) -> bool:
        asked.append((step, score))
        return step >= 4

    cfg = tiny("trainer.max_steps=8", "trainer.validate_every=2", discriminators=False)
    with pytest.raises(RunPruned) as pruned:
        train(cfg, tmp_path, PROVENANCE, prune=prune)
    assert [step for step, _ in asked] == [2, 4]
    assert pruned.value.step == 4
    assert pruned.value.score == max(score for _, score in asked)
    assert (tmp_path / "quality" / "valid-0000004.csv").is_file()
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["step"] == 4
    assert not (tmp_path / "bundle").exists()  # no closing evaluation either
