from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from draws import draw, seeded
from scipy import signal as scipy_signal

from bcfusion.data.simulation.calibration import Calibration, Response
from bcfusion.data.simulation.frames import grid
from bcfusion.data.simulation.transfer_function import TransferFunction
from bcfusion.errors import ConfigError

RATE = 16000


def curve(gain: float, slope: float) -> np.ndarray:
    """A throat's, roughly: flat to 300 Hz, then a slope, with a bump at 1.5 kHz."""
    at = grid(RATE)
    bump = 5.0 * np.exp(-0.5 * ((at - 1500.0) / 300.0) ** 2)
    return gain - slope * np.log2(np.maximum(at, 300.0) / 300.0) + bump


def response(name: str, gain: float, slope: float) -> Response:
    flat = np.ones(len(grid(RATE)))
    shape = curve(gain, slope)
    return Response(
        name,
        (name,),
        5.0,
        0.0,
        1,
        gain,
        shape,
        shape,
        shape,
        flat,
        6 * flat,
        -0.5 * flat,
        4 * flat,
        -70 * flat,
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("calibration") / "one.json"
    Calibration("body", RATE, grid(RATE), (response("a", 3.0, 6.0),)).save(file)
    return str(file)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("calibration") / "two.json"
    responses = (response("a", 0.0, 4.0), response("b", 6.0, 8.0))
    Calibration("body", RATE, grid(RATE), responses).save(file)
    return str(file)


def measured(
    simulator: TransferFunction, rate: int = RATE, training: bool = False, body: int = 0, seed: int = 0
) -> np.ndarray:
    """Response in dB over the grid, from white noise by Welch."""
    white = 0.1 * torch.randn(1, 8 * rate, generator=seeded(99))
    out = simulator(white, draw(seed, training, body, rate=rate))["signal"]
    at, powers = scipy_signal.welch(torch.cat([white, out]).numpy(), rate, nperseg=1024)
    return np.interp(grid(RATE), at, 10 * np.log10(powers[1] / powers[0]))


def fixed(file: str, **more: Any) -> TransferFunction:
    return TransferFunction(file, wander=0.0, follow="none", noise=False, **more)


BAND = (grid(RATE) > 80) & (grid(RATE) < 7800)


def test_the_fixed_filter_has_the_measured_response(one: str) -> None:
    np.testing.assert_allclose(measured(fixed(one))[BAND], curve(3.0, 6.0)[BAND], atol=0.7)


@pytest.mark.parametrize("rate", [8000, 24000])
def test_at_other_sample_rates_it_is_the_same_response(one: str, rate: int) -> None:
    band = (grid(RATE) > 80) & (grid(RATE) < min(0.45 * rate, 7800))
    np.testing.assert_allclose(measured(fixed(one), rate)[band], curve(3.0, 6.0)[band], atol=1.0)


@pytest.mark.parametrize("moving", [{"follow": "none"}, {"wander": 0.0}, {}])
def test_a_filter_that_moves_keeps_the_long_term_spectrum(one: str, moving: dict[str, Any]) -> None:
    found = measured(TransferFunction(one, noise=False, **moving))
    assert abs(np.mean(found[BAND] - curve(3.0, 6.0)[BAND])) < 1.0
    smooth = np.convolve(found - curve(3.0, 6.0), np.ones(16) / 16, "same")
    assert np.abs(smooth[BAND][16:-16]).max() < 2.5


def deviation(out: torch.Tensor, air: torch.Tensor) -> tuple[float, float]:
    """Return the deviation of the short-time ratio around 1 kHz in dB, and its slope over air's level."""
    frames = [scipy_signal.stft(x[0].numpy(), RATE, nperseg=512)[2] for x in (out, air)]
    powers = [10 * np.log10(np.sum(np.abs(frame[22:43, 4:-4]) ** 2, axis=0) + 1e-12) for frame in frames]
    ratio = powers[0] - powers[1]
    return float(np.std(ratio)), float(np.polyfit(powers[1], ratio, 1)[0])


def test_it_moves_as_much_as_was_measured_and_falls_where_air_is_loud(one: str) -> None:
    loudness = np.interp(
        np.arange(12 * RATE) / RATE, np.arange(0, 12.5, 0.25), np.random.default_rng(0).uniform(-12, 8, 50)
    )
    air = 0.05 * torch.randn(1, 12 * RATE, generator=seeded(5)) * torch.from_numpy(10 ** (loudness / 20)).float()

    def run(**options: Any) -> tuple[float, float]:
        return deviation(TransferFunction(one, noise=False, **options)(air, draw(0, False))["signal"], air)

    assert run(wander=0.0, follow="none")[0] < 0.8
    assert run(follow="none")[0] == pytest.approx(6.0, rel=0.25)
    assert run(wander=0.5, follow="none")[0] == pytest.approx(3.0, rel=0.25)
    assert run(wander=0.0)[1] == pytest.approx(-0.5, abs=0.12)


def test_it_is_aligned_with_air_and_silent_before_it(one: str) -> None:
    impulse = torch.zeros(1, 4000)
    impulse[0, 2000] = 1.0
    out = fixed(one)(impulse, draw(0, False))["signal"][0]
    assert float(out[:2000].abs().max()) < 1e-5
    assert 2000 <= int(out.abs().argmax()) <= 2004


def test_the_noise_has_the_measured_density_below_speech_and_remains_in_silence(one: str) -> None:
    air = torch.zeros(1, 4 * RATE)
    density = []
    for level in (0.0, 10 ** (-26 / 20), 0.2):
        tone = level * np.sqrt(2) * torch.sin(2 * torch.pi * 200 / RATE * torch.arange(4 * RATE))[None]
        quiet = fixed(one)(tone, draw(0, False))["signal"]
        noisy = TransferFunction(one, 0.0, "none")(tone, draw(0, False))["signal"]
        power = scipy_signal.welch((noisy - quiet)[0].numpy(), RATE, nperseg=512)[1]
        density.append(10 * np.log10(np.mean(power[8:-8])) - 20 * np.log10(level or 10 ** (-26 / 20)))
    np.testing.assert_allclose(density, -70.0, atol=0.3)
    assert bool(TransferFunction(one)(air, draw())["signal"].isfinite().all())


def test_a_speaker_has_one_response_between_those_measured(two: str) -> None:
    simulator = fixed(two)
    np.testing.assert_array_equal(measured(simulator, body=1, seed=2), measured(simulator, body=1, seed=3))
    speakers = np.stack([measured(simulator, body=number)[BAND] for number in range(6)])
    low, high = np.minimum(curve(0, 4), curve(6, 8))[BAND], np.maximum(curve(0, 4), curve(6, 8))[BAND]
    assert (speakers > low - 0.7).all()
    assert (speakers < high + 0.7).all()
    assert np.std(speakers[:, :10], axis=0).min() > 0.5


def test_training_adds_ripple_and_tilt_by_speaker_and_a_little_by_utterance(one: str) -> None:
    plain = measured(fixed(one))[BAND]
    same = [measured(fixed(one), training=True, body=1, seed=seed)[BAND] - plain for seed in (2, 3)]
    others = np.stack([measured(fixed(one), training=True, body=number)[BAND] - plain for number in range(8)])
    assert 0.3 < np.std(same[0] - same[1]) < 3.0
    assert np.std(others, axis=0).mean() > 1.5
    assert np.abs(np.mean(others)) < 2.5
    still = fixed(one, ripple=0.0, tilt=0.0, utterance_ripple=0.0)
    np.testing.assert_array_equal(measured(still, training=True), measured(still))


def test_wrong_settings_are_reported(one: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TransferFunction(one, ripple=-1.0, tilt=float("nan"), utterance_ripple=-2.0, seconds=1.0)
    assert len(caught.value.problems) == 4
