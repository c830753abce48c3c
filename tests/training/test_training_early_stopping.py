"""Training ends when the selection's score no longer rises, after a resume and on several ranks too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from test_training_module import module

from bcfusion.configuration.check import verify
from bcfusion.errors import ConfigError
from bcfusion.run import checkpoint
from bcfusion.run.record import Provenance
from bcfusion.training.callbacks.early_stopping import EarlyStopping
from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.run import train

RISING = [0.1, 0.2, 0.3, 0.4]


class Scored(Quality):
    """Has the score of a validation without one."""

    score: float | None = None  # type: ignore[assignment]

    def __init__(self) -> None:
        pass


def validations(stopping: EarlyStopping, scores: list[float | None]) -> int | None:
    """Return the step of the validation that ended training, one step each; None: none did."""
    quality = Scored()
    trainer: Any = SimpleNamespace(callbacks=[quality, stopping], should_stop=False)
    trained = module()
    for step, score in enumerate(scores, 1):
        quality.score, trained.step = score, step
        stopping.on_validation_epoch_end(trainer, trained)
        if trainer.should_stop:
            return step
    return None


@pytest.mark.parametrize(
    ("settings", "scores", "expected"),
    [
        ({"patience": 2}, RISING, None),
        ({"patience": 2}, [0.1, 0.5, 0.4, 0.5, 0.6], 4),  # an equal score is no rise
        ({"patience": 2}, [0.1, 0.5, 0.4, 0.6, 0.5, 0.5], 6),  # a rise starts the count again
        ({"patience": 1, "min_change": 0.15}, RISING, 2),
        ({"patience": 2, "min_change": 0.15}, RISING, None),  # two small rises in a row are large enough
        ({"patience": 2}, [None, 0.1, None, None], 4),  # without a finite score
        ({"patience": 3}, [None, None, None], 3),
    ],
)
def test_training_ends_after_validations_without_a_rise(
    settings: dict[str, Any], scores: list[float | None], expected: int | None
) -> None:
    stopping = EarlyStopping(**settings)
    assert validations(stopping, scores) == expected
    assert (stopping.reason is None) == (expected is None)


def test_the_reason_says_how_long_and_since_when() -> None:
    stopping = EarlyStopping(patience=2)
    validations(stopping, [0.25, 0.5, 0.1, 0.1])
    assert stopping.reason is not None
    assert "no rise in 2 validations (the last, to 0.5000, at step 2)" in stopping.reason


def test_the_count_goes_on_after_a_resume() -> None:
    first, second = EarlyStopping(patience=3), EarlyStopping(patience=3)
    assert validations(first, [0.5, 0.4, 0.4]) is None
    second.load_state_dict(first.state_dict())
    assert validations(second, [0.45, 0.6]) == 1


def test_impossible_settings_are_reported_with_their_path(composed: Callable[..., DictConfig]) -> None:
    with pytest.raises(ConfigError, match=r"patience=0.*\n.*min_change=-1"):
        EarlyStopping(patience=0, min_change=-1)
    cfg = composed("experiment=seanet", "callbacks=[early_stopping]", "callbacks.early_stopping.patience=0")
    assert [p for p in verify(cfg) if p.startswith("callbacks.early_stopping: ")] == verify(cfg) != []
    assert composed("experiment=seanet").callbacks == {}


@pytest.mark.parametrize("choice", ["callbacks=[early_stopping]", "callbacks=early_stopping"])
def test_one_callback_can_be_chosen_with_or_without_brackets(composed: Callable[..., DictConfig], choice: str) -> None:
    cfg = composed("experiment=seanet", choice, "callbacks.early_stopping.patience=3")
    assert {name: node.patience for name, node in cfg.callbacks.items()} == {"early_stopping": 3}


@pytest.mark.slow
def test_a_run_stops_early_closes_and_is_finished_until_it_has_more_patience(
    tiny: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        *("trainer.validate_every=1", "trainer.max_steps=50", "callbacks=[early_stopping]"),
        *("callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_change=10"),
    ]
    provenance = Provenance(recipe="bone_to_air", experiment="seanet")
    result = train(tiny(*settings), tmp_path / "run", provenance)
    assert result.step == 3
    assert result.closing is not None
    printed = capsys.readouterr().out
    assert "\nended:         at step 3, early stopping: " in printed
    assert printed.splitlines()[-1].startswith("continue:      bcfusion train resume=")  # commands come last
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert checkpoint.read(last)["callbacks"]["EarlyStopping"]["waited"] == 2
    weights = checkpoint.read(last)["generator"]

    resumed = [*settings, f"resume={tmp_path / 'run'}"]
    finished = r"is finished: step 3, early stopping: .*\. Raise callbacks\.early_stopping\.patience to continue"
    with pytest.raises(ConfigError, match=finished):
        train(tiny(*resumed), tmp_path / "run", provenance)
    shutil.rmtree(tmp_path / "run" / "bundle")  # as if it had been stopped in its closing evaluation
    again = train(tiny(*resumed), tmp_path / "run", provenance)
    assert (again.step, again.closing is not None) == (3, True)
    assert "at step 3, early stopping: " in capsys.readouterr().out
    assert all(torch.equal(value, weights[name]) for name, value in checkpoint.read(last)["generator"].items())
    more = [*resumed, "callbacks.early_stopping.patience=4"]
    assert train(tiny(*more), tmp_path / "run", provenance).step == 5
