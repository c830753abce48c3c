"""What is printed at the end of a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, open_dict
from test_training_module import module

from bcfusion.evaluation.scores import ItemScore, Scores
from bcfusion.run.layout import RunDir
from bcfusion.training.callbacks.progress import Progress
from bcfusion.training.closing_progress import ClosingProgress
from bcfusion.training.closing_report import below_input, ended_because, next_commands, patience_key

Compose = Callable[..., DictConfig]


def scores(enhanced: float, given: float = 0.8) -> Scores:
    rows = [ItemScore("a", system, {"stoi": value}) for system, value in (("input", given), ("enhanced", enhanced))]
    return Scores(rows, {"stoi": True})


def explained(composed: Compose, found: Scores, step: int, minutes: float = 1.0, start_step: int = 2000) -> list[str]:
    cfg = composed("selection=stoi", "trainer.accelerator=cpu")
    trained = module(schedule={"start_step": start_step})
    trained.step = step
    return list(below_input(found, cfg, trained, minutes, lambda seconds: round(3 * seconds)))


def test_scores_below_the_input_come_with_the_usual_length_and_the_discriminators(composed: Compose) -> None:
    lines = explained(composed, scores(0.6), step=180)
    assert lines == [
        "The output scores below the input: stoi 0.600 against 0.800.",
        "  The run was short: 180 steps in 1.0 minutes; usual are 9 minutes, about 1600 steps at this rate.",
        "  The discriminators have not joined: they do so at step 2000 (adversarial.start_step).",
    ]
    assert len(explained(composed, scores(0.6), step=3000, minutes=9.0)) == 1  # neither is the reason


def test_only_what_has_fallen_is_named(composed: Compose) -> None:
    values = {"input": {"pesq_wb": 2.2, "stoi": 0.86}, "enhanced": {"pesq_wb": 1.8, "stoi": 0.88}}
    found = Scores([ItemScore("a", system, of) for system, of in values.items()], {"pesq_wb": True, "stoi": True})
    cfg = composed("selection=pesq_stoi", "trainer.accelerator=cpu")
    trained = module()
    trained.step = 2000
    first, *_ = below_input(found, cfg, trained, 9.0, lambda seconds: round(3 * seconds))
    assert first == "The output scores below the input: pesq_wb 1.800 against 2.200."


@pytest.mark.parametrize(("enhanced", "step"), [(0.9, 180), (0.8, 180), (float("nan"), 180), (0.6, 0)])
def test_nothing_is_explained_without_a_loss_in_a_trained_run(composed: Compose, enhanced: float, step: int) -> None:
    assert explained(composed, scores(enhanced), step) == []


@pytest.mark.parametrize(
    ("overrides", "reason", "expected"),
    [
        (["budget.minutes=30"], "the time budget is used up", "budget.minutes=60"),
        (["trainer.accelerator=cpu"], "the time budget is used up", "budget.minutes=18"),
        (["trainer.max_steps=100"], "trainer.max_steps is reached", "trainer.max_steps=200"),
        (["callbacks=[early_stopping]"], "early stopping: ...", "callbacks.early_stopping.patience=20"),
        (
            ["trainer.max_steps=100", "callbacks=[early_stopping]"],
            "early stopping: ...",
            "trainer.max_steps=200 callbacks.early_stopping.patience=20",
        ),
        (["machine=gpu", "trainer.max_steps=500"], "a callback of the user", ""),  # no budget that could be raised
        ([], None, None),  # nothing was trained
    ],
)
def test_the_next_commands_can_be_pasted(
    composed: Compose, tmp_path: Path, overrides: list[str], reason: str | None, expected: str | None
) -> None:
    run = RunDir(tmp_path / "my runs" / "one")
    run.samples.mkdir(parents=True)
    (run.samples / "0-a.input.wav").touch()
    commands = next_commands(run, composed(*overrides), True, reason, step=100)
    words = {name: shlex.split(command) for name, command in commands.items()}
    assert words["listen"] == ["bcfusion", "listen", str(run.path)]
    assert words["enhance"] == ["bcfusion", "enhance", str(run.path), str(run.samples / "0-a.input.wav")]
    assert words["compare"] == ["bcfusion", "compare", str(run.path.parent)]
    assert words.get("continue") == (
        None if expected is None else ["bcfusion", "train", f"resume={run.path}", *expected.split()]
    )


def test_the_patience_of_early_stopping_is_found_whatever_its_entry_is_called(composed: Compose) -> None:
    cfg = composed("callbacks=[early_stopping]")
    with open_dict(cfg):
        cfg.callbacks = {"mine": {"_target_": cfg.callbacks.early_stopping._target_}}  # with the default patience
    assert patience_key(cfg) == "callbacks.mine.patience"
    commands = next_commands(RunDir(Path("it's a run")), cfg, False, "early stopping: ...", step=100)
    assert shlex.split(commands["continue"])[2:] == ['resume="it\'s a run"', "callbacks.mine.patience=20"]


def test_recordings_of_several_sensors_are_given_by_sensor(composed: Compose, tmp_path: Path) -> None:
    commands = next_commands(RunDir(tmp_path), composed("recipe=fusion"), False, None, step=0)
    assert commands["enhance"].endswith("--sensor body=FOLDER --sensor noisy=FOLDER")


def test_the_latest_reason_counts() -> None:
    def trainer(*reasons: str | None) -> Any:
        return SimpleNamespace(callbacks=[object(), *(SimpleNamespace(reason=reason) for reason in reasons)])

    assert ended_because(trainer("budget", "early stopping")) == "early stopping"
    assert ended_because(trainer("budget", None)) == "budget"
    assert ended_because(trainer()) is None


def test_a_long_validation_shows_its_progress_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcfusion.training.callbacks.progress.SECONDS_BETWEEN_LINES", -1.0)
    progress = Progress(None, None, None)  # type: ignore[arg-type]
    trained, trainer = module(), SimpleNamespace(is_global_zero=True, num_val_batches=[4])
    progress.on_validation_start(trainer, trained)  # type: ignore[arg-type]
    progress.on_validation_batch_end(trainer, trained, None, None, 2)  # type: ignore[arg-type]
    assert capsys.readouterr().err == "step 0 | validating: 3 of 4 files, 0:00 left\n"


def test_a_rate_is_shown_when_it_is_measured() -> None:
    clock = SimpleNamespace(elapsed=lambda: 5.0, seconds=540.0, max_steps=60)
    quality, step_log = SimpleNamespace(summary=lambda: ""), SimpleNamespace(latest={})
    progress = Progress(clock, step_log, quality)  # type: ignore[arg-type]
    assert progress.text(3) == "step 3 of 60 | 0:05 of 9:00"
    progress._rate = 1.5
    assert progress.text(3) == "step 3 of 60 | 0:05 of 9:00 | 1.50 steps/s"


def test_the_progress_has_count_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ClosingProgress(31, "test")
    assert capsys.readouterr().err == "closing evaluation of 31 test files ...\n"
    assert progress.text(12, seconds=24.0) == "closing evaluation: 12 of 31 files, 0:38 left"
    progress(1)
    assert capsys.readouterr().err == ""  # not before it is time
