from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.losses.waveform import L1Loss, MseLoss, RmseLoss, SiSnrLoss, SnrLoss

T = 4000
FULL = torch.tensor([T])


def sine(cycles: int, amplitude: float = 0.1) -> Tensor:
    """Whole cycles: sines of different frequencies are orthogonal, have no mean and a power of amplitude^2 / 2."""
    return amplitude * torch.sin(2 * math.pi * cycles * torch.arange(T, dtype=torch.float64) / T)[None, None].float()


def test_l1_of_a_constant_error_is_that_error() -> None:
    assert L1Loss()(sine(5) + 0.25, sine(5), FULL).item() == pytest.approx(0.25, rel=1e-5)


def test_l1_gives_a_short_item_the_same_influence_as_a_long_one() -> None:
    target = torch.zeros(2, 1, T)
    estimate = torch.stack([torch.full((1, T), 0.1), torch.full((1, T), 0.3)])
    assert L1Loss()(estimate, target, torch.tensor([T, T // 100])).item() == pytest.approx(0.2, rel=1e-5)


def test_mse_of_a_constant_error_is_its_square_and_of_orthogonal_sines_the_sum_of_their_powers() -> None:
    assert MseLoss()(sine(5) + 0.25, sine(5), FULL).item() == pytest.approx(0.0625, rel=1e-5)
    assert MseLoss()(sine(9, 0.2), sine(5, 0.1), FULL).item() == pytest.approx(0.02 + 0.005, rel=1e-5)


def test_mse_gives_a_short_item_the_same_influence_as_a_long_one() -> None:
    target = torch.zeros(2, 1, T)
    estimate = torch.stack([torch.full((1, T), 0.1), torch.full((1, T), 0.3)])
    assert MseLoss()(estimate, target, torch.tensor([T, T // 100])).item() == pytest.approx(0.05, rel=1e-5)


def test_mse_is_torchs_on_full_items() -> None:
    estimate, target = torch.randn(2, 3, 1, 500, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.mse_loss(estimate, target)
    torch.testing.assert_close(MseLoss()(estimate, target, torch.full((3,), 500)), expected, rtol=1e-5, atol=0)


def test_rmse_is_the_root_per_item_and_its_gradient_has_the_same_norm_for_any_error() -> None:
    target = torch.zeros(2, 1, T)
    estimate = torch.stack([torch.full((1, T), 0.1), torch.full((1, T), 0.3)])
    assert RmseLoss()(estimate, target, torch.tensor([T, T // 100])).item() == pytest.approx(0.2, rel=1e-5)
    for error in (1e-6, 0.1):
        estimate = (sine(5) + sine(9, error)).requires_grad_()
        RmseLoss()(estimate, sine(5), FULL).backward()
        assert estimate.grad is not None
        assert estimate.grad.norm().item() == pytest.approx(T**-0.5, rel=0.05)


@pytest.mark.parametrize(("gain", "decibels"), [(0.0, 0.0), (0.5, 6.0206), (2.0, 0.0), (0.9, 20.0), (-1.0, -6.0206)])
def test_snr_sees_the_level_that_si_snr_ignores(gain: float, decibels: float) -> None:
    assert SnrLoss()(gain * sine(5), sine(5), FULL).item() == pytest.approx(-decibels, abs=1e-2)


def test_snr_of_orthogonal_noise_is_the_ratio_of_powers_and_silence_has_none() -> None:
    noisy, silent = sine(5) + 0.1 * sine(9), torch.zeros(1, 1, T)
    assert SnrLoss()(noisy, sine(5), FULL).item() == pytest.approx(-20.0, abs=1e-2)
    both = SnrLoss()(torch.cat([noisy, noisy]), torch.cat([sine(5), silent]), torch.tensor([T, T]))
    assert both.item() == pytest.approx(-10.0, abs=1e-2)


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, T\)"):
        L1Loss()(torch.zeros(4, 1, T), torch.zeros(4, T), torch.full((4,), T))
    with pytest.raises(ValueError, match="lengths"):
        L1Loss()(torch.zeros(4, 1, T), torch.zeros(4, 1, T), FULL)


@pytest.mark.parametrize(("ratio", "decibels"), [(1.0, 0.0), (0.1, 20.0), (10.0, -20.0), (0.5, 6.0206)])
def test_si_snr_of_orthogonal_noise_is_the_ratio_of_powers(ratio: float, decibels: float) -> None:
    loss = SiSnrLoss()(sine(5) + ratio * sine(9), sine(5), FULL)
    assert loss.item() == pytest.approx(-decibels, abs=1e-3)


@pytest.mark.parametrize("gain", [0.1, -1.0, 9.0])
def test_si_snr_ignores_gain_and_polarity_of_the_estimate(gain: float) -> None:
    estimate = sine(5) + 0.5 * sine(9)
    plain, scaled = SiSnrLoss()(estimate, sine(5), FULL), SiSnrLoss()(gain * estimate, sine(5), FULL)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=5e-3)


def test_only_si_sdr_counts_a_constant_offset_as_noise() -> None:
    offset = sine(5) + 0.1 / math.sqrt(2)  # of the power of the sine
    assert SiSnrLoss(zero_mean=True)(offset, sine(5), FULL).item() < -50
    assert SiSnrLoss(zero_mean=False)(offset, sine(5), FULL).item() == pytest.approx(0.0, abs=1e-3)


def test_si_snr_removes_the_mean_of_the_valid_part_only() -> None:
    target = sine(8)
    estimate = target + 0.3
    target[..., T // 2 :] = 5.0
    assert SiSnrLoss()(estimate, target, torch.tensor([T // 2])).item() < -50


def test_si_snr_of_a_perfect_estimate_is_bounded_by_eps() -> None:
    expected = -10 * math.log10(0.005 / 1e-6 + 1)
    assert SiSnrLoss(eps=1e-6)(sine(5), sine(5), FULL).item() == pytest.approx(expected, abs=0.01)


def test_si_snr_of_a_silent_target_has_no_jump_and_no_gradient() -> None:
    estimate = (sine(5) + 0.5 * sine(9)).requires_grad_()
    loss = SiSnrLoss()(estimate, sine(7, amplitude=1e-3), FULL)  # -63 dBFS
    loss.backward()
    assert loss.item() == 0.0
    assert estimate.grad is not None
    assert torch.count_nonzero(estimate.grad) == 0
    assert SiSnrLoss(silence_db=-70.0)(estimate, sine(7, amplitude=1e-3), FULL).item() > 20


def test_si_snr_of_a_silent_estimate_is_zero_decibels() -> None:
    assert SiSnrLoss()(torch.zeros(1, 1, T), sine(5), FULL).item() == 0.0


def noisy_with_offset(items: int = 4) -> tuple[Tensor, Tensor]:
    """Estimates at 14 dB whose mean differs from that of their targets."""
    target, noise = torch.randn(2, items, 1, T, generator=torch.Generator().manual_seed(0))
    return 0.08 * target + 0.02 * noise + 0.02, 0.1 * target - 0.05


@pytest.mark.parametrize("zero_mean", [True, False])
def test_si_snr_and_si_sdr_equal_torchmetrics(zero_mean: bool) -> None:
    audio = pytest.importorskip("torchmetrics.audio")
    estimate, target = noisy_with_offset()
    published = (
        audio.ScaleInvariantSignalNoiseRatio()
        if zero_mean
        else audio.ScaleInvariantSignalDistortionRatio(zero_mean=False)
    )
    expected = -published(estimate.double(), target.double()).float()
    loss = SiSnrLoss(zero_mean=zero_mean, eps=1e-12)(estimate, target, torch.full((4,), T))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zero_mean", [True, False])
def test_si_snr_and_si_sdr_equal_auraloss(zero_mean: bool) -> None:
    time = pytest.importorskip("auraloss.time")
    estimate, target = noisy_with_offset()
    expected = time.SISDRLoss(zero_mean=zero_mean, eps=1e-12)(estimate.double(), target.double()).float()
    loss = SiSnrLoss(zero_mean=zero_mean, eps=1e-12)(estimate, target, torch.full((4,), T))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_one_silent_target_dominates_the_published_mean_but_not_ours() -> None:
    time = pytest.importorskip("auraloss.time")
    audio = pytest.importorskip("torchmetrics.audio")
    estimate, target = noisy_with_offset(items=2)
    full = torch.full((2,), T)
    audible = SiSnrLoss()(estimate[:1], target[:1], full[:1])
    target[1] = 0.0
    # The silent item has a loss of 80 dB in one, 84 dB in the other: a consequence of their eps.
    assert time.SISDRLoss()(estimate, target).item() > 30
    assert -audio.ScaleInvariantSignalNoiseRatio()(estimate, target).item() > 20
    torch.testing.assert_close(SiSnrLoss()(estimate, target, full), audible / 2)


def test_padding_that_libraries_average_over_is_left_out_of_si_sdr() -> None:
    time = pytest.importorskip("auraloss.time")
    estimate, target = noisy_with_offset(items=1)
    half = torch.tensor([T // 2])
    expected = time.SISDRLoss(eps=1e-12)(estimate[..., : T // 2], target[..., : T // 2])
    estimate[..., T // 2 :] = 0.0
    target[..., T // 2 :] = 0.0
    torch.testing.assert_close(SiSnrLoss(eps=1e-12)(estimate, target, half), expected, rtol=1e-4, atol=1e-4)
    assert abs(time.SISDRLoss(eps=1e-12)(estimate, target) - expected) > 0.1  # means over signal and padding together


def test_the_gradient_of_si_snr_equals_finite_differences() -> None:
    estimate = (sine(5) + 0.5 * sine(9)).requires_grad_()
    SiSnrLoss()(estimate, sine(5), FULL).backward()
    assert estimate.grad is not None
    step = 0.01 * sine(9)
    after, before = (SiSnrLoss()(estimate.detach() + sign * step, sine(5), FULL) for sign in (1, -1))
    assert (estimate.grad * 2 * step).sum().item() == pytest.approx((after - before).item(), rel=1e-2)


def test_pre_emphasis_compares_signals_minus_a_share_of_their_previous_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    estimate, target = torch.randn(2, 2, 1, 50, generator=generator)
    lengths = torch.tensor([50, 30])

    def emphasised(x: torch.Tensor) -> torch.Tensor:
        return x - 0.95 * torch.cat([torch.zeros(1), x[:-1]])

    expected = [
        (emphasised(estimate[item, 0, :length]) - emphasised(target[item, 0, :length])).abs().mean()
        for item, length in enumerate((50, 30))
    ]
    loss = L1Loss(pre_emphasis=0.95)(estimate, target, lengths)
    torch.testing.assert_close(loss, torch.stack(expected).mean())


@pytest.mark.parametrize("pre_emphasis", [-0.1, 1.0])
def test_pre_emphasis_out_of_range_is_refused(pre_emphasis: float) -> None:
    with pytest.raises(ConfigError, match="pre_emphasis"):
        L1Loss(pre_emphasis)
