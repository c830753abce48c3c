"""A network that diverges ends the run; scores that are not finite select nothing."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from bcfusion.run.record import Provenance
from bcfusion.training.guard import LARGEST_PEAK, Diverged, NonFiniteSteps, output_problem
from bcfusion.training.run import Result, train
from bcfusion.training.selection import Selection

Compose = Callable[..., DictConfig]
PROVENANCE = Provenance(recipe="bone_to_air", experiment="seanet")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([], None),
        ([0.0, -1.0, 30.0], None),  # 30 dB above full scale is bad speech, but a sound
        ([0.0, math.nan, 1.0], "is not finite"),
        ([-math.inf, 0.0], "is not finite"),
        ([0.0, -3e5], "reaches 3e+05 times full scale"),
    ],
)
def test_outputs_that_are_no_sound_are_found(values: list[float], problem: str | None) -> None:
    assert output_problem(np.array(values, dtype=np.float32)) == problem
    assert output_problem(np.array([LARGEST_PEAK])) is None


def test_messages_of_divergence_say_when_and_what_to_do() -> None:
    late = str(Diverged(750, "b/7", "is not finite", best_step=500))
    assert late.startswith("diverged at step 750: the output for b/7 is not finite\nLower optimizer.lr")
    assert "the checkpoint of step 500, the best so far (init_from=RUN)" in late
    assert "init_from=RUN" not in str(Diverged(750, "b/7", "is not finite"))
    assert "before any training" in str(Diverged(0, "b/7", "is not finite"))
    assert str(NonFiniteSteps(10, [(12, ["a/1"])])).startswith(
        "diverged at step 12: 10 steps in a row had a non-finite"
    )


def test_a_metric_value_that_is_not_finite_makes_a_validation_unusable() -> None:
    criteria = {name: {"weight": 1, "worst": 0.0, "best": 1.0} for name in ("stoi", "estoi")}
    assert Selection(criteria).unusable({"stoi": 0.5, "estoi": 0.4}) == []
    assert Selection(criteria).unusable({"stoi": 0.5, "estoi": math.nan}) == ["estoi"]
    assert Selection(criteria).unusable({"lsd": 1.0}) == ["stoi", "estoi"]


# ---------------------------------------------------------------- whole runs


def run(cfg: DictConfig, path: Path) -> Result:
    return train(cfg, path, PROVENANCE)


class Loud(nn.Module):
    """Gives a peak of ``level``, with a parameter to train."""

    provides: tuple[str, ...] = ()
    in_channels, hop, causal, delay = 1, 1, True, 0

    def __init__(self, sample_rate: int = 16000, level: float = 1.0) -> None:
        super().__init__()
        self.sample_rate, self.level = sample_rate, level
        self.conv = nn.Conv1d(1, 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv(inputs) * 0.001 + self.level


def loud(cfg: DictConfig, level: float) -> DictConfig:
    with open_dict(cfg):
        cfg.generator = {"_target_": "test_training_divergence.Loud", "level": level}
    return cfg


@pytest.mark.slow
def test_a_learning_rate_far_too_high_ends_in_diverged_without_warnings(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny("optimizer.lr=1000", "trainer.max_steps=40", "trainer.validate_every=5", discriminators=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=RuntimeWarning)  # those of NumPy
        with pytest.raises((Diverged, NonFiniteSteps), match=r"^diverged at step \d+: .*\nLower optimizer\.lr"):
            run(cfg, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.wav"))
    assert not list((tmp_path / "run" / "checkpoints").glob("best*"))


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "level", "ends"), [(2, 1e6, True), (0, 1e6, False), (0, math.nan, True)])
def test_a_finite_but_absurd_output_is_seen_in_a_validation(
    tiny: Compose, tmp_path: Path, steps: int, level: float, ends: bool
) -> None:
    cfg = loud(tiny(f"trainer.max_steps={steps}", "trainer.validate_every=1", discriminators=False), level)
    if not ends:  # what a network gives without training may be anything finite
        assert run(cfg, tmp_path / "run").step == 0
        return
    with pytest.raises(Diverged, match=r"^(diverged )?at step [01]"):
        run(cfg, tmp_path / "run")


@pytest.fixture
def silent_valid(speech: Path, tmp_path: Path) -> Path:
    """The corpus, with silence as its validation split."""
    corpus = shutil.copytree(speech, tmp_path / "silent")
    for file in (corpus / "valid").rglob("*.*"):
        if file.is_file():
            soundfile.write(file, np.zeros(16000), 16000)
    return corpus


@pytest.mark.slow
def test_a_silent_validation_split_selects_nothing_and_the_last_checkpoint_is_kept(
    tiny: Compose, silent_valid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["trainer.validate_every=1", f"data.root={silent_valid}", "callbacks=[early_stopping]"]
    result = run(tiny("trainer.max_steps=2", *settings, discriminators=False), tmp_path / "run")
    captured = capsys.readouterr()
    assert "step 1 | warning: no stoi on any of 1 validation files (" in captured.err
    assert "this step cannot be the best" in captured.err
    assert f"no validation had a score by which a checkpoint could be selected; {tmp_path / 'run'}" in captured.err
    assert "Last checkpoint (step 2) on all test files" in captured.out
    assert result.best == {}
    assert result.score == -1.0
    assert result.closing is not None
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]
    assert (tmp_path / "run" / "bundle").is_dir()


@pytest.mark.slow
def test_a_generator_that_is_evaluated_as_it_is_needs_no_selection(
    tiny: Compose, silent_valid: Path, tmp_path: Path
) -> None:
    result = run(tiny("trainer.max_steps=0", f"data.root={silent_valid}", discriminators=False), tmp_path / "run")
    assert result.closing is not None
    assert result.step == 0
