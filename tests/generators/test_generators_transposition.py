"""Where transposition copies a tone to, how loud it is there, and what stays unchanged."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators.identity import Identity
from bcfusion.generators.transposition import Transposition
from bcfusion.inference.enhance import enhance_signal

RATE = 16000


def tone(frequency: float, seconds: float = 1.0) -> Tensor:
    times = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    return 0.1 * torch.cos(2 * math.pi * frequency * times).view(1, 1, -1)


def levels(signal: Tensor) -> Tensor:
    """Level in dB of each frequency in Hz, for the half second in the middle; a tone of amplitude 0.1 has 0 dB."""
    middle = signal[0, 0, RATE // 4 : 3 * RATE // 4]
    window = torch.hann_window(len(middle), dtype=middle.dtype)
    spectrum = torch.fft.rfft(middle * window, n=RATE).abs() / (0.05 * window.sum())
    return 20 * torch.log10(spectrum + 1e-12)


def build(**changes: object) -> Transposition:
    torch.set_default_dtype(torch.float64)
    try:
        return Transposition(**changes).eval()  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("method", "cutoff", "source", "copies"),
    [
        ("folding", 4000, 1000, [7000]),
        ("translation", 4000, 1000, [5000]),
        ("folding", 1000, 300, [1700, 2300, 3700, 4300, 5700, 6300, 7700]),
        ("translation", 1000, 300, [1300, 2300, 3300, 4300, 5300, 6300, 7300]),
        ("folding", 5500, 4000, [7000]),  # the new band ends at half the sample rate: it mirrors from 3 kHz up
        ("translation", 5500, 1000, [6500]),
    ],
)
def test_a_tone_is_copied_to_each_new_band_with_its_gain(
    method: str, cutoff: int, source: int, copies: list[int]
) -> None:
    model = build(method=method, cutoff_frequency=cutoff)
    found = levels(model(tone(source)))
    assert len(model.gains) == len(copies)
    for frequency, gain in zip(copies, model.gains, strict=True):
        assert float(found[frequency]) == pytest.approx(gain, abs=0.02)
    near = torch.zeros_like(found, dtype=torch.bool)
    for frequency in [source, *copies]:
        near[frequency - 50 : frequency + 51] = True  # the lobes of the window, down to -100 dB
    assert found[~near].max() < -60


@pytest.mark.parametrize("method", ["folding", "translation"])
@pytest.mark.parametrize("cutoff", [1000, 4000, 5512.5])
def test_the_sensors_own_band_is_unchanged_to_60_db(method: str, cutoff: float) -> None:
    noise = torch.randn(1, 1, 2 * RATE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    added = build(method=method, cutoff_frequency=cutoff, gains=None, tilt=0.0)(noise) - noise
    window = torch.hann_window(2 * RATE, dtype=torch.float64)
    power, own = (torch.fft.rfft(x[0, 0] * window).abs().square()[: round(2 * cutoff)] for x in (added, noise))
    assert 10 * torch.log10(power.sum() / own.sum()) < -60


def test_the_default_gains_fall_by_six_db_per_octave_between_the_middles_of_the_bands() -> None:
    assert build(cutoff_frequency=4000).gains == pytest.approx([-6 * math.log2(3)])
    assert build(cutoff_frequency=1000).gains == pytest.approx([-6 * math.log2(2 * k + 1) for k in range(1, 8)])
    assert build(cutoff_frequency=1000, tilt=0.0).gains == (0.0,) * 7
    assert build(cutoff_frequency=4000, gains=[-3.0]).gains == (-3.0,)


def test_folding_about_a_quarter_of_the_sample_rate_is_an_alternating_sign() -> None:
    x = tone(1234.0)
    folded = build(cutoff_frequency=4000, gains=[0.0])(x) - x
    signs = 1.0 - 2.0 * (torch.arange(x.shape[-1]) % 2)
    inside = slice(1000, -1000)
    torch.testing.assert_close(folded[..., inside], (signs * x)[..., inside], atol=1e-4, rtol=0)


def test_chunks_give_the_output_of_the_whole_file() -> None:
    """The carriers stay in phase at the start of a chunk, since chunks begin at whole frames."""
    model = Transposition(cutoff_frequency=1000.0)
    noise = 0.1 * torch.randn(1, 12345, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            enhance_signal(model, noise, chunk_seconds=0.2), model(noise[None])[0], atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "fold"}, "method='fold' must be one of folding, translation"),
        ({"cutoff_frequency": 7900.0}, "leaves no band"),
        ({"cutoff_frequency": 150.0}, "leaves no band"),
        ({"cutoff_frequency": 0.0, "transition_width": -1.0}, "transition_width=-1.0"),
        ({"cutoff_frequency": 4000.0, "gains": [0.0, -6.0]}, "must be one per new band, of which there are 1"),
        ({"attenuation": 20.0}, "attenuation=20.0"),
    ],
)
def test_invalid_arguments_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(**changes)


def test_transposition_and_identity_have_no_parameters_and_no_state() -> None:
    for model in (Transposition(), Identity()):
        assert not list(model.parameters())
        assert not model.state_dict()
    x = torch.randn(2, 3, 50)
    assert torch.equal(Identity(in_channels=3, skip_channel=1)(x), x[:, 1:2])
