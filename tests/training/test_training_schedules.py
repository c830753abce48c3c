"""Learning rates against their closed forms, past the end of a schedule too; the length of a schedule in a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig
from test_training_module import Loader, batches, module

from bcfusion.errors import ConfigError
from bcfusion.run import checkpoint
from bcfusion.run.record import Provenance
from bcfusion.training.adversary import Schedule
from bcfusion.training.callbacks.clock import Clock
from bcfusion.training.callbacks.quality import Quality
from bcfusion.training.callbacks.schedule_length import ScheduleLength
from bcfusion.training.module import SpeechModule
from bcfusion.training.optimization import NETWORKS
from bcfusion.training.run import train as train_run
from bcfusion.training.schedules import CosineDecay, Plateau, Staircase

SCHEDULERS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "scheduler").glob("*.yaml"))
RATE, LOWEST, STEPS = 1e-3, 1e-6, 10


def optimizer(rate: float = RATE) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(make: Callable[[torch.optim.Optimizer], Any] | None, count: int) -> list[float]:
    """Return the rate before each of ``count`` steps."""
    stepped = optimizer()
    scheduler = None if make is None else make(stepped)
    found = []
    for _ in range(count):
        found.append(float(stepped.param_groups[0]["lr"]))
        stepped.step()
        if scheduler is not None:
            scheduler.step()
    return found


def cosine(step: int, steps: int = STEPS) -> float:
    return LOWEST + (RATE - LOWEST) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


CLOSED: dict[str, Callable[[int], float]] = {
    "constant": lambda step: RATE,
    "cosine": cosine,
    "exponential": lambda step: RATE * 0.9**step,
    "staircase": lambda step: RATE * 0.9 ** (step // 7),
    "plateau": lambda step: RATE,  # without validations
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_shipped_schedule_follows_its_closed_form_and_never_rises(
    composed: Callable[..., DictConfig], name: str
) -> None:
    settings = {
        "cosine": [f"scheduler.steps={STEPS}"],
        "exponential": ["scheduler.gamma=0.9"],
        "staircase": ["scheduler.decay=0.9", "scheduler.every=7"],
    }.get(name, [])
    cfg = composed(f"scheduler={name}", *settings).scheduler
    for network in NETWORKS:
        found = rates(cfg[network] and instantiate(cfg[network]), 4 * STEPS)
        assert found == pytest.approx([CLOSED[name](step) for step in range(4 * STEPS)], rel=1e-9)
        assert found == sorted(found, reverse=True)


def test_a_cosine_holds_the_lowest_rate_past_its_end() -> None:
    found = rates(partial(CosineDecay, steps=STEPS, lowest=LOWEST), 3 * STEPS)
    assert found[STEPS // 2] == pytest.approx((RATE + LOWEST) / 2)
    assert found[STEPS:] == pytest.approx([LOWEST] * (2 * STEPS))


def test_a_cosine_falls_after_its_rise_and_holds_without_a_length() -> None:
    rise = [RATE * x for x in (0.25, 0.5, 0.75, 1)]
    found = rates(partial(CosineDecay, steps=12, lowest=LOWEST, warm_up=4), 16)
    fall = [LOWEST + (RATE - LOWEST) * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert found == pytest.approx([*rise, *fall, *[LOWEST] * 4])
    assert rates(partial(CosineDecay, warm_up=4), 9) == pytest.approx([*rise, *[RATE] * 5])
    short = rates(partial(CosineDecay, steps=2, warm_up=4), 6)  # a run that ends while the rate rises
    assert short == pytest.approx([*rise, RATE, 0])


def test_a_staircase_rises_to_its_first_stair() -> None:
    found = rates(partial(Staircase, every=6, decay=0.5, warm_up=4), 13)
    assert found == pytest.approx([RATE * x for x in (0.25, 0.5, 0.75, 1, 1, 1, *[0.5] * 6, 0.25)])


def test_a_plateau_halves_the_rate_at_the_validation_after_those_it_tolerates() -> None:
    scores = [0.5, 0.6, 0.6, 0.59, None, 0.55, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    stepped = optimizer()
    scheduler = Plateau(stepped, patience=2)
    found = []
    for score in scores:
        scheduler.validated(score)
        stepped.step()
        scheduler.step()
        found.append(stepped.param_groups[0]["lr"] / RATE)
    # 0.6, 0.59 and 0.55 are not better than the first 0.6; None does not count; 0.7 is, and the next six are not
    assert found == pytest.approx([1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125])


def test_a_plateau_holds_its_lowest_rate_and_continues_from_its_state() -> None:
    first, second = optimizer(), optimizer()
    scheduler = Plateau(first, patience=0, factor=0.1, lowest=LOWEST)
    for score in (0.5, 0.5):
        scheduler.validated(score)
    resumed = Plateau(second, patience=0, factor=0.1, lowest=LOWEST)
    resumed.load_state_dict(scheduler.state_dict())
    for stepped, schedule in ((first, scheduler), (second, resumed)):
        schedule.validated(0.4)
        stepped.step()
        schedule.step()
        assert stepped.param_groups[0]["lr"] == pytest.approx(RATE / 100)
        for _ in range(5):
            schedule.validated(0.4)
        stepped.step()
        schedule.step()
        assert stepped.param_groups[0]["lr"] == pytest.approx(LOWEST)


@pytest.mark.slow
def test_validations_of_a_run_lower_the_rate_and_a_resumed_run_goes_on(
    tiny: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quality, "score", 0.5)  # no validation is better than the first
    plateau = ("scheduler=plateau", "scheduler.patience=0", "trainer.validate_every=1", "optimizer.lr=1e-3")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    provenance = Provenance(recipe="bone_to_air", experiment="seanet")
    for steps, scale in ((2, 0.5), (4, 0.125)):
        resume = [] if steps == 2 else [f"resume={tmp_path / 'run'}"]
        cfg = tiny(*plateau, *resume, f"trainer.max_steps={steps}", discriminators=False)
        train_run(cfg, tmp_path / "run", provenance)
        state = checkpoint.read(last)["state"]["schedulers"]["generator"]
        assert (state["scale"], state["best"]) == (scale, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Plateau, factor=1.0), "factor=1.0"),
        (partial(Plateau, patience=-1), "patience"),
        (partial(Staircase, every=0, decay=0.5), "every"),
        (partial(Staircase, every=1, decay=0.0), "decay"),
    ],
)
def test_impossible_schedules_are_refused(make: Callable[..., Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(optimizer())


def test_the_milestones_of_an_experiment_hold_past_the_last(composed: Callable[..., DictConfig]) -> None:
    cfg = composed("experiment=hifigan_plus", "adversarial.start_step=3").scheduler
    assert rates(instantiate(cfg.generator), 9) == pytest.approx([RATE] * 3 + [RATE / 100] * 6)


def test_a_rate_below_the_lowest_is_not_raised_and_impossible_numbers_are_refused() -> None:
    assert set(rates(partial(CosineDecay, steps=4, lowest=1.0), 9)) == {RATE}
    for arguments in ({"steps": 0}, {"lowest": -1.0}, {"warm_up": -1}):
        with pytest.raises(ConfigError, match=f"{next(iter(arguments))}="):
            CosineDecay(optimizer(), **arguments)


# ---------------------------------------------------------------- its length in a run


@pytest.mark.parametrize(
    "schedule", [{}, {"start_step": 5}, {"start_step": 4, "interval": 3}, {"start_step": 4, "generator_interval": 2}]
)
def test_the_updates_of_each_network_are_counted(schedule: dict[str, int]) -> None:
    game = Schedule(**schedule)
    for turns in range(12):
        assert game.steps("generator", turns) == sum(game.generator_learns(step) for step in range(turns))
        assert game.steps("discriminator", turns) == sum(game.discriminators_learn(step) for step in range(turns))


def with_cosine(**settings: Any) -> SpeechModule:
    schedulers = dict.fromkeys(NETWORKS, partial(CosineDecay, lowest=LOWEST))
    optimizers = {name: partial(torch.optim.SGD, lr=RATE) for name in NETWORKS}
    return module(schedulers=schedulers, optimizers=optimizers, **settings)


def train(trained: SpeechModule, clock: Clock, steps: int) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ScheduleLength(clock)],
    )
    trainer.fit(trained, train_dataloaders=Loader(batches(steps)))
    return trainer


def test_a_schedule_without_a_length_ends_with_the_run() -> None:
    trained = with_cosine(schedule={"start_step": 4, "generator_interval": 2}, accumulate=2)
    clock = Clock(None, time.monotonic(), validate_every=100, max_steps=16)
    trainer = train(trained, clock, 20)  # two optimiser steps more than the schedule knows of
    assert {name: scheduler.steps for name, scheduler in trained.schedulers.items()} == {
        "generator": 4 + 2,
        "discriminator": 4,
    }
    assert [float(o.param_groups[0]["lr"]) for o in trainer.optimizers] == pytest.approx([LOWEST, LOWEST])


def test_under_a_budget_the_length_is_measured_once_and_kept_in_the_checkpoint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScheduleLength, "SHARE", 0.0)  # the first measured step is enough
    monkeypatch.setattr(Clock, "steps_left", lambda self, seconds_per_step: 38)
    clock = Clock(600.0, time.monotonic(), validate_every=100, validation_seconds=1.0)
    trained = with_cosine(adversarial=False)
    trainer = train(trained, clock, 5)
    assert trained.schedulers["generator"].steps == 40  # measured after the second step
    assert "the learning rate falls until step 40" in capsys.readouterr().out
    assert float(trainer.optimizers[0].param_groups[0]["lr"]) == pytest.approx(cosine(5, 40))

    saved = trained.training_state()
    monkeypatch.setattr(Clock, "steps_left", lambda self, seconds_per_step: 1000)  # another machine
    resumed = with_cosine(adversarial=False)
    resumed.on_train_start = lambda: resumed.load_training_state(saved)  # type: ignore[method-assign]
    trainer = train(resumed, clock, 5)
    assert float(trainer.optimizers[0].param_groups[0]["lr"]) == pytest.approx(cosine(10, 40))


@pytest.mark.parametrize(("elapsed", "validation", "fixed"), [(0, None, False), (0, 1.0, True), (160, None, True)])
def test_a_validation_is_waited_for_but_not_for_ever(
    elapsed: float, validation: float | None, fixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScheduleLength, "SHARE", 0.0)
    clock = Clock(600.0, time.monotonic() - elapsed, validate_every=100, validation_seconds=validation)
    trained = with_cosine(adversarial=False)
    train(trained, clock, 3)
    assert (trained.schedulers["generator"].steps is not None) == fixed


def test_the_steps_left_are_those_of_the_budget_without_its_reserve_and_its_validations() -> None:
    clock = Clock(600, time.monotonic() - 100, validate_every=10, validation_seconds=20)
    free = 600 - 100 - clock.reserve()
    assert clock.steps_left(1.0) == pytest.approx(free / (1.0 + 20 / 10), abs=1)
    assert Clock(10, time.monotonic() - 100, validate_every=10).steps_left(1.0) == 0
