from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from draws import draw, seeded

from bcfusion.contracts import BatchSimulator, Simulator
from bcfusion.data.simulation import reflect
from bcfusion.data.simulation.eben_lowpass import EbenLowpass, zero_phase_lowpass
from bcfusion.errors import ConfigError

RATE = 16000


def response(simulator: EbenLowpass, frequency: float, training: bool = False, seed: int = 0) -> float:
    """Gain in dB at a frequency, from the response to an impulse in the middle of two seconds."""
    impulse = torch.zeros(1, 2 * RATE)
    impulse[0, RATE] = 1.0
    out = simulator(impulse, draw(seed, training))["signal"][0].numpy().astype(np.float64)
    at = np.abs(np.sum(out * np.exp(-2j * np.pi * frequency / RATE * np.arange(len(out)))))
    return float(20 * np.log10(at))


@pytest.mark.parametrize(
    ("frequency", "decibels"), [(100.0, 0.24), (300.0, 1.79), (600.0, 0.00), (1200.0, -22.8), (2400.0, -50.3)]
)
def test_the_fixed_sensor_has_the_response_of_the_eben_paper(frequency: float, decibels: float) -> None:
    assert response(EbenLowpass(noise_std=0.0), frequency) == pytest.approx(decibels, abs=0.1)


def test_a_butterworth_quality_is_six_decibels_down_at_the_cutoff() -> None:
    assert response(EbenLowpass(q=0.707, noise_std=0.0), 600.0) == pytest.approx(-6.02, abs=0.02)


def test_the_sensor_is_aligned_with_the_air_microphone() -> None:
    impulse = torch.zeros(1, 4001)
    impulse[0, 2000] = 1.0
    out = EbenLowpass(noise_std=0.0)(impulse, draw(0, False))["signal"][0]
    assert int(out.abs().argmax()) == 2000
    torch.testing.assert_close(out, out.flip(0), atol=1e-6, rtol=0)


def test_peaks_beyond_full_scale_are_not_cut_off_between_the_passes() -> None:
    tone = torch.sin(2 * math.pi * 400 / RATE * torch.arange(RATE))[None]
    simulator = EbenLowpass(noise_std=0.0)
    loud = simulator(tone, draw(0, False))["signal"]
    quiet = simulator(0.01 * tone, draw(0, False))["signal"]
    assert float(loud.abs().max()) > 1.15
    torch.testing.assert_close(loud, 100 * quiet, atol=1e-4, rtol=0)


def test_mirrored_borders_keep_a_constant_constant() -> None:
    out = EbenLowpass(noise_std=0.0)(torch.full((1, 300), 0.5), draw(0, False))["signal"]
    torch.testing.assert_close(out, torch.full((1, 300), 0.5), atol=1e-4, rtol=0)


def test_the_noise_is_half_a_percent_of_the_low_passed_signal() -> None:
    air = torch.randn(1, 4 * RATE, generator=seeded(1))
    clean = EbenLowpass(noise_std=0.0)(air, draw(0, False))["signal"]
    noise = EbenLowpass()(air, draw(0, False))["signal"] - clean
    assert float(noise.std() / clean.std()) == pytest.approx(0.005, rel=0.02)
    flat = torch.stft(noise[0], 256, window=torch.hann_window(256), return_complex=True).abs().square().mean(-1)
    octaves = [float(flat[4:32].mean()), float(flat[64:128].mean())]
    assert octaves[0] == pytest.approx(octaves[1], rel=0.1)


def test_training_draws_cutoff_and_quality_and_evaluation_only_the_noise() -> None:
    quiet = EbenLowpass(noise_std=0.0)
    drawn = [response(quiet, 1200.0, training=True, seed=seed) for seed in range(24)]
    assert max(drawn) - min(drawn) > 5.0
    # 40 dB per decade far above the cutoff: 1.2 times the cutoff is 6.3 dB more
    assert -22.8 - 9.0 < min(drawn) < max(drawn) < -22.8 + 9.0
    # at the drawn cutoff the gain is Q squared: 0 dB at Q 1, so the peak moves with the drawn Q alone
    peaks = [max(response(quiet, f, True, seed) for f in range(300, 700, 20)) for seed in range(8)]
    assert max(peaks) - min(peaks) > 0.5
    assert {response(quiet, 1200.0, training=False, seed=seed) for seed in range(3)} == {response(quiet, 1200.0)}
    air = torch.randn(1, 800, generator=seeded(1))
    noisy = EbenLowpass()
    assert not torch.equal(noisy(air, draw(0, False))["signal"], noisy(air, draw(1, False))["signal"])


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_equals_its_items(training: bool) -> None:
    air = 0.1 * torch.randn(3, 1, 5001, generator=seeded(1))
    simulator = EbenLowpass(spread=0.5)
    assert isinstance(simulator, BatchSimulator)
    together = simulator.batch(air, [draw(n, training) for n in range(3)])["signal"]
    alone = torch.stack([simulator(air[n], draw(n, training))["signal"] for n in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("cutoff", "q"), [(600.0, 1.0), (100.0, 3.0), (3000.0, 0.3), (7900.0, 0.7)])
@pytest.mark.parametrize("length", [1, 2, 50, 4000])
def test_the_filter_is_the_cookbook_biquad_run_both_ways(cutoff: float, q: float, length: int) -> None:
    signal = torch.randn(1, 1, length, generator=seeded(2), dtype=torch.float64)
    angle = 2 * math.pi * cutoff / RATE
    alpha, cosine = math.sin(angle) / (2 * q), math.cos(angle)
    numerator = torch.tensor([(1 - cosine) / 2, 1 - cosine, (1 - cosine) / 2], dtype=torch.float64)
    denominator = torch.tensor([1 + alpha, -2 * cosine, 1 - alpha], dtype=torch.float64)
    pad = 4000
    both_ways = torchaudio.functional.filtfilt(reflect(signal, pad), denominator, numerator, clamp=False)
    expected = both_ways[..., pad : pad + length]
    torch.testing.assert_close(zero_phase_lowpass(signal, RATE, [cutoff], [q]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_one_seed_gives_the_same_bytes_whatever_the_global_seed(training: bool) -> None:
    air = torch.randn(1, 5000, generator=seeded(1))
    torch.manual_seed(1)
    first = EbenLowpass()(air, draw(7, training))["signal"]
    torch.manual_seed(2)
    second = EbenLowpass()(air, draw(7, training))["signal"]
    assert torch.equal(first, second)
    assert isinstance(EbenLowpass(), Simulator)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 1000, 16001])
def test_any_length_and_silence(length: int) -> None:
    for air in (torch.zeros(1, length), torch.randn(1, length, generator=seeded(length))):
        before = air.clone()
        out = EbenLowpass()(air, draw())["signal"]
        assert out.shape == (1, length)
        assert out.dtype == torch.float32
        assert bool(out.isfinite().all())
        assert torch.equal(air, before)
    assert not EbenLowpass()(torch.zeros(1, length), draw())["signal"].any()


def test_reflection_continues_beyond_the_length_of_the_signal() -> None:
    assert reflect(torch.tensor([[1.0, 2.0, 3.0]]), 5).tolist() == [[2, 1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2]]
    assert reflect(torch.tensor([[4.0]]), 2).tolist() == [[4, 4, 4, 4, 4]]
    signal = torch.arange(20.0)[None]
    assert torch.equal(reflect(signal, 7), torch.nn.functional.pad(signal, (7, 7), mode="reflect"))


def test_wrong_settings_are_reported_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        EbenLowpass(cutoff_frequency=-1.0, q=0.0, spread=1.0, noise_std=-0.1)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="sample rate above 16800 Hz"):
        EbenLowpass(cutoff_frequency=7000.0)(torch.zeros(1, 10), draw(0, False))


@pytest.mark.slow
@pytest.mark.corpora
def test_real_speech_through_the_sensor_scores_as_measured(corpora: Path) -> None:
    from pesq import pesq
    from pystoi import stoi

    from bcfusion import audio

    clips = sorted((corpora / "librispeech_clips" / "valid").rglob("*.flac"))
    scores = []
    for number, path in enumerate(clips):
        air, rate = audio.read(path)
        body = EbenLowpass()(torch.from_numpy(air), draw(number, False, rate=rate))["signal"][0].numpy()
        target, estimate = air[0].astype(np.float64), body.astype(np.float64)
        projection = target * (estimate @ target) / (target @ target)
        si_sdr = 10 * np.log10(np.sum(projection**2) / np.sum((estimate - projection) ** 2))
        scores.append((stoi(target, estimate, rate), pesq(rate, air[0], body, "wb"), si_sdr))
    assert len(scores) == 31
    assert np.mean(scores, 0)[0] == pytest.approx(0.843, abs=0.002)
    assert np.mean(scores, 0)[1] == pytest.approx(2.36, abs=0.01)
    assert np.mean(scores, 0)[2] == pytest.approx(7.69, abs=0.03)
