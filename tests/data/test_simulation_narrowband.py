from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from draws import draw, seeded

from bcfusion.contracts import Draw, Simulator
from bcfusion.data.simulation.narrowband import FAMILIES, Narrowband
from bcfusion.errors import ConfigError

RATE = 16000


def white(length: int = 2 * RATE, seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(1, length, generator=seeded(seed))


def energy_above(signal: torch.Tensor, frequency: float, sample_rate: int = RATE) -> float:
    """Energy above a frequency relative to all of it, in dB, of the windowed signal."""
    windowed = signal[0].double() * torch.hann_window(signal.shape[-1], dtype=torch.float64)
    power = torch.fft.rfft(windowed).abs().square()
    above = torch.fft.rfftfreq(signal.shape[-1], 1 / sample_rate) > frequency
    return float(10 * torch.log10(power[above].sum() / power.sum() + 1e-20))


def gain(simulator: Narrowband, frequency: float, seed: int) -> float:
    """Gain in dB for a tone, of the tone itself and not of its aliases."""
    time = torch.arange(RATE, dtype=torch.float64) / RATE
    tone = torch.cos(2 * torch.pi * frequency * time)[None]
    out = simulator(tone.float(), draw(seed))["signal"].double()
    probe = torch.exp(-2j * torch.pi * frequency * time) * torch.hann_window(RATE, dtype=torch.float64)
    return float(20 * torch.log10((out[0] * probe).sum().abs() / (tone[0] * probe).sum().abs()))


def lag(signal: torch.Tensor, reference: torch.Tensor) -> int:
    """Delay of the signal in samples: the place of the largest cross-correlation with the reference."""
    spectrum = torch.fft.rfft(signal[0].double()) * torch.fft.rfft(reference[0].double()).conj()
    correlation = torch.fft.irfft(spectrum, n=signal.shape[-1])
    place = int(correlation.argmax())
    return place if place < signal.shape[-1] // 2 else place - signal.shape[-1]


@pytest.mark.parametrize(("rate", "sample_rate"), [(4000, 16000), (8000, 16000), (11025, 16000), (16000, 48000)])
def test_evaluation_keeps_the_band_and_nothing_above_it(rate: int, sample_rate: int) -> None:
    air = white(sample_rate)
    out = Narrowband(rate)(air, draw(0, False, rate=sample_rate))["signal"]
    assert energy_above(out, rate / 2, sample_rate) < -60
    kept = torch.fft.rfftfreq(air.shape[-1], 1 / sample_rate) < 0.85 * rate / 2
    window = torch.hann_window(air.shape[-1])
    difference = torch.fft.rfft((out - air)[0] * window)[kept].abs().square().sum()
    assert 10 * torch.log10(difference / torch.fft.rfft(air[0] * window)[kept].abs().square().sum()) < -60


def test_evaluation_draws_nothing() -> None:
    generator = seeded(3)
    before = generator.get_state()
    first = Narrowband()(white(), Draw(RATE, generator, generator, False))["signal"]
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(first, Narrowband()(white(), draw(4, False))["signal"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rate", [4000, 8000])
def test_every_family_is_aligned_with_the_target(family: str, rate: int) -> None:
    air = white(8000)
    simulator = Narrowband(rate, families=[family])
    for seed in range(3):
        assert lag(simulator(air, draw(seed))["signal"], air) == 0


@pytest.mark.parametrize("rate", [4000, 8000, 11025])
def test_evaluation_is_aligned_with_the_target(rate: int) -> None:
    air = white(16001)
    assert lag(Narrowband(rate)(air, draw(0, False))["signal"], air) == 0


@pytest.mark.parametrize("rate", [4000, 8000])
def test_what_training_leaves_above_the_band_is_bounded(rate: int) -> None:
    simulator = Narrowband(rate)
    for seed in range(12):
        out = simulator(white(8000), draw(seed))["signal"]
        assert energy_above(out, rate / 2) < -20
        assert 0.1 * (rate / RATE) ** 0.5 * 0.6 < float(out.std()) < 0.1 * (rate / RATE) ** 0.5 * 1.3


def test_a_gentle_filter_aliases_as_true_decimation_does() -> None:
    tone = torch.cos(2 * torch.pi * 5000 * torch.arange(RATE) / RATE)[None]
    alias = torch.cos(2 * torch.pi * 3000 * torch.arange(RATE) / RATE)[None]
    gentle = Narrowband(8000, cutoff_range=(0.9, 0.9), orders=(2, 2), families=["bessel"])
    steep = Narrowband(8000, cutoff_range=(0.9, 0.9), orders=(10, 10), families=["chebyshev"])
    measured = [float((s(tone, draw())["signal"] * alias).mean() * 2) for s in (gentle, steep)]
    assert measured[0] > 0.1
    assert abs(measured[1]) < 0.01


def test_families_differ_at_the_edge_of_the_band() -> None:
    def at_edge(family: str, frequency: float) -> float:
        return gain(Narrowband(8000, cutoff_range=(0.8, 0.8), orders=(6, 6), families=[family]), frequency, seed=5)

    # -6 dB at the cutoff, 3.2 kHz, for those whose cutoff is the half-power point of a pass
    for family in ("butterworth", "bessel", "chebyshev2", "sinc"):
        assert at_edge(family, 3200) == pytest.approx(-6.02, abs=0.1)
    inside = {family: at_edge(family, 2400) for family in FAMILIES}
    assert inside["bessel"] < -2.0
    assert inside["butterworth"] == pytest.approx(0.0, abs=0.3)
    # 3.6 kHz, just beyond the cutoff: from the gentlest to the steepest
    beyond = {family: at_edge(family, 3600) for family in FAMILIES}
    assert beyond["bessel"] > beyond["butterworth"] > beyond["chebyshev"] > beyond["elliptic"]


def test_ripple_belongs_to_chebyshev_and_elliptic_filters() -> None:
    frequencies = np.arange(200, 3100, 100)

    def ripple(family: str) -> float:
        simulator = Narrowband(8000, cutoff_range=(0.8, 0.8), orders=(8, 8), families=[family])
        return max(np.ptp([gain(simulator, float(f), seed) for f in frequencies[::3]]) for seed in (1, 2))

    assert ripple("chebyshev") > 0.1
    assert ripple("elliptic") > 0.1
    assert ripple("sinc") < 0.1


def test_training_draws_another_filter_each_time_and_the_same_from_the_same_seed() -> None:
    air = white(4000)
    simulator = Narrowband()
    drawn = [simulator(air, draw(seed))["signal"] for seed in range(8)]
    assert len({tuple(out[0, 1000:1010].tolist()) for out in drawn}) == 8
    torch.manual_seed(123)
    assert torch.equal(simulator(air, draw(2))["signal"], drawn[2])
    assert isinstance(simulator, Simulator)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_highest_orders_are_stable(family: str) -> None:
    simulator = Narrowband(4000, cutoff_range=(0.05, 1.0), orders=(10, 10), families=[family])
    for seed in range(6):
        out = simulator(torch.ones(1, 3000), draw(seed))["signal"]
        assert float(out.abs().max()) < 1.5


@pytest.mark.parametrize("length", [1, 2, 3, 7, 161, 16001])
@pytest.mark.parametrize("rate", [4000, 8000, 11025])
def test_any_length_and_silence(length: int, rate: int) -> None:
    simulator = Narrowband(rate)
    for training in (True, False):
        for air in (torch.zeros(1, length), white(length)):
            before = air.clone()
            out = simulator(air, draw(length, training))["signal"]
            assert out.shape == (1, length)
            assert out.dtype == torch.float32
            assert bool(out.isfinite().all())
            assert torch.equal(air, before)


def test_the_borders_do_not_fade() -> None:
    for rate in (4000, 8000):
        out = Narrowband(rate)(torch.full((1, 500), 0.5), draw(0, False))["signal"]
        torch.testing.assert_close(out, torch.full((1, 500), 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rate": 0}, "rate=0"),
        ({"rate": 4000.5}, "rate=4000.5"),
        ({"families": ["butterwurst"]}, "butterworth, chebyshev"),
        ({"families": []}, "one or more of"),
        ({"cutoff_range": (1.0, 0.8)}, "cutoff_range"),
        ({"cutoff_range": (0.5, 1.5)}, "cutoff_range"),
        ({"orders": (0, 4)}, "orders"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Narrowband(**settings)


def test_a_rate_that_is_not_narrow_is_refused() -> None:
    with pytest.raises(ConfigError, match="below the sample rate, 16000"):
        Narrowband(16000)(white(100), draw(0, False))
