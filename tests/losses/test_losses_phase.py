from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.losses.phase import PhaseLoss

T = 3000
SIZES: dict[str, Any] = {"n_fft": 256, "hop_length": 60, "win_length": 200}
TERMS = ("instantaneous_phase_weight", "group_delay_weight", "angular_frequency_weight")


def white(seed: int, level: float = 0.1, items: int = 1) -> Tensor:
    return level * torch.randn(items, 1, T, generator=torch.Generator().manual_seed(seed))


def full(signal: Tensor) -> Tensor:
    return torch.full((signal.shape[0],), signal.shape[-1])


def only(term: str, floor: float = 1e-4) -> PhaseLoss:
    weights: dict[str, Any] = {name: float(name == term) for name in TERMS}
    return PhaseLoss(**SIZES, floor=floor, **weights)


def spectrum(signal: Tensor) -> np.ndarray:
    """``(F, N)`` complex128, by torch's own transform."""
    return torch.stft(
        signal[0, 0].double(),
        n_fft=256,
        hop_length=60,
        win_length=200,
        window=torch.hann_window(200, dtype=torch.float64),
        pad_mode="constant",
        return_complex=True,
    ).numpy()


def definition(estimate: Tensor, target: Tensor, floor: float = 0.0) -> list[float]:
    """The three terms, with the angle of e^(ix) instead of rounding; 0 where the target is empty."""
    difference = np.angle(spectrum(estimate)) - np.angle(spectrum(target))
    filled = np.abs(spectrum(target)) > floor
    terms = (
        (difference, filled),
        (np.diff(difference, axis=0), filled[1:] & filled[:-1]),
        (np.diff(difference, axis=1), filled[:, 1:] & filled[:, :-1]),
    )
    return [float((np.abs(np.angle(np.exp(1j * values))) * counts).mean()) for values, counts in terms]


@pytest.mark.parametrize("floor", [1e-4, 1.0])
def test_each_term_is_its_definition_over_the_bins_that_the_target_fills(floor: float) -> None:
    estimate, target = white(1), white(2)
    for term, expected in zip(TERMS, definition(estimate, target, floor), strict=True):
        assert only(term, floor)(estimate, target, full(target)).item() == pytest.approx(expected, rel=1e-4)


def test_terms_are_weighted_and_summed() -> None:
    estimate, target = white(1), white(2)
    loss = PhaseLoss(**SIZES, instantaneous_phase_weight=0.5, group_delay_weight=2.0, angular_frequency_weight=3.0)(
        estimate, target, full(target)
    )
    expected = np.dot([0.5, 2.0, 3.0], definition(estimate, target))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_an_inverted_signal_is_off_by_pi_in_phase_and_right_in_both_differences() -> None:
    target = white(1)
    values = [only(term)(-target, target, full(target)).item() for term in TERMS]
    assert values == pytest.approx([math.pi, 0.0, 0.0], abs=1e-3)


def test_a_signal_that_flips_during_a_pause_shows_in_phase_but_not_in_angular_frequency() -> None:
    target = white(1)
    target[..., 1400:1700] = 0.0  # no frame holds both halves
    estimate = target.clone()
    estimate[..., 1700:] *= -1
    values = [only(term)(estimate, target, full(target)).item() for term in TERMS]
    frames = T // 60 + 1
    inverted = sum(1 for j in range(frames) if j * 60 + 100 > 1700)
    assert values == pytest.approx([math.pi * inverted / frames, 0.0, 0.0], abs=1e-2)


def test_gain_does_not_count() -> None:
    target = white(1)
    assert PhaseLoss(**SIZES)(0.1 * target, target, full(target)).item() == pytest.approx(0.0, abs=1e-4)


def test_a_silent_estimate_costs_without_a_gradient_and_a_silent_target_costs_nothing() -> None:
    target, silence = white(1), torch.zeros(1, 1, T)
    estimate = silence.clone().requires_grad_()
    loss = only(TERMS[0])(estimate, target, full(target))
    loss.backward()
    assert loss.item() == pytest.approx(math.pi / 2, rel=0.02)  # the mean of |x| over a turn
    assert estimate.grad is not None
    assert torch.count_nonzero(estimate.grad) == 0
    assert PhaseLoss(**SIZES)(target, silence, full(target)).item() == 0.0


@pytest.mark.parametrize("level", [1e-30, 1e-12, 1e-7, 1e-5, 1e-3, 1.0])
def test_gradients_stay_finite_however_faint_the_estimate(level: float) -> None:
    estimate = white(1, level).requires_grad_()
    PhaseLoss(**SIZES)(estimate, white(2), full(estimate)).backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
    # Each bin: 1 / floor, from 1 + 2 + 2 terms, over the number of bins, times a window of at most 1, 4 frames deep.
    assert estimate.grad.abs().max() < 5 * 4 * 1e4
    assert (torch.count_nonzero(estimate.grad) > 0) == (level > 1e-6)


def test_only_bins_above_the_floor_give_a_gradient() -> None:
    estimate = white(1).requires_grad_()
    for floor, gives in ((1e-4, True), (1e4, False)):
        estimate.grad = None
        loud = 1e6 * white(2)  # the target is above either floor
        only(TERMS[0], floor)(estimate, loud, full(estimate)).backward()
        assert estimate.grad is not None
        assert (torch.count_nonzero(estimate.grad) > 0) == gives


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_equals_finite_differences(term: str) -> None:
    loss, target = only(term), white(2)
    estimate = (target + 0.3 * white(1)).requires_grad_()
    value = loss(estimate, target, full(target))
    value.backward()
    assert estimate.grad is not None
    gradient = estimate.grad
    step = 1e-4 * 0.1 * gradient / gradient.square().mean().sqrt()
    with torch.no_grad():
        after, before = (loss(estimate + sign * step, target, full(target)) for sign in (1, -1))
    assert (gradient * 2 * step).sum().item() == pytest.approx((after - before).item(), rel=0.1)
    assert after < value < before or before < value < after


def test_a_short_item_counts_as_much_as_a_long_one() -> None:
    target = white(1, items=2)
    estimate = target.clone()
    estimate[1] *= -1
    loss = only(TERMS[0])(estimate, target, torch.tensor([T, 300]))
    assert loss.item() == pytest.approx(math.pi / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"instantaneous_phase_weight": -1.0}, "instantaneous_phase_weight=-1"),
        (dict.fromkeys(TERMS, 0.0), "weights"),
        ({"floor": 0.0}, "floor"),
        ({"hop_length": 400}, "hop_length"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PhaseLoss(**wrong)
