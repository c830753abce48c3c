"""The loss of band envelopes: what it agrees with, what it ignores, and that it can be minimised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pystoi import stoi
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.losses.envelope_correlation import EnvelopeCorrelationLoss

RATE = 16000


def speech_like(seconds: float = 3.0, seed: int = 0) -> Tensor:
    """Noise whose level changes at the rate of syllables, differently in each octave."""
    generator = torch.Generator().manual_seed(seed)
    size = int(seconds * RATE)
    white = torch.fft.rfft(torch.randn(size, generator=generator))
    at = torch.fft.rfftfreq(size, 1 / RATE)
    signal = torch.zeros(size)
    for low in (100, 200, 400, 800, 1600, 3200):
        band = torch.fft.irfft(white * ((at >= low) & (at < 2 * low)), n=size)
        points = torch.rand(1, 1, int(6 * seconds) + 2, generator=generator) ** 2
        signal = signal + band * torch.nn.functional.interpolate(points, size, mode="linear", align_corners=True)[0, 0]
    return 0.1 * signal[None, None] / signal.std()


def loss(estimate: Tensor, target: Tensor, **arguments: float) -> Tensor:
    lengths = torch.full((len(target),), target.shape[-1])
    return EnvelopeCorrelationLoss(RATE, f_max=4300, **arguments)(estimate, target, lengths)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.1, 0.3])
def test_it_follows_stoi(noise: float) -> None:
    target = speech_like()
    estimate = target + noise * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    measured = stoi(target[0, 0].numpy().astype(np.float64), estimate[0, 0].numpy().astype(np.float64), RATE)
    assert float(loss(estimate, target)) == pytest.approx(1 - measured, abs=0.1)  # it clips, and cuts pauses


def test_level_and_a_fixed_filter_cost_next_to_nothing_and_other_speech_all() -> None:
    target = speech_like()
    tilted = torch.nn.functional.pad(target, (1, 0))[..., 1:] - 0.9 * torch.nn.functional.pad(target, (1, 0))[..., :-1]
    assert float(loss(0.1 * target, target)) < 0.005
    assert float(loss(tilted, target)) < 0.02
    assert float(loss(speech_like(seed=7), target)) > 0.7


def test_an_empty_band_has_a_bounded_gradient_that_fills_it() -> None:
    target = speech_like()
    spectrum = torch.fft.rfft(target)
    at = torch.fft.rfftfreq(target.shape[-1], 1 / RATE)
    low = torch.fft.irfft(spectrum * (at < 1000), n=target.shape[-1])
    start = float(loss(low, target))
    noise = 1e-4 * torch.randn(target.shape, generator=torch.Generator().manual_seed(2))
    added = noise.clone().requires_grad_()
    loss(low + added, target).backward()
    assert added.grad is not None
    assert 0 < float(added.grad.norm()) < 1e4
    assert float(loss(target, target)) < 0.001 < 0.2 < start


def test_pauses_do_not_count() -> None:
    target = speech_like()
    silence = torch.zeros(1, 1, 2 * RATE)
    hiss = 1e-5 * torch.randn(silence.shape, generator=torch.Generator().manual_seed(3))
    with_pause = loss(torch.cat([target, hiss], -1), torch.cat([target, silence], -1))
    assert float(with_pause) == pytest.approx(float(loss(target, target)), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"segment_frames": 1}, "segment_frames"),
        ({"f_min": 0}, "f_min"),
        ({"f_min": 9000}, "no band"),
        ({"bands_per_octave": 40}, "without a bin"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnvelopeCorrelationLoss(RATE, **arguments)  # type: ignore[arg-type]
