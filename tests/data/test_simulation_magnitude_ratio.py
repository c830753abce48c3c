from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from draws import draw, seeded
from scipy import signal as scipy_signal

from bcfusion.data.simulation.calibration import Calibration, Response
from bcfusion.data.simulation.frames import grid
from bcfusion.data.simulation.magnitude_ratio import MagnitudeRatio
from bcfusion.errors import ConfigError

RATE = 16000
GRID = grid(RATE)
BAND = (GRID > 80) & (GRID < 7800)


def curve(gain: float) -> np.ndarray:
    return gain - 6.0 * np.log2(np.maximum(GRID, 300.0) / 300.0)


@pytest.fixture(scope="module")
def throat(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two wearers, 4 dB apart at low and 12 dB at high frequencies: mean 0 dB up to 300 Hz, then -6 dB per octave."""
    flat = np.ones(len(GRID))
    apart = 2.0 + 4.0 * GRID / GRID[-1]
    shapes = {"a": curve(0.0) - apart, "b": curve(0.0) + apart}
    responses = [
        Response(
            name,
            (name,),
            5.0,
            0.0,
            1,
            0.0,
            shape,
            shape,
            shape,
            flat,
            6 * flat,
            -0.5 * flat,
            4 * flat,
            -70 * flat,
        )
        for name, shape in shapes.items()
    ]
    file = tmp_path_factory.mktemp("calibration") / "throat.json"
    Calibration("body", RATE, GRID, tuple(responses)).save(file)
    return str(file)


def measured(simulator: MagnitudeRatio, body: int = 0, seed: int = 0) -> np.ndarray:
    white = 0.1 * torch.randn(1, 8 * RATE, generator=seeded(99))
    out = simulator(white, draw(seed, True, body))["signal"]
    powers = scipy_signal.welch(torch.cat([white, out]).numpy(), RATE, nperseg=512)[1]
    return 10 * np.log10(powers[1] / powers[0])


def mean_one(file: str, **more: Any) -> MagnitudeRatio:
    return MagnitudeRatio(file, wearer_spread=0.0, noise=False, **more)


def test_without_wandering_it_is_the_mean_response(throat: str) -> None:
    found = measured(mean_one(throat, wander=0.0, follow="none"))
    np.testing.assert_allclose(found[BAND], curve(0.0)[BAND], atol=0.5)


@pytest.mark.parametrize("moving", [{"follow": "none"}, {"wander": 0.0}, {}])
def test_frames_that_deviate_keep_the_long_term_spectrum(throat: str, moving: dict[str, Any]) -> None:
    difference = measured(mean_one(throat, **moving))[BAND] - curve(0.0)[BAND]
    assert abs(np.mean(difference)) < 1.0
    assert np.abs(np.convolve(difference, np.ones(16) / 16, "valid")).max() < 2.5


def short_time_ratio(out: torch.Tensor, air: torch.Tensor) -> np.ndarray:
    frames = [np.abs(scipy_signal.stft(x[0].numpy(), RATE, nperseg=512, noverlap=384)[2][:, 8:-8]) for x in (out, air)]
    powers = [np.stack([np.sum(x[a : a + 16] ** 2, axis=0) for a in range(16, 240, 16)]) for x in frames]
    return np.asarray(10 * np.log10(powers[0] / powers[1]))


def test_deviation_from_frame_to_frame_is_as_measured_and_smooth(throat: str) -> None:
    air = 0.1 * torch.randn(1, 12 * RATE, generator=seeded(5))
    out = mean_one(throat, follow="none")(air, draw(0, False))["signal"]
    ratio = short_time_ratio(out, air)
    assert np.std(ratio, axis=1).mean() == pytest.approx(6.0, rel=0.25)
    centred = ratio - ratio.mean(axis=1, keepdims=True)
    after = {hops: np.mean(centred[:, hops:] * centred[:, :-hops]) / np.mean(centred**2) for hops in (1, 4, 16)}
    assert after[1] > 0.8  # 8 ms later
    assert 0.3 < after[4] < 0.8
    assert abs(after[16]) < 0.2
    assert np.mean(centred[1:] * centred[:-1]) / np.mean(centred**2) > 0.5


def test_phases_are_those_of_air(throat: str) -> None:
    air = 0.1 * torch.randn(1, 4 * RATE, generator=seeded(5))
    out = mean_one(throat, wander=0.0, follow="none")(air, draw(0, False))["signal"]
    lags = scipy_signal.correlate(out[0].numpy(), air[0].numpy(), "full")
    assert int(np.argmax(lags)) == 4 * RATE - 1
    np.testing.assert_allclose(
        lags[4 * RATE : 4 * RATE + 50], lags[4 * RATE - 51 : 4 * RATE - 1][::-1], atol=0.02 * lags.max()
    )


def test_a_speaker_has_a_level_and_a_curve_of_its_own(throat: str) -> None:
    simulator = MagnitudeRatio(throat, wander=0.0, follow="none", noise=False)
    np.testing.assert_array_equal(measured(simulator, 1, 2), measured(simulator, 1, 3))
    speakers = np.stack([measured(simulator, body)[BAND] - curve(0.0)[BAND] for body in range(12)])
    spread = np.sqrt(np.mean(speakers**2, axis=0))
    # two wearers at +-apart: the deviation is sqrt(2) apart; its mean over frequency the level's, the rest the curve's
    assert 2.5 < spread.mean() < 9.5
    assert np.std(speakers - speakers.mean(axis=1, keepdims=True), axis=1).mean() > 0.5


def test_wrong_settings_are_reported(throat: str) -> None:
    with pytest.raises(ConfigError, match="wearer_spread=-1"):
        MagnitudeRatio(throat, wearer_spread=-1.0)
