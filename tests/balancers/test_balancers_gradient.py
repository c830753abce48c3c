from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.utils._python_dispatch import TorchDispatchMode

from bcfusion.balancers.gradient import GradientBalancer
from bcfusion.errors import ConfigError
from bcfusion.training.anchor import OutputAnchor, anchor_parameter

L1 = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # of two items the gradients of their own losses: norms 5 and 1, mean 3
STFT = torch.tensor([[0.0, 200.0], [100.0, 0.0]])  # mean norm 150
SCORE = torch.tensor([[0.01, 0.0], [0.0, -0.03]])  # mean norm 0.02
NAN, INF = float("nan"), float("inf")


def output() -> OutputAnchor:
    return OutputAnchor({"estimate": torch.zeros(2, 1, 2, requires_grad=True)})


def measured(
    balancer: GradientBalancer, anchor: OutputAnchor, losses: dict[str, Tensor], weights: dict[str, float]
) -> tuple[Tensor, dict[str, float]]:
    """Return the items' own gradients ``(2, 2)``, twice the gradient of the mean over both items, and the shares."""
    given: list[Tensor] = []
    shares = balancer.backward(losses, weights, anchor, given.append)
    assert len(given) == 1, "the generator has one backward pass"
    return 2 * given[0][:, 0], {name: float(share) for name, share in shares.items()}


def sloped(anchor: OutputAnchor, slopes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return losses, means over items, whose gradients at the output are the slopes."""
    return {name: (slope * anchor.outputs["estimate"][:, 0]).sum(-1).mean() for name, slope in slopes.items()}


def step(balancer: GradientBalancer, weights: dict[str, float] | None = None, **slopes: Tensor) -> Tensor:
    anchor = output()
    return measured(balancer, anchor, sloped(anchor, slopes), weights or dict.fromkeys(slopes, 1.0))[0]


def norm(gradient: Tensor) -> float:
    """Return the mean over items of the norm."""
    return float(torch.linalg.vector_norm(gradient, dim=1).mean())


# ---------------------------------------------------------------- the formula


def test_first_step_gives_each_loss_the_share_of_its_weight_whatever_its_scale() -> None:
    anchor = output()
    losses = sloped(anchor, {"l1": L1, "stft": STFT, "score": SCORE})
    weights = {"l1": 1.0, "stft": 2.0, "score": 5.0}
    gradient, shares = measured(GradientBalancer(total_norm=4.0), anchor, losses, weights)
    torch.testing.assert_close(gradient, 4.0 * (L1 / 3 / 8 + STFT / 150 * 2 / 8 + SCORE / 0.02 * 5 / 8))
    assert shares == pytest.approx({"l1": 1 / 8, "stft": 2 / 8, "score": 5 / 8})


def test_equal_weights_are_those_of_eben() -> None:
    gradient = step(
        GradientBalancer(weights="equal"), {"l1": 1.0, "stft": 45.0, "logged": 0.0}, l1=L1, stft=STFT, logged=SCORE
    )
    torch.testing.assert_close(gradient, 0.5 * L1 / 3 + 0.5 * STFT / 150)


def test_averages_are_bias_corrected_and_hold_the_norm_of_this_step() -> None:
    balancer = GradientBalancer(decay=0.9)
    step(balancer, l1=L1)
    step(balancer, l1=2 * L1)
    average = (3 * 0.9**2 + 6 * 0.9 + 1.5) / (0.9**2 + 0.9 + 1)
    torch.testing.assert_close(step(balancer, l1=0.5 * L1), 0.5 * L1 / average)


def test_an_average_may_start_at_the_first_norm_as_in_the_public_code_of_eben() -> None:
    balancer = GradientBalancer(decay=0.75, average="first")
    torch.testing.assert_close(step(balancer, l1=L1), L1 / 3)
    torch.testing.assert_close(step(balancer, l1=4 * L1), 4 * L1 / (0.75 * 3 + 0.25 * 12))
    torch.testing.assert_close(step(balancer, l1=L1), L1 / (0.75 * 5.25 + 0.25 * 3))
    assert norm(step(balancer, l1=torch.full_like(L1, NAN))) != norm(L1), "NaN: no loss is left"
    torch.testing.assert_close(step(balancer, l1=L1), L1 / (0.75 * 4.6875 + 0.25 * 3))


def test_without_a_total_norm_the_part_of_each_loss_has_norm_one() -> None:
    balancer = GradientBalancer(total_norm=None, weights="equal")
    torch.testing.assert_close(step(balancer, l1=L1), L1 / 3)
    torch.testing.assert_close(step(balancer, l1=L1, stft=STFT, score=SCORE), L1 / 3 + STFT / 150 + SCORE / 0.02)


def test_without_a_spike_limit_a_norm_of_0_enters_the_average_and_a_spike_counts_in_full() -> None:
    nothing = torch.zeros_like(L1)
    balancer = GradientBalancer(decay=0.5, average="first", spike_limit=None, eps=1e-4)
    for gradient in (L1, nothing, nothing):
        step(balancer, l1=gradient, stft=STFT)
    without = step(balancer, l1=nothing, stft=STFT)
    with_spike = step(balancer, l1=100 * L1, stft=STFT)
    average = 0.5 * (3 / 8) + 0.5 * 300
    torch.testing.assert_close(with_spike - without, 0.5 * 100 * L1 / (average + 1e-4), rtol=1e-4, atol=1e-4)
    never = GradientBalancer(spike_limit=None, eps=1e-4)
    assert norm(step(never, l1=nothing)) == 0.0


def test_decay_0_uses_the_norms_of_each_step_alone() -> None:
    balancer = GradientBalancer(decay=0.0)
    for scale in (1.0, 7.0, 0.2):
        torch.testing.assert_close(step(balancer, l1=scale * L1), L1 / 3)


def test_the_loss_s_own_scale_does_not_matter() -> None:
    one, two = GradientBalancer(), GradientBalancer()
    for scale in (1.0, 1.5, 0.7):
        plain = step(one, l1=scale * L1, score=SCORE)
        torch.testing.assert_close(step(two, l1=scale * 1e4 * L1, score=1e-3 * SCORE), plain)


def test_items_count_the_same_whatever_the_size_of_the_batch() -> None:
    def balanced(items: int) -> Tensor:
        anchor = OutputAnchor({"estimate": torch.zeros(items, 1, 2, requires_grad=True)})
        x = anchor.outputs["estimate"][:, 0]
        losses = {"l1": (x * L1[0]).sum(-1).mean(), "score": (x * SCORE[0]).sum(-1).mean()}
        return items * measured(GradientBalancer(), anchor, losses, {"l1": 1.0, "score": 3.0})[0][0] / 2

    torch.testing.assert_close(balanced(1), 0.25 * L1[0] / 5 + 0.75 * SCORE[0] / 0.01)
    torch.testing.assert_close(balanced(16), balanced(1))


# ---------------------------------------------------------------- what it must survive


def test_a_loss_that_joins_late_has_a_bias_correction_of_its_own() -> None:
    balancer = GradientBalancer()
    for _ in range(50):
        torch.testing.assert_close(step(balancer, l1=L1), L1 / 3)  # alone it gets all of the gradient
    torch.testing.assert_close(step(balancer, l1=L1, score=SCORE), 0.5 * L1 / 3 + 0.5 * SCORE / 0.02)


def test_a_loss_that_was_absent_returns_with_the_average_it_had() -> None:
    balancer = GradientBalancer(decay=0.5)
    step(balancer, l1=L1, score=SCORE)
    for _ in range(20):
        torch.testing.assert_close(step(balancer, l1=L1), L1 / 3)
    average = (0.5 * 0.02 + 0.06) / 1.5
    torch.testing.assert_close(step(balancer, l1=L1, score=3 * SCORE), 0.5 * L1 / 3 + 0.5 * 3 * SCORE / average)


@pytest.mark.slow
@pytest.mark.parametrize("known_before", [False, True])
def test_after_5000_steps_without_gradient_no_loss_gets_more_than_10_times_its_share(known_before: bool) -> None:
    balancer = GradientBalancer()
    if known_before:
        step(balancer, l1=L1, score=SCORE)
    for _ in range(5000):
        step(balancer, l1=L1, score=0 * SCORE)
    back = step(balancer, l1=L1, score=SCORE)
    torch.testing.assert_close(back, 0.5 * L1 / 3 + 0.5 * SCORE / 0.02)  # not even once: zeros are no measurements
    sudden = step(balancer, l1=L1, score=1e6 * SCORE)
    assert norm(sudden - 0.5 * L1 / 3) <= 10 * 0.5 * 1.0001


@pytest.mark.parametrize(("scale", "limited"), [(9.9, False), (1e3, True), (1e9, True)])
def test_a_sudden_gradient_follows_the_formula_up_to_the_limit_and_no_further(scale: float, limited: bool) -> None:
    balancer = GradientBalancer(decay=0.99, spike_limit=10.0)
    for _ in range(500):
        step(balancer, l1=L1)
    count = sum(0.99**k for k in range(501))
    average = 3 * (count - 1 + scale) / count
    expected = 10.0 if limited else scale * 3 / average
    assert norm(step(balancer, l1=scale * L1)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["loss", "gradient", "constant"])
def test_a_non_finite_loss_is_left_out_and_counted_and_leaves_no_trace(where: str, value: float) -> None:
    def losses(anchor: OutputAnchor, bad: bool) -> dict[str, Tensor]:
        found = sloped(anchor, {"l1": L1, "stft": STFT, "score": SCORE})
        if bad and where == "loss":  # its gradient is finite
            found["stft"] = found["stft"] + value
        elif bad and where == "gradient":  # its value is finite
            found["stft"] = NonFiniteGradient.apply(found["stft"], value)
        elif bad:
            found["stft"] = torch.tensor(value)
        return found

    weights = {"l1": 1.0, "stft": 6.0, "score": 3.0}
    balancer, untouched = GradientBalancer(), GradientBalancer()
    for bad in (False, True, True):
        anchor = output()
        gradient, shares = measured(balancer, anchor, losses(anchor, bad), weights)
    torch.testing.assert_close(gradient, 0.25 * L1 / 3 + 0.75 * SCORE / 0.02)  # its share went to the others
    assert shares == pytest.approx({"l1": 0.25, "stft": 0.0, "score": 0.75})
    assert {name: int(count) for name, count in balancer.skipped.items()} == {"l1": 0, "stft": 2, "score": 0}

    step(untouched, weights, l1=L1, stft=STFT, score=SCORE)
    record, expected = balancer.get_extra_state()["stft"], untouched.get_extra_state()["stft"]
    assert torch.equal(record["total"], expected["total"])
    assert torch.equal(record["count"], expected["count"])


class NonFiniteGradient(torch.autograd.Function):
    """A finite value with a non-finite gradient, such as the root at 0."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, value: float) -> Tensor:
        ctx.value = value
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.value, None


def test_if_no_loss_is_usable_the_gradient_is_nan_for_the_trainer_to_skip() -> None:
    balancer = GradientBalancer()
    gradient = step(balancer, l1=NAN * L1, score=INF * SCORE)
    assert gradient.isnan().all()
    assert {name: int(count) for name, count in balancer.skipped.items()} == {"l1": 1, "score": 1}
    torch.testing.assert_close(step(balancer, l1=L1, score=SCORE), 0.5 * L1 / 3 + 0.5 * SCORE / 0.02)


def test_a_constant_loss_keeps_its_share_and_adds_nothing() -> None:
    anchor = output()
    losses = {**sloped(anchor, {"l1": L1}), "constant": torch.tensor(3.0)}
    gradient, shares = measured(GradientBalancer(), anchor, losses, {"l1": 1.0, "constant": 1.0})
    torch.testing.assert_close(gradient, 0.5 * L1 / 3)
    assert shares == {"l1": 1.0, "constant": 0.0}


def test_no_gradient_at_all_stays_no_gradient() -> None:
    balancer = GradientBalancer()
    for _ in range(2):
        assert torch.count_nonzero(step(balancer, l1=0 * L1, score=0 * SCORE)) == 0
    assert torch.count_nonzero(step(balancer, l1=L1, score=SCORE)) > 0
    assert torch.count_nonzero(step(balancer, l1=0 * L1, score=0 * SCORE)) == 0


def test_bf16_outputs_and_losses_are_balanced_in_float32() -> None:
    anchor = OutputAnchor({"estimate": torch.zeros(2, 1, 2, dtype=torch.bfloat16, requires_grad=True)})
    losses = {name: loss.bfloat16() for name, loss in sloped(anchor, {"l1": L1, "score": SCORE}).items()}
    balancer = GradientBalancer()
    with torch.autocast("cpu", torch.bfloat16):
        gradient, shares = measured(balancer, anchor, losses, {"l1": 1.0, "score": 3.0})
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, 0.25 * L1 / 3 + 0.75 * SCORE / 0.02)
    assert shares == pytest.approx({"l1": 0.25, "score": 0.75})
    assert balancer.get_extra_state()["l1"]["total"].dtype == torch.float32


def test_the_host_never_waits_for_a_value() -> None:
    class Watch(TorchDispatchMode):
        """Refuses operations that read a value on the host, or copy one from there."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            assert name not in {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "lift_fresh"}, name
            return func(*args, **(kwargs or {}))

    balancer, anchor = GradientBalancer(), output()
    losses = {**sloped(anchor, {"l1": L1, "score": NAN * SCORE}), "constant": torch.tensor(3.0)}
    with Watch():
        for _ in range(2):
            shares = balancer.backward(losses, {"l1": 1.0, "score": 2.0, "constant": 1.0}, anchor, lambda _: None)
    assert all(isinstance(value, Tensor) for value in (*shares.values(), *balancer.skipped.values()))
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Watch():
        float(shares["l1"])  # the watch works


# ---------------------------------------------------------------- a named parameter


def test_at_a_parameter_the_norms_are_those_of_its_gradients() -> None:
    torch.manual_seed(0)
    first, last = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 1, 3, padding=1)
    estimate = last(torch.tanh(first(torch.randn(2, 1, 2))))
    anchor = OutputAnchor({"estimate": estimate}, anchor_parameter(last, "weight"))
    losses = sloped(anchor, {"l1": L1, "score": SCORE})
    gradient, _ = measured(GradientBalancer(anchor="last.weight"), anchor, losses, {"l1": 1.0, "score": 1.0})

    def reaching(slope: Tensor) -> float:
        (found,) = torch.autograd.grad(estimate, last.weight, slope[:, None] / 2, retain_graph=True)
        return float(found.norm())

    torch.testing.assert_close(gradient, 0.5 * L1 / reaching(L1) + 0.5 * SCORE / reaching(SCORE))  # mean of two


# ---------------------------------------------------------------- state


def test_a_resumed_balancer_continues_bit_by_bit(tmp_path: Path) -> None:
    def losses(anchor: OutputAnchor, index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(index)
        slopes = {"l1": L1, "stft": STFT, "late": SCORE} if index > 3 else {"l1": L1, "stft": STFT}
        slopes = {name: slope * torch.rand((), generator=random) for name, slope in slopes.items()}
        return sloped(anchor, {**slopes, "stft": slopes["stft"] * (NAN if index == 2 else 1.0)})

    def run(balancer: GradientBalancer, start: int, stop: int) -> list[Tensor]:
        gradients = []
        for index in range(start, stop):
            anchor = output()
            gradients.append(measured(balancer, anchor, losses(anchor, index), {"l1": 1, "stft": 2, "late": 3})[0])
        return gradients

    whole, part = GradientBalancer(decay=0.97), GradientBalancer(decay=0.97)
    expected = run(whole, 0, 12)[6:]
    run(part, 0, 6)
    torch.save(part.state_dict(), tmp_path / "state.pt")
    resumed = GradientBalancer(decay=0.97)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(part, 6, 7)  # later steps of the first do not affect the second
    for one, two in zip(expected, run(resumed, 6, 12), strict=True):
        assert torch.equal(one, two)
    before, after = whole.get_extra_state(), resumed.get_extra_state()
    assert list(before) == list(after) == ["l1", "stft", "late"]
    assert int(resumed.skipped["stft"]) == 1
    assert all(torch.equal(before[name][key], after[name][key]) for name in before for key in before[name])


def test_a_fresh_balancer_has_a_state_that_loads(tmp_path: Path) -> None:
    torch.save(GradientBalancer().state_dict(), tmp_path / "state.pt")
    balancer = GradientBalancer()
    step(balancer, l1=L1)
    balancer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert balancer.skipped == {}
    torch.testing.assert_close(step(balancer, l1=100 * L1), L1 / 3)


def test_all_arguments_out_of_range_are_named_at_once() -> None:
    settings: dict[str, Any] = {"decay": 1.0, "total_norm": 0.0, "weights": "same", "eps": -1.0, "spike_limit": 0.5}
    with pytest.raises(ConfigError) as error:
        GradientBalancer(**settings)
    assert error.value.problems == [
        "GradientBalancer: decay=1.0 must be at least 0 and below 1",
        "GradientBalancer: total_norm=0.0 must be above 0",
        "GradientBalancer: eps=-1.0 must be above 0",
        "GradientBalancer: spike_limit=0.5 must be at least 1",
        "GradientBalancer: weights='same' must be one of given, equal",
    ]


# ---------------------------------------------------------------- two ranks

RANK_SCALES = ((1.0, 4.0), (3.0, 0.5))  # by rank: of L1 and of SCORE


def on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    balancer = GradientBalancer(decay=0.5)
    results = []
    one, two = RANK_SCALES[rank]
    for bad_value, bad_gradient in ((False, False), (True, False), (False, True), (False, False)):
        anchor = output()
        losses = sloped(anchor, {"l1": one * L1, "score": two * SCORE, "stft": STFT})
        if rank == 1 and bad_value:  # one rank alone has a value that is not finite ...
            losses["score"] = losses["score"] + INF
        if rank == 0 and bad_gradient:  # ... and the other a gradient
            losses["stft"] = losses["stft"] * NAN
        gradient, _ = measured(balancer, anchor, losses, {"l1": 1.0, "score": 1.0, "stft": 2.0})
        results.append(gradient)
    torch.save({"gradients": results, "state": balancer.get_extra_state()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_balance_by_the_norms_of_both(tmp_path: Path) -> None:
    spawn(on_rank, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    l1_norm, score_norm = 3 * (1.0 + 3.0) / 2, 0.02 * (4.0 + 0.5) / 2  # the mean over ranks, the same at every step
    for (one, two), found in zip(RANK_SCALES, ranks, strict=True):
        l1, score, stft = one * L1 / l1_norm, two * SCORE / score_norm, STFT / 150
        expected = [
            l1 / 4 + score / 4 + stft / 2,
            l1 / 3 + stft * 2 / 3,  # what is not usable on one rank is left out on both
            l1 / 2 + score / 2,
            l1 / 4 + score / 4 + stft / 2,
        ]
        for gradient, wanted in zip(found["gradients"], expected, strict=True):
            torch.testing.assert_close(gradient, wanted)
    for name, record in ranks[0]["state"].items():
        for key, value in record.items():
            assert torch.equal(value, ranks[1]["state"][name][key]), "both ranks hold the same averages, bit by bit"
        assert int(record["skipped"]) == (0 if name == "l1" else 1)
    assert math.isclose(float(ranks[0]["state"]["score"]["count"]), 1.75)  # of three of the four steps


def test_a_loss_that_does_not_reach_the_anchor_is_left_out_instead_of_scaled_without_bound() -> None:
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    hidden = first(torch.ones(3, 1, 2))
    anchor = OutputAnchor({"estimate": last(hidden), "mask": torch.sigmoid(hidden)}, last.weight)
    losses = {"l1": anchor.outputs["estimate"].abs().mean(), "mask": anchor.outputs["mask"].square().mean()}
    alone: list[Tensor] = []
    GradientBalancer().backward({"l1": losses["l1"]}, {"l1": 0.5}, anchor, alone.append)
    both: list[Tensor] = []
    shares = GradientBalancer().backward(losses, {"l1": 0.5, "mask": 0.5}, anchor, both.append)
    torch.testing.assert_close(both[0], alone[0] / 2)  # half the weights, half the gradient
    assert {name: float(share) for name, share in shares.items()} == {"l1": 1.0, "mask": 0.0}
