from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.errors import AudioError, ConfigError
from bcfusion.losses.spectral import MultiResolutionStftLoss, a_weighting_gain

T = 16000


def white(level: float, seed: int, items: int = 1) -> Tensor:
    return level * torch.randn(items, 1, T, generator=torch.Generator().manual_seed(seed))


def speech_like(seed: int) -> Tensor:
    """A harmonic sound of changing pitch and loudness over a noise floor, -26 dBFS, with silence at both ends."""
    time = torch.arange(T, dtype=torch.float64) / 16000
    phase = 2 * math.pi * (120 * time + 5 * torch.sin(4 * time + seed))
    voice = sum(torch.sin(k * phase) / k for k in range(1, 30)) * (1.1 + torch.sin(9 * time))
    signal = (0.05 * voice / voice.std())[None, None].float() + white(1e-3, seed)
    signal[..., :1100] = 0.0
    signal[..., -1100:] = 0.0
    return signal


def full(signal: Tensor) -> Tensor:
    return torch.full((signal.shape[0],), signal.shape[-1])


@pytest.mark.parametrize(("convergence", "log_magnitude"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.3, 2.0)])
def test_is_the_published_definition_on_speech(convergence: float, log_magnitude: float) -> None:
    freq = pytest.importorskip("auraloss.freq")
    # Silent ends, since auraloss reflects a signal at its ends; a small floor, since it clamps where we add.
    published = freq.MultiResolutionSTFTLoss(
        [512, 1024, 2048], [50, 120, 240], [240, 600, 1200], w_sc=convergence, w_log_mag=log_magnitude, eps=1e-12
    )
    ours = MultiResolutionStftLoss(
        spectral_convergence_weight=convergence, log_magnitude_weight=log_magnitude, floor=1e-12
    )
    target = speech_like(1)
    estimate = 0.7 * target + speech_like(2)
    expected = published(estimate, target).item()
    assert expected > 0.1
    assert ours(estimate, target, full(target)).item() == pytest.approx(expected, abs=1e-4)


def test_a_batch_of_one_is_the_published_definition_to_five_digits_if_all_bins_are_above_the_floors() -> None:
    freq = pytest.importorskip("auraloss.freq")
    published = freq.MultiResolutionSTFTLoss([512, 1024, 2048], [50, 120, 240], [240, 600, 1200], eps=1e-12)
    target, estimate = speech_like(1), 0.7 * speech_like(1) + speech_like(2)
    ours = MultiResolutionStftLoss(floor=1e-14)(estimate, target, full(target))
    torch.testing.assert_close(ours, published(estimate, target), rtol=1e-5, atol=1e-5)


def test_a_loud_item_hides_a_quiet_one_only_in_the_published_convergence() -> None:
    freq = pytest.importorskip("auraloss.freq")
    published = freq.MultiResolutionSTFTLoss([512, 1024, 2048], [50, 120, 240], [240, 600, 1200], w_log_mag=0.0)
    ours = MultiResolutionStftLoss(log_magnitude_weight=0.0)
    target = torch.cat([white(0.5, 1), white(0.005, 2)])
    estimate = torch.cat([target[:1], 0.2 * target[1:]])  # perfect, and 80 % wrong
    assert published(estimate, target).item() < 0.01
    assert ours(estimate, target, full(target)).item() == pytest.approx(0.4, abs=1e-3)


def test_a_silent_target_makes_the_published_loss_jump_but_not_ours() -> None:
    freq = pytest.importorskip("auraloss.freq")
    published = freq.MultiResolutionSTFTLoss([512, 1024, 2048], [50, 120, 240], [240, 600, 1200])
    estimate, silence = white(0.05, 1), torch.zeros(1, 1, T)
    assert published(estimate, silence).item() > 1000
    assert MultiResolutionStftLoss()(estimate, silence, full(silence)).item() < 20


def test_half_the_amplitude_costs_one_half_in_convergence_and_ln_2_in_log_magnitude() -> None:
    target = white(0.1, 1)
    convergence = MultiResolutionStftLoss(log_magnitude_weight=0.0)(0.5 * target, target, full(target))
    log_magnitude = MultiResolutionStftLoss(spectral_convergence_weight=0.0)(0.5 * target, target, full(target))
    assert convergence.item() == pytest.approx(0.5, abs=1e-3)
    assert log_magnitude.item() == pytest.approx(math.log(2), abs=1e-3)


def test_polarity_does_not_count() -> None:
    target = white(0.1, 1)
    assert MultiResolutionStftLoss()(-target, target, full(target)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("target_level", [0.0, 1e-6, 1e-4, 1e-3])
@pytest.mark.parametrize("estimate_level", [1e-6, 1e-3, 0.05, 1.0])
def test_a_silent_target_causes_no_jump_in_value_or_gradient(target_level: float, estimate_level: float) -> None:
    loss = MultiResolutionStftLoss()
    estimate = white(estimate_level, 2).requires_grad_()
    silent = loss(estimate, white(target_level, 3), full(estimate))
    silent.backward()
    # 11 at most of convergence, and ln(|E| / 1e-4) of log magnitude; public versions reach thousands.
    assert silent.item() < 11 + 13
    assert estimate.grad is not None
    # 1 / (2 sqrt(floor)) in each bin bounds the log term; its sum over frames and bins stays far below that.
    assert estimate.grad.norm().item() < 1000


@pytest.mark.parametrize(("level", "convergence"), [(1e-3, 1.0), (5e-4, 0.5), (1e-4, 0.1)])
def test_noise_over_a_silent_target_is_measured_against_noise_of_minus_60_decibels(
    level: float, convergence: float
) -> None:
    loss = MultiResolutionStftLoss(log_magnitude_weight=0.0, floor=1e-12)
    silence = torch.zeros(1, 1, T)
    assert loss(white(level, 1), silence, full(silence)).item() == pytest.approx(convergence, rel=0.02)


def test_convergence_follows_an_estimate_far_louder_than_its_target_up_to_the_limit() -> None:
    target = white(0.01, 1)
    for limit in (5.0, 10.0):
        loss = MultiResolutionStftLoss(log_magnitude_weight=0.0, convergence_limit=limit)
        assert loss(3 * target, target, full(target)).item() == pytest.approx(2.0, rel=1e-3)
        assert loss(100 * target, target, full(target)).item() == pytest.approx(limit * 99 / 100, rel=1e-3)


def test_an_empty_band_of_the_estimate_keeps_a_gradient_there() -> None:
    time = torch.arange(T, dtype=torch.float64) / 16000  # phases in float32 would fill the band with noise
    low, high = (0.1 * torch.sin(2 * math.pi * f * time)[None, None].float() for f in (300.0, 6000.0))
    estimate = (low + 1e-7 * high).requires_grad_()  # below the floor at every resolution
    loss = MultiResolutionStftLoss(spectral_convergence_weight=0.0)
    loss(estimate, low + high, full(low)).backward()
    assert estimate.grad is not None
    inner = slice(4000, 12000)  # the tone's ends are clicks, which fill every band
    assert (estimate.grad * high)[..., inner].sum().item() < -1.0  # descent makes the band louder


def test_a_second_of_padding_is_not_a_second_of_perfect_silence() -> None:
    target, estimate = white(0.1, 1), white(0.1, 2)
    loss = MultiResolutionStftLoss()
    alone = loss(estimate[..., :4000], target[..., :4000], torch.tensor([4000]))
    padded = loss(estimate, target, torch.tensor([4000]))
    unmasked = loss(
        torch.nn.functional.pad(estimate[..., :4000], (0, 12000)),
        torch.nn.functional.pad(target[..., :4000], (0, 12000)),
        full(target),
    )
    torch.testing.assert_close(padded, alone)
    assert unmasked < 0.7 * alone


def test_odd_windows_also_have_a_frame_at_every_multiple_of_the_hop() -> None:
    target, estimate = white(0.1, 1)[..., :960], white(0.1, 2)[..., :960]
    loss = MultiResolutionStftLoss(resolutions=[(256, 60, 121)])
    padded = [torch.nn.functional.pad(signal, (0, 500)) for signal in (estimate, target)]
    torch.testing.assert_close(loss(*padded, torch.tensor([960])), loss(estimate, target, torch.tensor([960])))


@pytest.mark.parametrize("resolutions", [[], [(512, 50)], [(512, 0, 240)], [(512, 50, 600)], [(512, 300, 240)]])
def test_impossible_resolutions_are_refused(resolutions: list[tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError, match="resolutions"):
        MultiResolutionStftLoss(resolutions=resolutions)


@pytest.mark.parametrize(
    ("band", "decibels"),  # IEC 61672-1, table 3: exact mid-band frequencies 1000 * 10^(n / 10), values to 0.1 dB
    [
        (-20, -70.4),
        (-15, -39.4),
        (-12, -26.2),
        (-9, -16.1),
        (-6, -8.6),
        (-3, -3.2),
        (0, 0.0),
        (4, 1.3),
        (9, -1.1),
        (12, -6.6),
    ],
)
def test_a_weighting_is_the_table_of_the_standard(band: int, decibels: float) -> None:
    gain = a_weighting_gain(torch.tensor(1000.0 * 10 ** (band / 10), dtype=torch.float64))
    assert 20 * math.log10(gain.item()) == pytest.approx(decibels, abs=0.06)


def tone(frequency: float, amplitude: float = 0.1) -> Tensor:
    time = torch.arange(T, dtype=torch.float64) / 16000
    return (amplitude * torch.sin(2 * math.pi * frequency * time) * torch.hann_window(T))[None, None].float()


@pytest.mark.parametrize("frequency", [125.0, 500.0, 7000.0])
def test_an_added_tone_costs_its_a_weighted_level_in_spectral_convergence(frequency: float) -> None:
    weighted = MultiResolutionStftLoss(log_magnitude_weight=0.0, a_weighting=True, sample_rate=16000, floor=1e-12)
    target = tone(3000.0)
    gains = a_weighting_gain(torch.tensor([frequency, 3000.0]))
    loss = weighted(target + tone(frequency), target, full(target))
    # The curve is steep at 125 Hz, where the shortest window is 130 Hz wide.
    assert loss.item() == pytest.approx((gains[0] / gains[1]).item(), rel=0.05)


def test_a_weighting_does_not_change_the_log_distance_of_audible_bins() -> None:
    target, estimate = white(0.1, 1), white(0.05, 2)
    plain, weighted = (
        MultiResolutionStftLoss(spectral_convergence_weight=0.0, floor=1e-14, a_weighting=on, sample_rate=16000)
        for on in (False, True)
    )
    expected = plain(estimate, target, full(target)).item()
    # Only the bin at 0 Hz, of 257, 513 and 1025, is lost.
    assert weighted(estimate, target, full(target)).item() == pytest.approx(expected, rel=0.004)


def test_with_a_weighting_silence_is_measured_against_a_weighted_noise() -> None:
    loss = MultiResolutionStftLoss(log_magnitude_weight=0.0, a_weighting=True, sample_rate=16000, floor=1e-12)
    silence = torch.zeros(1, 1, T)
    assert loss(white(1e-3, 1), silence, full(silence)).item() == pytest.approx(1.0, rel=0.02)


def test_a_weighting_matches_the_published_filter_in_the_telephone_band_and_keeps_7_khz_unlike_it() -> None:
    freq = pytest.importorskip("auraloss.freq")
    published = freq.MultiResolutionSTFTLoss(
        [512, 1024, 2048], [50, 120, 240], [240, 600, 1200],
        w_log_mag=0.0, eps=1e-12, sample_rate=16000, perceptual_weighting=True,
    )  # fmt: skip
    ours = MultiResolutionStftLoss(log_magnitude_weight=0.0, a_weighting=True, sample_rate=16000, floor=1e-12)
    target = tone(1000.0)
    for frequency in (300.0, 2000.0, 3000.0):
        estimate = target + tone(frequency)
        assert ours(estimate, target, full(target)).item() == pytest.approx(
            published(estimate, target).item(), rel=0.03
        )
    estimate = target + tone(7000.0)
    ratio = ours(estimate, target, full(target)) / published(estimate, target)
    assert 20 * math.log10(ratio.item()) == pytest.approx(12.2, abs=0.5)


@pytest.mark.parametrize("sample_rate", [None, 0])
def test_a_weighting_without_a_sample_rate_is_refused(sample_rate: int | None) -> None:
    with pytest.raises(ConfigError, match="sample_rate"):
        MultiResolutionStftLoss(a_weighting=True, sample_rate=sample_rate)


PUBLIC_FORM: dict[str, Any] = {
    "flooring": "clamped",
    "silence_db": None,
    "convergence_limit": None,
    "convergence_over": "batch",
    "padding": "reflect",
}


@pytest.mark.parametrize("weighted", [False, True])
def test_the_public_form_is_that_of_auraloss_with_its_mirrored_ends_and_its_filter(weighted: bool) -> None:
    freq = pytest.importorskip("auraloss.freq")
    public = freq.MultiResolutionSTFTLoss(perceptual_weighting=weighted, sample_rate=16000)
    weighting = {"a_weighting": True, "a_weighting_taps": 101, "sample_rate": 16000} if weighted else {}
    ours = MultiResolutionStftLoss(**PUBLIC_FORM, **weighting)
    target = torch.cat([speech_like(1), white(1e-3, 3)])
    estimate = 0.7 * target + white(0.01, 4, items=2)
    torch.testing.assert_close(ours(estimate, target, full(target)), public(estimate, target), rtol=1e-5, atol=1e-5)


def test_only_the_public_form_grows_without_limit_on_silence() -> None:
    silence, noise = torch.zeros(1, 1, T), white(0.1, 1)
    assert MultiResolutionStftLoss()(noise, silence, full(noise)) < 30
    assert MultiResolutionStftLoss(**PUBLIC_FORM)(noise, silence, full(noise)) > 300


def test_a_clamped_floor_has_no_gradient_below_it() -> None:
    estimate, target = white(1e-7, 1).requires_grad_(), white(0.1, 2)
    gradients = {}
    for flooring in ("added", "clamped"):
        loss = MultiResolutionStftLoss(flooring=flooring, spectral_convergence_weight=0.0)(  # type: ignore[arg-type]
            estimate, target, full(target)
        )
        (gradients[flooring],) = torch.autograd.grad(loss, estimate)
    assert gradients["added"].any()
    assert not gradients["clamped"].any()


@pytest.mark.parametrize(
    "arguments",
    [
        {"flooring": "cut"},
        {"convergence_over": "time"},
        {"padding": "circular"},
        {"a_weighting": True, "sample_rate": 16000, "a_weighting_taps": 100},
        {"a_weighting_taps": 101},
    ],
    ids=str,
)
def test_forms_that_do_not_exist_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MultiResolutionStftLoss(**arguments)


def test_a_floor_on_magnitudes_is_added_after_the_root() -> None:
    """White noise at -86 dBFS against -26 dBFS: bins of the first are raised by the floor, those of the second not."""
    quiet, loud = white(5e-5, 1), white(0.05, 2)
    loss = MultiResolutionStftLoss([(512, 128, 512)], spectral_convergence_weight=0.0, floor=0.1, flooring="magnitude")
    window = torch.hann_window(512)
    magnitudes = [
        torch.stft(signal[0], 512, 128, window=window, pad_mode="constant", return_complex=True).abs() + 0.1
        for signal in (quiet, loud)
    ]
    expected = (magnitudes[0].log() - magnitudes[1].log()).abs().mean()
    torch.testing.assert_close(loss(quiet, loud, full(loud)), expected, rtol=1e-4, atol=1e-4)
    silence = torch.zeros(1, 1, T, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(silence, loud, full(loud)), silence)
    assert gradient.isfinite().all()


def test_a_signal_that_is_too_short_to_be_mirrored_is_named_with_what_to_do() -> None:
    loss = MultiResolutionStftLoss(padding="reflect")
    with pytest.raises(AudioError, match=r"needs signals of more than 600 samples, not 600; use longer crops"):
        loss(torch.zeros(1, 1, 600), torch.zeros(1, 1, 600), torch.tensor([600]))
    assert loss(torch.zeros(1, 1, 601), torch.zeros(1, 1, 601), torch.tensor([601])).isfinite()


def test_the_tail_of_the_weighting_filter_is_not_heard_after_the_end_of_an_item() -> None:
    loss = MultiResolutionStftLoss(a_weighting=True, a_weighting_taps=101, sample_rate=16000)
    generator = torch.Generator().manual_seed(0)
    estimate, target = (0.1 * torch.randn(1, 1, 8000, generator=generator) for _ in range(2))
    lengths = torch.tensor([8000])
    alone = loss(estimate, target, lengths)
    padded = loss(*(torch.nn.functional.pad(signal, (0, 8000)) for signal in (estimate, target)), lengths)
    torch.testing.assert_close(padded, alone)
