from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from draws import draw, seeded
from scipy import signal as scipy_signal

from bcfusion.contracts import BatchSimulator
from bcfusion.data.simulation.accelerometer import LOWPASSES, Accelerometer, resonance
from bcfusion.data.simulation.device_simulation import deferrable
from bcfusion.errors import ConfigError, DataError

RATE = 16000
#: a sensor that adds nothing to its filter
BARE: dict[str, Any] = {"noise_level": None}
#: a sensor whose filter is a first-order low-pass at 500 Hz alone
PLAIN: dict[str, Any] = {
    "families": ["butterworth"],
    "orders": (1, 1),
    "cutoff": (500, 500),
    "tilt": (0, 0),
    "resonances": (0, 0),
    "gain": (0, 0),
}


def gains(simulator: Accelerometer, frequencies: list[float], speaker: int = 0, rate: int = RATE) -> np.ndarray:
    """Gain in dB at frequencies, from the sensor's response to an impulse."""
    impulse = torch.zeros(1, rate)
    impulse[0, 0] = 1.0
    out = simulator(impulse, draw(0, True, speaker, rate=rate))["signal"][0].double().numpy()
    turns = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(rate)) / rate)
    return 20 * np.log10(np.abs(turns @ out))


def spectrum(noise: torch.Tensor) -> np.ndarray:
    """Power density, by Welch's method, of ``(1, T)``."""
    return scipy_signal.welch(noise[0].double().numpy(), RATE, nperseg=1024)[1]


@pytest.mark.parametrize("family", ["butterworth", "bessel", "damped"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_low_passes_are_three_decibels_down_at_the_cutoff(family: str, order: int) -> None:
    simulator = Accelerometer(**{**PLAIN, "families": [family], "orders": (order, order)}, **BARE)
    assert gains(simulator, [10, 500]) == pytest.approx([0.0, -3.01], abs=0.02)
    # far above the cutoff every order takes 6 dB per octave
    assert np.diff(gains(simulator, [3500, 7000]))[0] == pytest.approx(-6.02 * order, abs=0.4 * order)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_chebyshev_ripples_up_to_the_cutoff(order: int) -> None:
    response = LOWPASSES["chebyshev"](torch.linspace(0, 1, 400, dtype=torch.float64), order, seeded(order))
    ripple = float(20 * response.log10().min())
    assert -1.0 < ripple < -0.1
    assert float(20 * response[-1].log10()) == pytest.approx(ripple, abs=1e-6)
    assert float(response.max()) == pytest.approx(1.0, abs=1e-4)
    beyond = LOWPASSES["chebyshev"](torch.tensor([4.0, 8.0], dtype=torch.float64), order, seeded(order))
    assert float(20 * (beyond[1] / beyond[0]).log10()) == pytest.approx(-6.02 * order, abs=3.0)


def test_a_resonance_is_the_cookbook_peaking_filter() -> None:
    centre, q, decibels = 1000.0, 2.0, 8.0
    amplitude, angle = 10 ** (decibels / 40), 2 * math.pi * centre / 192000
    alpha = math.sin(angle) / (2 * q)
    _, expected = scipy_signal.freqz(
        [1 + alpha * amplitude, -2 * math.cos(angle), 1 - alpha * amplitude],
        [1 + alpha / amplitude, -2 * math.cos(angle), 1 - alpha / amplitude],
        [300, 900, 1000, 1100, 4000],
        fs=192000,
    )
    x = torch.tensor([0.3, 0.9, 1.0, 1.1, 4.0], dtype=torch.float64)
    found = resonance(x, decibels, q).log10() * 20
    assert found.numpy() == pytest.approx(20 * np.log10(np.abs(expected)), abs=0.01)
    assert float(found[2]) == pytest.approx(8.0, abs=1e-9)


def test_tilt_turns_at_250_hertz_and_leaves_what_is_below_100() -> None:
    plain = gains(Accelerometer(**PLAIN, **BARE), [20, 100, 250, 1000, 4000])
    tilted = gains(Accelerometer(**{**PLAIN, "tilt": (-3, -3)}, **BARE), [20, 100, 250, 1000, 4000])
    below = 3 * math.log2(2.5)
    assert tilted - plain == pytest.approx([below, below, 0, -6, -12], abs=0.05)


def test_resonances_show_in_the_measured_response() -> None:
    one = {"resonances": (1, 1), "resonance_frequency": (2000, 2000), "resonance_gain": (9, 9), "resonance_q": (3, 3)}
    lifted = gains(Accelerometer(**{**PLAIN, **one}, **BARE), [200, 2000]) - gains(
        Accelerometer(**PLAIN, **BARE), [200, 2000]
    )
    assert lifted == pytest.approx([0, 9], abs=0.05)


def test_the_response_is_that_of_the_drawn_wearer_whatever_the_rate() -> None:
    simulator = Accelerometer(**BARE)
    frequencies = [100.0, 250.0, 700.0, 2000.0, 3500.0]
    for speaker in range(6):
        wearer = simulator.wearer(torch.tensor(frequencies, dtype=torch.float64), RATE, seeded(speaker))
        wanted = 20 * np.log10(wearer.response.numpy() * wearer.gain)
        audible = wanted > -80  # what single precision and the filter's length leave
        assert audible.sum() > 2
        for rate in (RATE, 48000):
            assert gains(simulator, frequencies, speaker, rate)[audible] == pytest.approx(wanted[audible], abs=0.1)


def test_a_wearer_belongs_to_the_speaker_in_training_and_in_evaluation() -> None:
    air = 0.1 * torch.randn(1, 4000, generator=seeded(5))
    simulator = Accelerometer(**BARE)
    for training in (True, False):
        first = simulator(air, draw(1, training, 7))["signal"]
        assert torch.equal(first, simulator(air, draw(2, training, 7))["signal"])
        assert not torch.allclose(first, simulator(air, draw(1, training, 8))["signal"], atol=1e-3)
    drawn = np.array([gains(simulator, [250.0, 1000.0, 4000.0], speaker) for speaker in range(40)])
    # gain relative to 250 Hz: measured throat sensors lie inside, -13 dB and -20 dB
    relative = drawn[:, 1:] - drawn[:, :1]
    assert relative[:, 0].min() < -13 < relative[:, 0].max()
    assert relative[:, 1].min() < -40 < -20 < relative[:, 1].max()


def test_without_a_body_each_utterance_has_a_wearer_of_its_own() -> None:
    air = 0.1 * torch.randn(1, 4000, generator=seeded(5))
    simulator = Accelerometer(**BARE)
    first = simulator(air, draw(1, False))["signal"]
    assert torch.equal(first, simulator(air, draw(1, False))["signal"])
    assert not torch.allclose(first, simulator(air, draw(2, False))["signal"], atol=1e-3)


def test_gain_polarity_and_delay() -> None:
    impulse = torch.zeros(1, 400)
    impulse[0, 100] = 1.0
    plain = Accelerometer(**PLAIN, **BARE)(impulse, draw(0, True, 0))["signal"]
    assert int(plain.abs().argmax()) in (100, 101)  # minimum phase: nothing before the sound, and most of it at once
    assert float(plain[0, :100].abs().max()) < 1e-6
    settings = {**PLAIN, "gain": (6.0206, 6.0206), "inverted": 1.0, "delay": (0.002, 0.002)}
    other = Accelerometer(**settings, **BARE)(impulse, draw(0, True, 0))["signal"]
    torch.testing.assert_close(other[:, 32:], -2 * plain[:, :-32], atol=1e-5, rtol=0)
    assert float(other[0, :132].abs().max()) < 1e-6


def test_the_share_of_inverted_speakers() -> None:
    simulator = Accelerometer(inverted=0.25)
    frequency = torch.ones(1, dtype=torch.float64)
    inverted = [simulator.wearer(frequency, RATE, seeded(speaker)).gain < 0 for speaker in range(400)]
    assert np.mean(inverted) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_noise_has_its_level_and_colour(exponent: float) -> None:
    simulator = Accelerometer(**PLAIN, noise_level=(-60, -60), noise_exponent=(exponent, exponent))
    noise = simulator(torch.zeros(1, 10 * RATE + 1), draw(0, True, 0))["signal"]
    assert float(20 * noise.square().mean().sqrt().log10()) == pytest.approx(-60, abs=0.1)
    density = spectrum(noise)
    octaves = np.array([density[low : 2 * low].mean() for low in (16, 64, 256)])
    assert 10 * np.log10(octaves[1:] / octaves[:-1]) == pytest.approx([-6.02 * exponent] * 2, abs=0.6)


def test_the_noise_changes_with_the_utterance_and_its_level_is_fixed_in_evaluation() -> None:
    silence = torch.zeros(1, 8000)
    simulator = Accelerometer(gain=(0, 0), noise_level=(-80, -40))

    def level(seed: int, training: bool) -> float:
        noise = simulator(silence, draw(seed, training, 0))["signal"]
        return float(20 * noise.square().mean().sqrt().log10())

    assert np.std([level(seed, True) for seed in range(8)]) > 5
    assert [level(seed, False) for seed in range(8)] == pytest.approx([-60] * 8, abs=0.6)
    audible = [simulator(silence, draw(seed, False, 0))["signal"] for seed in (0, 1, 0)]
    assert torch.equal(audible[0], audible[2])
    assert not torch.equal(audible[0], audible[1])


def test_the_source_bandwidth_limits_speech_and_noise() -> None:
    air = 0.1 * torch.randn(1, 4 * RATE, generator=seeded(1))
    limited = Accelerometer(**{**PLAIN, "cutoff": (2000, 2000)}, bandwidth=(4000, 4000), noise_level=(-50, -50))
    density = 10 * np.log10(spectrum(limited(air, draw(0, True, 0))["signal"]))
    bins = RATE / 1024
    assert density[int(4100 / bins) :].max() < density[int(3500 / bins)] - 60
    response = gains(Accelerometer(**PLAIN, bandwidth=(4000, 4000), **BARE), [1000, 3500, 4010])
    assert response[:2] == pytest.approx(gains(Accelerometer(**PLAIN, **BARE), [1000, 3500]), abs=0.05)
    assert response[2] < -70


def noise_files(root: Path) -> str:
    for split, hertz in (("train", 1000), ("valid", 2000)):
        (root / split).mkdir(parents=True)
        tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(2 * RATE) / RATE)
        soundfile.write(root / split / "tone.wav", tone, RATE)
    return str(root)


def test_ambient_noise_leaks_through_the_same_filter(tmp_path: Path) -> None:
    air = 0.1 * torch.randn(1, RATE, generator=seeded(1))
    leaky = Accelerometer(**PLAIN, **BARE, leak_root=noise_files(tmp_path), leak_snr=(10, 30))
    tight = Accelerometer(**PLAIN, **BARE)
    for training, hertz in ((True, 1000), (False, 2000)):
        leak = leaky(air, draw(0, training, 0))["signal"]
        leak = leak - tight(air, draw(0, training, 0))["signal"]
        power = torch.fft.rfft(leak[0]).abs()
        assert int(power.argmax()) == hertz
    # of the evaluation: -20 dB, and a first-order low-pass at 500 Hz is 12.3 dB down at 2 kHz
    assert float(20 * (leak.std() / air.std()).log10()) == pytest.approx(-20 - 12.3, abs=0.2)


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_equals_its_items(training: bool, tmp_path: Path) -> None:
    air = 0.1 * torch.randn(4, 1, 5001, generator=seeded(1))
    simulator = Accelerometer(
        delay=(0, 0.01), inverted=0.5, bandwidth=(2000, 8000), leak_root=noise_files(tmp_path), noise_level=(-50, -40)
    )
    assert isinstance(simulator, BatchSimulator)
    together = simulator.batch(air, [draw(number, training, 10 + number) for number in range(4)])
    for number in range(4):
        alone = simulator(air[number], draw(number, training, 10 + number))["signal"]
        torch.testing.assert_close(together["signal"][number], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 17, 16001])
def test_any_length_and_silence(length: int) -> None:
    simulator = Accelerometer(delay=(0.01, 0.01))
    for air in (torch.zeros(1, length), torch.randn(1, length, generator=seeded(length))):
        before = air.clone()
        out = simulator(air, draw(0, True, 0))["signal"]
        assert out.shape == (1, length)
        assert out.dtype == torch.float32
        assert bool(out.isfinite().all())
        assert torch.equal(air, before)


def test_it_travels_to_worker_processes() -> None:
    air = 0.1 * torch.randn(1, 500, generator=seeded(1))
    restored = pickle.loads(pickle.dumps(Accelerometer()))
    assert torch.equal(
        restored(air, draw(0, True, 0))["signal"],
        Accelerometer()(air, draw(0, True, 0))["signal"],
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"families": ["butterwurst"]}, "butterworth, chebyshev, bessel, damped"),
        ({"families": []}, "one or more of"),
        ({"orders": (0, 4)}, "orders"),
        ({"cutoff": (1500, 300)}, "cutoff"),
        ({"resonances": (-1, 2)}, "resonances"),
        ({"resonance_q": (0, 1)}, "resonance_q"),
        ({"inverted": 1.5}, "inverted=1.5"),
        ({"delay": (0, 5)}, "delay"),
        ({"noise_level": (-60, 20)}, "noise_level"),
        ({"bandwidth": (4000,)}, "two numbers"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Accelerometer(**settings)


def test_a_wrong_folder_of_leaking_noise_is_reported_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)leak_root of Accelerometer.*nowhere|nowhere.*leak_root of Accelerometer"):
        Accelerometer(leak_root=str(tmp_path / "nowhere"))


def test_a_sensor_that_reads_leaking_noise_stays_with_the_loader(tmp_path: Path) -> None:
    sensors = {"body": Accelerometer(), "leaky": Accelerometer(leak_root=noise_files(tmp_path))}
    assert deferrable(sensors) == {"body"}
