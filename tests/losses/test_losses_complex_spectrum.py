from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.losses.complex_spectrum import (
    ComplexL1Loss,
    ComplexMseLoss,
    CompressedSpectrumLoss,
    LogSpectrumMseLoss,
    MagnitudeMseLoss,
)
from bcfusion.losses.stft import ComplexSpectrogram

T = 8000


def white(level: float, seed: int, items: int = 1) -> Tensor:
    return level * torch.randn(items, 1, T, generator=torch.Generator().manual_seed(seed))


def full(signal: Tensor) -> Tensor:
    return torch.full((signal.shape[0],), signal.shape[-1])


def torch_stft(signal: Tensor, n_fft: int, hop_length: int, win_length: int) -> Tensor:
    window = torch.hann_window(win_length)
    return torch.stft(
        signal.squeeze(1), n_fft, hop_length, win_length, window, pad_mode="constant", return_complex=True
    ).mT


@pytest.mark.parametrize("sizes", [(512, 100, 400), (512, 128, 512), (256, 60, 250)])
def test_the_stft_is_torchs_except_for_a_phase_that_all_signals_share(sizes: tuple[int, int, int]) -> None:
    first, second = white(0.1, 1), white(0.1, 2)
    stft = ComplexSpectrogram(*sizes)
    ours = stft(first.squeeze(1)), stft(second.squeeze(1))
    theirs = torch_stft(first, *sizes), torch_stft(second, *sizes)
    torch.testing.assert_close(ours[0].abs(), theirs[0].abs(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[0] * ours[1].conj(), theirs[0] * theirs[1].conj(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(512, 0, 400), (512, 401, 400), (256, 100, 400)])
def test_impossible_stfts_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="n_fft"):
        ComplexSpectrogram(*sizes)


def test_complex_mse_is_the_error_of_the_real_parts_plus_that_of_the_imaginary_parts() -> None:
    target, estimate = white(0.1, 1, 3), white(0.1, 2, 3)
    of_target, of_estimate = torch_stft(target, 512, 100, 400), torch_stft(estimate, 512, 100, 400)
    mse = nn.functional.mse_loss
    expected = mse(of_estimate.real, of_target.real) + mse(of_estimate.imag, of_target.imag)
    torch.testing.assert_close(ComplexMseLoss()(estimate, target, full(target)), expected, rtol=1e-5, atol=1e-5)


def test_complex_l1_is_the_absolute_error_of_the_real_parts_plus_that_of_the_imaginary_parts() -> None:
    # with a transform as long as the window both conventions of the phase are the same, and so are the parts
    target, estimate = white(0.1, 1, 3), white(0.1, 2, 3)
    of_target, of_estimate = torch_stft(target, 512, 256, 512), torch_stft(estimate, 512, 256, 512)
    l1 = nn.functional.l1_loss
    expected = l1(of_estimate.real, of_target.real) + l1(of_estimate.imag, of_target.imag)
    loss = ComplexL1Loss(n_fft=512, hop_length=256, win_length=512)(estimate, target, full(target))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_the_log_spectrum_loss_is_its_published_definition_less_that_of_a_perfect_estimate() -> None:
    window = torch.sin(math.pi * (torch.arange(400) + 0.5) / 400)

    def sine_stft(signal: Tensor) -> Tensor:
        return torch.stft(signal[:, 0], 400, 200, window=window, pad_mode="constant", return_complex=True)

    target, estimate = white(0.1, 1), white(0.05, 2)
    of_target, of_estimate = sine_stft(target), sine_stft(estimate)
    mse = nn.functional.mse_loss
    error = mse(of_estimate.real, of_target.real) + mse(of_estimate.imag, of_target.imag)
    error = error + mse(of_estimate.abs(), of_target.abs())
    expected = (error + 1e-8).log() - math.log(1e-8)
    loss = LogSpectrumMseLoss()
    torch.testing.assert_close(loss(estimate, target, full(target)), expected, rtol=1e-4, atol=1e-4)
    half, none = (loss(gain * target, target, full(target)) for gain in (0.5, 0.0))
    assert (none - half).item() == pytest.approx(2 * math.log(2), abs=1e-4)  # half the error of parts and magnitudes


def test_complex_mse_of_white_noise_is_its_power_times_the_energy_of_the_window() -> None:
    target = white(0.1, 1)
    loss = ComplexMseLoss()(target + white(0.05, 2), target, full(target)).item()
    assert loss == pytest.approx(0.05**2 * 150, rel=0.05)


def test_magnitude_mse_is_that_of_torch_spectrograms() -> None:
    target, estimate = white(0.1, 1, 3), white(0.1, 2, 3)
    of_target, of_estimate = torch_stft(target, 512, 100, 400).abs(), torch_stft(estimate, 512, 100, 400).abs()
    expected = nn.functional.mse_loss(of_estimate, of_target)
    torch.testing.assert_close(MagnitudeMseLoss()(estimate, target, full(target)), expected, rtol=1e-5, atol=1e-5)


def test_polarity_costs_magnitudes_nothing_and_spectra_four_times_the_power() -> None:
    target = white(0.1, 1)
    power = torch_stft(target, 512, 100, 400).abs().square().mean()
    assert MagnitudeMseLoss()(-target, target, full(target)).item() == pytest.approx(0.0, abs=1e-9)
    torch.testing.assert_close(ComplexMseLoss()(-target, target, full(target)), 4 * power)


@pytest.mark.parametrize("gain", [0.0, 0.5, 3.0])
def test_a_gain_costs_both_losses_the_square_of_its_difference_from_one(gain: float) -> None:
    target = white(0.1, 1)
    power = torch_stft(target, 512, 100, 400).abs().square().mean()
    for loss in (MagnitudeMseLoss(), ComplexMseLoss()):
        torch.testing.assert_close(loss(gain * target, target, full(target)), (1 - gain) ** 2 * power)


@pytest.mark.parametrize(("gain", "rest"), [(0.5, 1 - 0.5**0.3), (4.0, 4**0.3 - 1), (-1.0, 0.0)])
def test_a_gain_is_compressed_like_a_magnitude(gain: float, rest: float) -> None:
    target = white(0.1, 1)
    compressed_power = torch_stft(target, 512, 128, 512).abs().pow(0.6).mean()
    magnitude = CompressedSpectrumLoss(complex_weight=0.0, magnitude_weight=1.0, floor=1e-12)
    spectrum = CompressedSpectrumLoss(complex_weight=1.0, magnitude_weight=0.0, floor=1e-12)
    turned = 4.0 if gain < 0 else rest**2  # |-1 - 1|^2
    torch.testing.assert_close(magnitude(gain * target, target, full(target)), rest**2 * compressed_power)
    torch.testing.assert_close(spectrum(gain * target, target, full(target)), turned * compressed_power)


def test_the_compressed_loss_is_its_published_definition_in_polar_form() -> None:
    target, estimate = white(0.1, 1, 3), white(0.03, 2, 3)
    of_target, of_estimate = torch_stft(target, 512, 128, 512), torch_stft(estimate, 512, 128, 512)
    magnitude = (of_target.abs() ** 0.3 - of_estimate.abs() ** 0.3).square()
    spectrum = torch.polar(of_target.abs() ** 0.3, of_target.angle())
    spectrum = (spectrum - torch.polar(of_estimate.abs() ** 0.3, of_estimate.angle())).abs().square()
    expected = 0.7 * magnitude.mean() + 0.3 * spectrum.mean()
    ours = CompressedSpectrumLoss(floor=1e-12)(estimate, target, full(target))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_without_compression_it_is_the_sum_of_the_plain_losses() -> None:
    target, estimate = white(0.1, 1), white(0.1, 2)
    sizes = {"n_fft": 512, "hop_length": 100, "win_length": 400}
    both = 0.7 * MagnitudeMseLoss(**sizes)(estimate, target, full(target))
    both = both + 0.3 * ComplexMseLoss(**sizes)(estimate, target, full(target))
    ours = CompressedSpectrumLoss(**sizes, compression=1.0, floor=1e-12)(estimate, target, full(target))
    torch.testing.assert_close(ours, both, rtol=1e-5, atol=1e-6)


def test_compression_gives_a_faint_band_more_influence() -> None:
    time = torch.arange(T, dtype=torch.float64) / 16000
    loud, faint = (a * torch.sin(2 * math.pi * f * time)[None, None].float() for a, f in ((0.1, 500), (0.001, 5000)))
    shares = []
    for compression in (1.0, 0.3):
        loss = CompressedSpectrumLoss(compression=compression)
        without = [loss(kept, loud + faint, full(loud)).item() for kept in (loud, faint)]
        shares.append(without[0] / sum(without))
    assert shares[0] < 0.001
    assert shares[1] > 0.03


@pytest.mark.parametrize("loss", [ComplexMseLoss(), MagnitudeMseLoss(), CompressedSpectrumLoss()])
def test_gradient_at_a_silent_estimate_is_finite(loss: nn.Module) -> None:
    for target in (torch.zeros(1, 1, T), white(0.1, 1)):
        estimate = torch.zeros(1, 1, T, requires_grad=True)
        loss(estimate, target, full(target)).backward()
        assert estimate.grad is not None
        assert torch.isfinite(estimate.grad).all()
        assert estimate.grad.norm() < 100


def test_a_silent_estimate_is_pulled_towards_its_target_by_the_complex_part() -> None:
    target = white(0.1, 1)
    estimate = torch.zeros(1, 1, T, requires_grad=True)
    CompressedSpectrumLoss()(estimate, target, full(target)).backward()
    assert estimate.grad is not None
    assert (estimate.grad * target).sum() < 0


@pytest.mark.parametrize(
    "loss", [ComplexMseLoss(), ComplexL1Loss(), MagnitudeMseLoss(), CompressedSpectrumLoss(), LogSpectrumMseLoss()]
)
def test_a_short_item_counts_as_much_as_a_long_one_and_its_padding_does_not_count(loss: nn.Module) -> None:
    target, estimate = white(0.1, 1, 2), white(0.1, 2, 2)
    alone = [
        loss(estimate[i : i + 1, :, :length], target[i : i + 1, :, :length], torch.tensor([length]))
        for i, length in enumerate((T, 1000))
    ]
    torch.testing.assert_close(loss(estimate, target, torch.tensor([T, 1000])), torch.stack(alone).mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compression": 0.0}, "compression"),
        ({"compression": 1.5}, "compression"),
        ({"magnitude_weight": 0.0, "complex_weight": 0.0}, "not both be 0"),
        ({"magnitude_weight": -1.0}, "magnitude_weight=-1.0 must be at least 0"),
        ({"floor": 0.0}, "floor"),
        ({"hop_length": 600}, "hop_length=600"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompressedSpectrumLoss(**settings)
