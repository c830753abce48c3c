from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.losses.mel import LogMelLoss

T = 16000
RATE = 16000


def white(level: float, seed: int, items: int = 1, samples: int = T) -> Tensor:
    return level * torch.randn(items, 1, samples, generator=torch.Generator().manual_seed(seed))


def tone(frequency: float, amplitude: float = 0.1) -> Tensor:
    phase = 2 * math.pi * frequency * torch.arange(T, dtype=torch.float64) / RATE
    return amplitude * torch.sin(phase)[None, None].float()


def full(signal: Tensor) -> Tensor:
    return torch.full((signal.shape[0],), signal.shape[-1])


@pytest.mark.parametrize("gain", [0.1, 0.5, 2.0])
def test_a_gain_costs_its_natural_logarithm(gain: float) -> None:
    target = white(0.1, 1)
    loss = LogMelLoss(RATE, floor=1e-9)(gain * target, target, full(target))
    assert loss.item() == pytest.approx(abs(math.log(gain)), rel=1e-4)


def test_polarity_does_not_count() -> None:
    target = white(0.1, 1)
    assert LogMelLoss(RATE)(-target, target, full(target)).item() == pytest.approx(0.0, abs=1e-6)


def test_is_the_distance_between_torchaudios_log_mel_spectrograms() -> None:
    spectrogram = torchaudio.transforms.MelSpectrogram(
        RATE, n_fft=1024, n_mels=80, power=1.0, norm="slaney", mel_scale="slaney", pad_mode="constant"
    )
    spectrogram.hop_length = spectrogram.spectrogram.hop_length = 256
    target, estimate = white(0.1, 1, 3), white(0.05, 2, 3)
    expected = (spectrogram(estimate).log() - spectrogram(target).log()).abs().mean()
    ours = LogMelLoss(RATE, floor=1e-9)(estimate, target, full(target))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_is_the_mel_loss_of_auraloss_with_the_same_filters() -> None:
    freq = pytest.importorskip("auraloss.freq")
    ours = LogMelLoss(RATE, floor=1e-9)
    published = freq.STFTLoss(1024, 256, 1024, w_sc=0.0, w_log_mag=1.0, eps=1e-9)
    published.scale, published.fb = "mel", ours.filters.T[None]  # its own filters need librosa, which is not installed
    target, estimate = white(0.1, 1), white(0.05, 2)
    for signal in (target, estimate):  # auraloss reflects a signal at its ends
        signal[..., :1100] = 0.0
        signal[..., -1100:] = 0.0
    expected = published(estimate, target)
    assert expected > 0.1
    torch.testing.assert_close(ours(estimate, target, full(target)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n_mels", "f_min", "f_max"), [(80, 0.0, 8000.0), (128, 4000.0, 8000.0), (40, 50.0, 6000.0)])
def test_filters_are_triangles_of_equal_area_on_slaneys_scale(n_mels: int, f_min: float, f_max: float) -> None:
    """3 mels in 200 Hz up to 1 kHz (15 mels), and 27 mels for a factor of 6.4 from there."""

    def to_mel(hertz: float) -> float:
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)

    mels = torch.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, 200 * mels / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    bins = torch.arange(513, dtype=torch.float64)[:, None] * RATE / 1024
    triangles = torch.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)).clamp_min(0)
    expected = (triangles * 2 / (upper - lower)).float()
    ours = LogMelLoss(RATE, n_mels=n_mels, f_min=f_min, f_max=f_max).filters
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)  # torchaudio rounds to float32


def test_the_settings_of_hifi_gan_plus_measure_the_new_band_only() -> None:
    loss = LogMelLoss(RATE, n_mels=128, f_min=4000.0)
    target = white(0.01, 1)
    low, high = (loss(target + tone(frequency), target, full(target)).item() for frequency in (1000.0, 6000.0))
    assert low < 0.05 * high


def test_an_empty_band_of_the_estimate_keeps_a_gradient_there_and_a_clamp_would_not() -> None:
    low, high = tone(300.0), tone(6000.0)
    estimate = (low + 1e-7 * high).requires_grad_()  # below the floor
    LogMelLoss(RATE)(estimate, low + high, full(low)).backward()
    assert estimate.grad is not None
    inner = slice(4000, 12000)  # the tone's ends are clicks, which fill every band
    assert (estimate.grad * high)[..., inner].sum().item() < -0.1  # descent makes the band louder


def test_silence_against_noise_is_bounded_by_the_floor() -> None:
    noise = white(0.1, 1)
    silence = torch.zeros_like(noise)
    loud, quiet = (LogMelLoss(RATE, floor=floor)(silence, noise, full(noise)).item() for floor in (1e-3, 1e-5))
    assert loud < quiet < math.log(1.0 / 1e-5)
    assert quiet - loud == pytest.approx(math.log(100), rel=0.1)


def test_a_quiet_item_counts_as_much_as_a_loud_one() -> None:
    target = torch.cat([white(0.5, 1), white(0.005, 2)])
    estimate = torch.cat([target[:1], 0.5 * target[1:]])
    loss = LogMelLoss(RATE, floor=1e-9)(estimate, target, full(target))
    assert loss.item() == pytest.approx(math.log(2) / 2, rel=1e-3)


def test_a_second_of_padding_is_not_a_second_of_perfect_silence() -> None:
    target, estimate = white(0.1, 1), white(0.1, 2)
    loss = LogMelLoss(RATE)
    alone = loss(estimate[..., :4000], target[..., :4000], torch.tensor([4000]))
    torch.testing.assert_close(loss(estimate, target, torch.tensor([4000])), alone)


def test_an_item_shorter_than_a_hop_costs_nothing_where_frames_lie_between_hops() -> None:
    target, estimate = (torch.randn(2, 1, 4000, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    loss = LogMelLoss(RATE, between_hops=True)
    alone = loss(estimate[1:], target[1:], torch.tensor([4000]))
    torch.testing.assert_close(loss(estimate, target, torch.tensor([100, 4000])), alone / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"f_max": 9000.0}, "f_max=9000.0"),
        ({"f_min": 8000.0}, "f_min=8000.0"),
        ({"f_min": -1.0}, "f_min=-1.0"),
        ({"n_mels": 0}, "n_mels=0"),
        ({"floor": 0.0}, "floor"),
        ({"n_fft": 512, "hop_length": 128}, "win_length=1024"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LogMelLoss(RATE, **settings)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning")
def test_bands_without_a_bin_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"of n_mels=400 bands: lower n_mels or raise n_fft=1024"):
        LogMelLoss(RATE, n_mels=400)


def test_the_published_frames_lie_between_the_hops_of_a_mirrored_signal_and_lesser_bands_are_clamped() -> None:
    """As in HiFi-GAN's configuration: 1024 points, a hop of 256, 384 mirrored samples at both ends."""
    generator = torch.Generator().manual_seed(0)
    target, estimate = (level * torch.randn(2, 1, 2048, generator=generator) for level in (0.1, 1e-6))
    loss = LogMelLoss(22050, flooring="clamped", padding="reflect", between_hops=True)

    def log_mel(signal: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(signal, (384, 384), mode="reflect").squeeze(1)
        spectrum = torch.stft(padded, 1024, 256, window=torch.hann_window(1024), center=False, return_complex=True)
        return (loss.filters.T @ (spectrum.abs().square() + 1e-9).sqrt()).clamp_min(1e-5).log()

    lengths = torch.full((2,), 2048)
    assert log_mel(target).shape[-1] == 8 == int(loss.stft.frames(lengths)[0])
    expected = (log_mel(estimate) - log_mel(target)).abs().mean()
    torch.testing.assert_close(loss(estimate, target, lengths), expected, rtol=1e-5, atol=1e-5)
    assert not torch.isclose(LogMelLoss(22050)(estimate, target, lengths), expected, rtol=1e-2)


def test_unknown_floorings_are_refused() -> None:
    with pytest.raises(ConfigError, match="flooring"):
        LogMelLoss(16000, flooring="magnitude")  # type: ignore[arg-type]
