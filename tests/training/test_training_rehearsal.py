"""A rehearsal reads the corpus, trains a step, validates an utterance, and reports whatever fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import DictConfig

from bcfusion.training.pace import Steps, in_words, within_budget
from bcfusion.training.rehearsal import rehearse

Compose = Callable[..., DictConfig]


@pytest.mark.slow
def test_the_facts_of_a_run_that_works(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = tiny("adversarial.start_step=7", "budget.minutes=2", "trainer.max_steps=5")
    rehearsal = rehearse(cfg)
    assert rehearsal.problems == []
    facts = rehearsal.facts
    assert facts["train"].startswith("4 files, 2 speakers, 0.2 min, 16000 Hz")
    assert facts["valid"].startswith("2 files, 1 speaker, ")
    assert facts["test"].startswith("1 file, 1 speaker, ")
    assert facts["device"].startswith("cpu, 1 thread, one process")
    assert "before step 7, then" in facts["step"]
    assert "measured" in facts["step"]
    assert "crops of 0.128 s in the training process" in facts["step"]
    assert facts["validation"].endswith("for all of it, every 250 steps")
    assert facts["budget"].startswith("2 minutes: all 5 steps of trainer.max_steps with 1 validation; closing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_is_evaluated_as_it_is_has_no_step(tiny: Compose) -> None:
    rehearsal = rehearse(tiny("trainer.max_steps=0", discriminators=False))
    assert rehearsal.problems == []
    assert rehearsal.facts["step"] == "none: it is evaluated as it is"
    assert "budget" not in rehearsal.facts


@pytest.mark.slow
def test_all_phases_are_trained_with_accumulation_and_intervals(tiny: Compose) -> None:
    cfg = tiny("trainer.accumulate=3", "trainer.validate_every=3", "trainer.checkpoint_every=3")
    cfg.adversarial.merge_with({"start_step": 2, "ramp_steps": 5, "generator_interval": 2})
    rehearsal = rehearse(cfg)
    assert rehearsal.problems == []
    assert "before step 6, then" in rehearsal.facts["step"]


@pytest.mark.slow
def test_each_split_reports_its_own_problem(tiny: Compose, tmp_path: Path) -> None:
    (tmp_path / "valid").mkdir()
    problems = rehearse(tiny(f"data.root={tmp_path}")).problems
    assert len(problems) == 2
    assert problems[0].startswith(f"no training audio in {tmp_path}/train")
    assert "has no utterances for the split 'valid'" in problems[1]


def test_with_other_problems_the_corpus_is_read_all_the_same(tiny: Compose, tmp_path: Path) -> None:
    rehearsal = rehearse(tiny(f"data.root={tmp_path}"), ["generator: something"])
    assert [problem.split(":")[0] for problem in rehearsal.problems] == [f"no training audio in {tmp_path}/train"]
    assert rehearse(tiny(f"data.root={tmp_path}"), ["data.corpus: something"]).problems == []  # it cannot be built
    assert rehearse(tiny(), ["generator: something"]).problems == []


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_a_problem(tiny: Compose) -> None:
    [problem] = rehearse(tiny("losses.l1.weight=1e39", "balancer=fixed", discriminators=False)).problems
    assert problem == "the training step: the gradient of the generator is not finite"


@pytest.mark.slow
def test_a_bug_in_a_loss_is_reported_with_its_place(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_broken_loss.py").write_text(
        "from torch import nn\n\n\nclass Broken(nn.Module):\n"
        "    def forward(self, estimate, target):\n        return estimate.nonsense\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    [problem] = rehearse(tiny("+losses.own={_target_: my_broken_loss.Broken, weight: 1}")).problems
    assert problem.startswith("the training step: AttributeError: 'Tensor' object has no attribute 'nonsense'")
    assert "my_broken_loss.py, line 6" in problem


@pytest.mark.slow
def test_a_step_that_would_take_too_long_is_estimated(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcfusion.training.rehearsal.LONGEST_STEP_SECONDS", 1e-9)
    rehearsal = rehearse(tiny(discriminators=False))
    assert "estimated from one crop" in rehearsal.facts["step"]


@pytest.mark.slow
def test_files_of_a_lower_rate_are_warned_of(tiny: Compose, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / split / "anna").mkdir(parents=True)
        soundfile.write(tmp_path / split / "anna" / "one.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 8000), 8000)
    with caplog.at_level(logging.WARNING):
        rehearsal = rehearse(tiny(f"data.root={tmp_path}", discriminators=False))
    assert rehearsal.problems == []
    assert "sample_rate=16000: 1 of 1 train files have a lower sample rate, 8000 Hz" in caplog.text


def test_steps_before_and_after_the_discriminators_join() -> None:
    steps = Steps(early=1.0, late=4.0, joins=10)
    assert [steps.within(seconds, 0.0) for seconds in (-5, 0, 9.9, 10, 17.9, 18)] == [0, 0, 9, 10, 11, 12]
    assert Steps(early=0.0, late=4.0, joins=0).within(19.0, 1.0) == 3


def test_a_recipe_of_so_many_steps_is_told_how_long_it_takes(composed: Compose) -> None:
    settings = ("trainer.max_steps=100000", "trainer.validate_every=10000")
    steps = Steps(early=1.0, late=2.0, joins=40000)
    assert steps.taking(40000) == 40000.0
    assert steps.taking(100000) == 40000.0 + 120000.0
    recipe = composed("experiment=eben", "machine=gpu", *settings)
    assert within_budget(recipe, steps, validation=600.0, closing=1200.0) == (
        "none: all 100000 steps of trainer.max_steps with 10 validations take about 46.4 h; "
        "closing evaluation about 20 min"
    )
    bounded = composed("experiment=eben", "machine=gpu", "budget.minutes=60", *settings)
    assert within_budget(bounded, steps, validation=600.0, closing=1200.0).startswith("60 minutes: about 1700 steps")


def test_durations_have_two_digits_and_a_unit() -> None:
    assert in_words(3 * 3600) == "3.0 h"
    assert in_words(3 * 86400) == "3.0 days"
    assert [in_words(s) for s in (0.01234, 0.5, 9.87, 12.3, 119.6, 150)] == [
        *("0.012 s", "0.5 s", "9.9 s", "12 s", "120 s", "2 min"),
    ]
