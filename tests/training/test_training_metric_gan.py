"""The critic of MetricGAN: what it learns, exactly when, and that nothing is lost between sessions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, open_dict
from test_training_module import fit, module
from test_training_ranks import train_on_two_ranks
from test_training_run import assert_equal_states, run, weights
from torch import Tensor, nn

from bcfusion.configuration.check import verify
from bcfusion.contracts import Skip
from bcfusion.critics.magnitude import MagnitudeCritic
from bcfusion.errors import ConfigError
from bcfusion.losses.waveform import L1Loss
from bcfusion.training.metric_gan import MetricGan
from bcfusion.training.module import SpeechModule
from bcfusion.training.rehearsal import rehearse

Compose = Callable[..., DictConfig]
SAMPLES = 1024
CPU = torch.device("cpu")


class Likeness:
    """1 where the estimate is the target, less with the distance; a silent target has none."""

    names = ("likeness",)
    higher_is_better = {"likeness": True}  # noqa: RUF012

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def score(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        time.sleep(self.seconds)
        if not target.any():
            raise Skip("silent")
        return {"likeness": float(1 - np.abs(estimate - target).mean())}


class Distance(nn.Module):
    """Predicts from the mean distance with one weight: a critic whose lessons can be followed by hand."""

    least_samples = 8

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.25))

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        return 1 - self.slope * (estimate - target).abs().mean((1, 2))


def critic(network: nn.Module | None = None, lr: float = 0.1, **settings: Any) -> MetricGan:
    values: dict[str, Any] = {"scale": [0.0, 1.0], "workers": 0, "delay": 2, "history": 0, **settings}
    metric = values.pop("metric", Likeness())
    return MetricGan(network or Distance(), metric, "likeness", optimizer=partial(torch.optim.SGD, lr=lr), **values)


def batches(count: int, size: int = 2, samples: int = SAMPLES) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "inputs": torch.randn(size, 1, samples, generator=generator),
            "target": torch.randn(size, 1, samples, generator=generator),
            "lengths": torch.full((size,), samples),
            "ids": [f"item-{index}-{i}" for i in range(size)],
        }
        for index in range(count)
    ]


def submit(to: MetricGan, level: float, size: int = 2) -> None:
    """Submit estimates at a constant distance from their targets: a likeness of 1 - level."""
    target = torch.ones(size, 1, 64)
    to.submit([str(i) for i in range(size)], target - level, target, torch.full((size,), 64))


# ---------------------------------------------------------------- lessons


def test_the_lesson_is_on_the_batch_of_exactly_delay_batches_before() -> None:
    taught = critic(delay=3)
    scores = []
    for index in range(6):
        lesson = taught.lesson(CPU)
        if index < 3:
            assert lesson is None
        else:
            assert lesson is not None
            scores.append(lesson[1]["score"])
        submit(taught, level=0.1 * (index + 1))
    assert scores == pytest.approx([0.9, 0.8, 0.7])


def test_the_loss_is_the_error_on_estimates_on_targets_and_on_older_estimates() -> None:
    taught = critic(delay=1, history=2, replayed=5)
    expected = []
    for level in (0.2, 0.4, 0.6, 0.8):
        submit(taught, level, size=1)
        loss, _ = taught.lesson(CPU) or (None, None)
        assert loss is not None
        expected.append(float(loss.detach()))
    errors = {level: (0.75 * level) ** 2 for level in (0.2, 0.4, 0.6, 0.8)}  # Q = 1 - level, D = 1 - level / 4
    # a target is predicted exactly; the older pairs are the last two
    by_hand = [errors[0.2], errors[0.4] + errors[0.2], errors[0.6] + (errors[0.2] + errors[0.4]) / 2]
    assert expected == pytest.approx([*by_hand, errors[0.8] + (errors[0.4] + errors[0.6]) / 2], rel=1e-5)


def test_scores_are_scaled_and_clipped() -> None:
    taught = critic(delay=1, scale=[0.5, 0.9])
    for level, score in ((0.3, 0.5), (0.0, 1.0), (0.7, 0.0)):
        submit(taught, level)
        _, log = taught.lesson(CPU) or (None, {})
        assert log["score"] == pytest.approx(1 - level)  # in the metric's own unit
        assert log["error"] == pytest.approx(abs(score - (1 - 0.25 * level)), abs=1e-5)


def test_what_has_no_score_is_left_out_and_counted() -> None:
    taught = critic(delay=1)
    target = torch.ones(3, 1, 64)
    target[1] = 0.0
    taught.submit(["a", "b", "c"], target - 0.5, target, torch.tensor([64, 64, 4]))  # the last is too short to judge
    loss, log = taught.lesson(CPU) or (None, {})
    assert loss is not None
    assert log["unscored"] == pytest.approx(2 / 3)
    assert float(loss.detach()) == pytest.approx((0.5 * 0.75) ** 2)
    taught.submit(["b"], target[1:2], target[1:2], torch.tensor([64]))
    loss, log = taught.lesson(CPU) or (None, {})
    assert loss is not None
    assert loss.requires_grad, "every rank takes part in the exchange of gradients"
    assert float(loss) == 0.0
    assert "score" not in log


def test_the_padding_of_an_item_is_neither_scored_nor_judged() -> None:
    torch.manual_seed(0)
    taught = critic(MagnitudeCritic(channels=2, n_fft=64, hop_length=32), delay=1)
    estimate, target = torch.randn(2, 2, 1, SAMPLES)
    lengths = torch.tensor([SAMPLES, 700])
    spoilt = [signal.clone() for signal in (estimate, target)]
    for signal in spoilt:
        signal[1, :, 700:] = 100.0
    for pair in ((estimate, target), tuple(spoilt)):
        taught.submit(["a", "b"], *pair, lengths)
    taught.network.eval()  # no power iteration between the two
    first, second = (taught.lesson(CPU) for _ in range(2))
    assert first is not None
    assert second is not None
    assert float(first[0]) == float(second[0])
    losses = [taught.generator_loss(*pair, lengths) for pair in ((estimate, target), tuple(spoilt))]
    assert float(losses[0]) == float(losses[1])


def test_at_most_max_items_are_scored() -> None:
    taught = critic(delay=1, max_items=2)
    submit(taught, 0.5, size=5)
    assert len(taught.state()["pending"][0]["ids"]) == 2


# ---------------------------------------------------------------- the generator's loss


def test_the_generators_loss_reaches_the_estimate_and_not_the_critic() -> None:
    torch.manual_seed(0)
    taught = critic(MagnitudeCritic(channels=2, n_fft=64, hop_length=32))
    estimate = torch.randn(2, 1, SAMPLES, requires_grad=True)
    target, lengths = torch.randn(2, 1, SAMPLES), torch.tensor([SAMPLES, 100])  # the second is too short to judge
    before = {name: value.clone() for name, value in taught.network.state_dict().items()}
    loss = taught.generator_loss(estimate, target, lengths)
    loss.backward()
    with torch.no_grad():
        taught.network.eval()
        predicted = taught.network(estimate[:1], target[:1])
    assert float(loss.detach()) == pytest.approx(float((1 - predicted) ** 2) / 2)
    assert estimate.grad is not None
    assert estimate.grad[0].abs().max() > 0
    assert estimate.grad[1].abs().max() == 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in taught.network.parameters())
    assert_equal_states(before, taught.network.state_dict())


def test_the_weight_rises_when_the_first_lesson_is_over() -> None:
    taught = critic(delay=3, start_step=10, ramp_steps=4)
    assert not taught.active(9)
    assert taught.active(10)
    assert [taught.ramp(step) for step in (0, 10, 12, 13, 14, 16, 50)] == [0, 0, 0, 0.25, 0.5, 1, 1]


@pytest.mark.slow
def test_a_generator_learns_what_only_the_metric_knows() -> None:
    """The target is a sum of two tones; without any loss of the signals the estimate approaches it."""
    torch.manual_seed(0)
    network = MagnitudeCritic(channels=4, n_fft=64, hop_length=32)
    taught = MetricGan(
        network,
        Likeness(),
        "likeness",
        [0.0, 1.0],
        partial(torch.optim.Adam, lr=3e-3),
        delay=2,
        workers=0,
        ramp_steps=20,
        weight=1.0,
    )
    trained = SpeechModule(
        Gain(),
        {"l1": L1Loss()},
        {"l1": 1e-9},  # outweighed from the third step on
        **_parts(),
        critics={"likeness": taught},
    )
    time_axis = torch.arange(SAMPLES) / 16000
    items = batches(300, size=4)
    for item in items:
        item["inputs"] = torch.sin(2 * math.pi * 440 * time_axis + item["inputs"][:, :, :1])
        item["target"] = item["inputs"].clone()
    fit(trained, items)
    assert isinstance(trained.generator, Gain)
    assert 0.6 < float(trained.generator.gain.detach()) < 1.4  # from 0.2


class Gain(nn.Module):
    provides: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.2))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * inputs


def _parts() -> dict[str, Any]:
    from bcfusion.balancers.fixed import FixedBalancer
    from bcfusion.training.optimization import Optimization

    return {
        "balancer": FixedBalancer(),
        "optimization": Optimization({"generator": partial(torch.optim.Adam, lr=1e-2)}),
    }


# ---------------------------------------------------------------- workers, sessions, ranks


@pytest.mark.slow
def test_lessons_do_not_depend_on_how_fast_the_scores_come() -> None:
    losses = []
    for workers, seconds in ((0, 0.0), (2, 0.0), (1, 0.05)):
        taught = critic(metric=Likeness(seconds), workers=workers, delay=2, history=4, replayed=2)
        torch.manual_seed(0)
        seen = []
        try:
            for level in (0.1, 0.3, 0.2, 0.5, 0.4):
                lesson = taught.lesson(CPU)
                seen += [] if lesson is None else [float(lesson[0].detach())]
                submit(taught, level)
        finally:
            taught.close()
        losses.append(seen)
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.slow
def test_pending_batches_survive_the_end_of_their_workers() -> None:
    whole, parts = (critic(delay=2, workers=1, history=4, replayed=1) for _ in range(2))
    try:
        for taught in (whole, parts):
            submit(taught, 0.1)
        parts.close()
        again = critic(delay=2, history=4, replayed=1)
        again.load_state(parts.state())
        for taught in (whole, again):
            submit(taught, 0.6)
        for taught in (whole, again):
            lesson = taught.lesson(CPU)
            assert lesson is not None
            assert lesson[1]["score"] == pytest.approx(0.9)
    finally:
        whole.close()


CRITIC = [
    "critics=[metric_gan]",
    "critics.metric_gan.network.n_fft=64",
    "critics.metric_gan.network.hop_length=32",
    "critics.metric_gan.network.channels=2",
    "critics.metric_gan.metric._target_=bcfusion.metrics.si_sdr.SiSdr",
    "~critics.metric_gan.metric.mode",
    "critics.metric_gan.value=si_sdr",
    "critics.metric_gan.scale=[-40,20]",
    "critics.metric_gan.ramp_steps=2",
    "critics.metric_gan.history=3",
    "critics.metric_gan.replayed=2",
    "critics.metric_gan.delay=2",
]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_with_pending_scores_is_bit_exact(tiny: Compose, tmp_path: Path, workers: int) -> None:
    settings = [*CRITIC, "trainer.validate_every=3", f"critics.metric_gan.workers={workers}"]
    run(tiny(*settings, "trainer.max_steps=7"), tmp_path / "whole")
    run(tiny(*settings, "trainer.max_steps=4"), tmp_path / "parts")
    torch.manual_seed(1234)
    run(tiny(*settings, "trainer.max_steps=7", f"resume={tmp_path / 'parts'}"), tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert len(whole["critic_states"][0]["metric_gan"]["pending"]) == 2
    assert len(whole["critic_states"][0]["metric_gan"]["history"]) == 3
    for key in ("generator", "generator_ema", "discriminators", "critics", "optimizers", "state", "critic_states"):
        assert_equal_states(whole[key], parts[key], key)
    assert_equal_states(whole["random"], parts["random"])


@pytest.mark.slow
def test_without_critics_a_run_of_before_is_resumed(tiny: Compose, tmp_path: Path) -> None:
    run(tiny("trainer.max_steps=1"), tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    for key in ("critics", "critic_states"):
        del content[key]
    del content["config"]["critics"]
    torch.save(content, last)
    run(tiny("trainer.max_steps=2", f"resume={tmp_path / 'run'}"), tmp_path / "run")


@pytest.mark.slow
def test_two_ranks_teach_the_critic_as_one_does(tmp_path: Path) -> None:
    def build() -> SpeechModule:
        torch.manual_seed(0)
        trained = module(adversarial=False)
        network = MagnitudeCritic(channels=2, n_fft=64, hop_length=32)
        return SpeechModule(
            trained.generator,
            {"l1": L1Loss()},
            {"l1": 1.0},
            trained.balancer,
            trained.optimization,
            critics={"critic": critic(network, delay=1, weight=1.0)},
        )

    def state(trained: SpeechModule) -> dict[str, Tensor]:
        return trained.state_dict()

    # two lessons: from the third on, rounding decides on which side of a kink an activation is
    items = batches(3, size=4)
    whole, halves = build(), build()
    start = {name: value.clone() for name, value in state(whole).items()}
    fit(whole, items)

    def save() -> None:
        torch.save(state(halves), tmp_path / f"{torch.distributed.get_rank()}.pt")

    halves.on_train_end = save  # type: ignore[method-assign]
    train_on_two_ranks(halves, items, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    learned = [name for name in start if "critic" in name and not torch.equal(start[name], state(whole)[name])]
    assert learned
    for name, expected in state(whole).items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- refusals and log


def test_wrong_arguments_are_refused() -> None:
    for wrong, message in (
        ({"scale": [1.0, 1.0]}, "scale"),
        ({"delay": 0}, "delay"),
        ({"replayed": 1.5}, "replayed"),
        ({"weight": -1.0}, "weight"),
    ):
        with pytest.raises(ConfigError, match=message):
            critic(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="value='pesq'"):
        MetricGan(Distance(), Likeness(), "pesq", [0, 1], torch.optim.SGD)


def test_a_name_of_another_part_is_refused() -> None:
    trained = module(adversarial=False)
    for name in ("l1", "generator", "adversarial"):
        with pytest.raises(ConfigError, match=f"critics.{name}"):
            SpeechModule(
                trained.generator,
                {"l1": L1Loss()},
                {"l1": 1.0},
                trained.balancer,
                trained.optimization,
                critics={name: critic()},
            )


@pytest.mark.slow
def test_the_log_tells_how_the_critic_learns(tiny: Compose, tmp_path: Path) -> None:
    run(tiny(*CRITIC, "critics.metric_gan.workers=0", "trainer.max_steps=5"), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    last = dict(zip(names, lines[-1].split(","), strict=True))
    tags = ["critic/metric_gan/" + tag for tag in ("loss", "score", "error", "unscored", "waiting")]
    tags += ["loss/metric_gan", "share/metric_gan", "gradient_norm/metric_gan", "lr/metric_gan"]
    for tag in tags:
        assert math.isfinite(float(last[tag])), tag
    assert float(last["skipped_steps/metric_gan"]) == 0


# ---------------------------------------------------------------- pauses, errors, other settings


def test_nobody_learns_from_a_pause() -> None:
    torch.manual_seed(0)
    taught = critic(MagnitudeCritic(channels=2, n_fft=64, hop_length=32), delay=1, silence_db=-45.0)
    target = torch.randn(2, 1, SAMPLES)
    target[1] *= 10 ** (-46 / 20)  # dBFS
    estimate = (target + 0.1 * torch.randn(2, 1, SAMPLES)).requires_grad_()
    taught.generator_loss(estimate, target, torch.tensor([SAMPLES, SAMPLES])).backward()
    assert estimate.grad is not None
    assert estimate.grad[0].abs().max() > 0
    assert estimate.grad[1].abs().max() == 0
    taught.submit(["speech", "pause"], estimate, target, torch.tensor([SAMPLES, SAMPLES]))
    _, log = taught.lesson(CPU) or (None, {})
    assert log["unscored"] == 0.5


class Error(Likeness):
    higher_is_better = {"likeness": False}  # noqa: RUF012


def test_a_metric_of_which_less_is_better_is_refused() -> None:
    with pytest.raises(ConfigError, match="lower is better"):
        critic(metric=Error())


def test_power_iterations_go_on_without_anything_to_learn_from() -> None:
    """Buffers stay the same on all ranks, whatever each of them has to learn from."""
    networks = []
    for level in (1.0, 0.0):
        torch.manual_seed(0)
        network = MagnitudeCritic(channels=2, n_fft=64, hop_length=32)
        taught = critic(network, delay=1)
        signal = level * torch.randn(2, 1, SAMPLES)
        taught.submit(["a", "b"], 0.9 * signal, signal, torch.tensor([SAMPLES, SAMPLES]))
        loss, log = taught.lesson(CPU) or (None, {})
        assert loss is not None
        assert log["unscored"] == 1 - level
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        networks.append(network)
    first, second = (dict(network.named_buffers()) for network in networks)
    assert_equal_states(first, second)


@pytest.mark.slow
def test_lessons_follow_accumulated_batches(tiny: Compose, tmp_path: Path) -> None:
    """The optimisers step with every second batch; lessons begin two batches late, and the ramp counts steps."""
    settings = ["trainer.accumulate=2", "trainer.max_steps=8", "trainer.validate_every=8", "trainer.log_every=1"]
    settings += ["trainer.checkpoint_every=8", "critics.metric_gan.workers=0", "critics.metric_gan.ramp_steps=0"]
    run(tiny(*CRITIC, *settings), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    learned = [int(row["step"]) for row in rows if row["critic/metric_gan/loss"]]
    stepped = [int(row["step"]) for row in rows if row["gradient_norm/metric_gan"]]
    taught = [int(row["step"]) for row in rows if row["loss/metric_gan"]]
    assert learned == [3, 4, 5, 6, 7, 8]
    assert stepped == [4, 6, 8]
    assert taught == [5, 6, 7, 8]  # from optimiser step 2 on, which is that of the batches 5 and 6


@pytest.mark.slow
def test_workers_end_with_a_run_that_fails(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = SpeechModule._generator_learns

    def fail(self: SpeechModule, *arguments: Any) -> None:
        if self.step == 2:
            raise RuntimeError("a fault of a loss")
        learn(self, *arguments)

    monkeypatch.setattr(SpeechModule, "_generator_learns", fail)
    with pytest.raises(RuntimeError, match="a fault of a loss"):
        run(tiny(*CRITIC, "critics.metric_gan.workers=1", "trainer.max_steps=4"), tmp_path / "run")
    # the fixture below finds processes that are left


@pytest.mark.slow
def test_a_discriminator_that_learns_more_often_and_two_critics_go_together(tiny: Compose, tmp_path: Path) -> None:
    second = [setting.replace("metric_gan", "metric_gan_stoi") for setting in CRITIC[1:] if "~" not in setting]
    settings = [
        "critics=[metric_gan,metric_gan_stoi]",
        *CRITIC[1:],
        *second,
        "~critics.metric_gan_stoi.metric.extended",
    ]
    settings += ["adversarial.start_step=0", "adversarial.generator_interval=2", "trainer.precision=bf16-mixed"]
    workers = [f"critics.{name}.workers=0" for name in ("metric_gan", "metric_gan_stoi")]
    result = run(tiny(*settings, *workers, "trainer.max_steps=6"), tmp_path / "run")
    assert result.step == 6
    optimizers = weights(tmp_path / "run")["optimizers"]
    assert len(optimizers) == 4
    assert all(bool(optimizer["state"]) for optimizer in optimizers)


@pytest.mark.slow
def test_a_configuration_of_before_trains(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny("trainer.max_steps=1")
    with open_dict(cfg):
        del cfg.critics
        del cfg.trainer.statistics_batches
        del cfg.trainer.hang_minutes
        del cfg.adversarial.head_start
    assert verify(cfg) == []
    assert run(cfg, tmp_path / "run").step == 1


def test_names_and_balancers_of_critics_are_checked(tiny: Compose) -> None:
    assert verify(tiny(*CRITIC, "balancer=adaptive", "balancer.adversarial=[adversarial,metric_gan]")) == []
    cfg = tiny(*CRITIC)
    with open_dict(cfg):
        cfg.critics.l1 = cfg.critics.pop("metric_gan")
    assert verify(cfg) == ["critics.l1: another part has this name; rename it"]


@pytest.mark.slow
def test_the_rehearsal_teaches_the_critic(tiny: Compose) -> None:
    rehearsal = rehearse(tiny(*CRITIC, "critics.metric_gan.workers=1"))
    assert rehearsal.problems == []
    broken = rehearse(tiny(*CRITIC, "critics.metric_gan.optimizer.lr=.nan", "critics.metric_gan.workers=0"))
    assert broken.problems


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    import multiprocessing

    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before
