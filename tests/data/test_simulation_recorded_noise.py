from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from draws import draw, seeded

from bcfusion.contracts import Simulator
from bcfusion.data.simulation.accelerometer import Accelerometer
from bcfusion.data.simulation.clean import Clean
from bcfusion.data.simulation.eben_lowpass import EbenLowpass
from bcfusion.data.simulation.recorded_noise import RecordedNoise
from bcfusion.errors import ConfigError, DataError

RATE = 16000


def speech(length: int = 8000) -> torch.Tensor:
    return 0.05 * torch.randn(1, length, generator=seeded(1))


def store(path: Path, samples: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), RATE, subtype="FLOAT")
    return str(path.parent)


def hum(hertz: float, seconds: float = 2.0, peak: float = 0.01) -> np.ndarray:
    return peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def added(simulator: RecordedNoise, training: bool, seed: int = 0, length: int = 8000) -> torch.Tensor:
    """The noise alone, by adding it to silence."""
    return simulator(torch.zeros(1, length), draw(seed, training))["signal"][0]


def pitch(noise: torch.Tensor) -> float:
    return float(torch.fft.rfft(noise).abs().argmax()) * RATE / len(noise)


def decibels(noise: torch.Tensor) -> float:
    return float(20 * noise.double().square().mean().sqrt().log10())


def test_the_noise_is_added_to_what_the_inner_simulator_makes(tmp_path: Path) -> None:
    root = store(tmp_path / "hum.wav", hum(300))
    inner = EbenLowpass(noise_std=0.0)
    quiet = inner(speech(), draw(0, False))["signal"]
    noise = (RecordedNoise(inner, root, level=(-40, -40))(speech(), draw(0, False))["signal"] - quiet)[0]
    assert pitch(noise) == 300
    assert decibels(noise) == pytest.approx(-40, abs=0.05)


def test_the_level_is_drawn_in_training_fixed_in_evaluation_and_that_of_the_slice(tmp_path: Path) -> None:
    root = store(tmp_path / "climbing.wav", hum(300, 6.0) * np.logspace(-2, 0, 6 * RATE))
    simulator = RecordedNoise(Clean(), root, level=(-70, -40))
    drawn = [decibels(added(simulator, True, seed)) for seed in range(40)]
    assert -70.01 < min(drawn) < -64
    assert -46 < max(drawn) < -39.99
    assert [decibels(added(simulator, False, seed)) for seed in range(4)] == pytest.approx([-55] * 4, abs=0.01)


def test_without_a_level_the_recording_is_taken_as_it_is(tmp_path: Path) -> None:
    root = store(tmp_path / "steady.wav", np.full(20000, 0.003))
    noise = added(RecordedNoise(Clean(), root, level=None), True)
    torch.testing.assert_close(noise, torch.full((8000,), 0.003), atol=1e-6, rtol=0)


def test_training_and_evaluation_use_different_parts_of_a_folder(tmp_path: Path) -> None:
    root = store(tmp_path / "two.wav", np.concatenate([hum(300, 4.0), hum(500, 1.0)]))
    simulator = RecordedNoise(Clean(), root)
    assert {pitch(added(simulator, True, seed)) for seed in range(12)} == {300.0}
    assert {pitch(added(simulator, False, seed)) for seed in range(12)} == {500.0}


def test_a_manifest_gives_split_part_and_channel(tmp_path: Path) -> None:
    stereo = np.stack([hum(900, 4.0), np.concatenate([hum(300, 2.0), hum(500, 2.0)])], 1)
    store(tmp_path / "session.wav", stereo)
    lines = [
        {"body": "session.wav", "body_channel": 1, "split": "train", "offset": 0.0, "duration": 2.0, "id": "a"},
        {"body": "session.wav", "body_channel": 1, "split": "test", "offset": 2.0, "duration": 2.0, "id": "b"},
    ]
    manifest = tmp_path / "pauses.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    simulator = RecordedNoise(Clean(), str(manifest), column="body")
    assert {pitch(added(simulator, True, seed)) for seed in range(8)} == {300.0}
    assert {pitch(added(simulator, False, seed)) for seed in range(8)} == {500.0}
    with pytest.raises(DataError, match="noise"):
        RecordedNoise(Clean(), str(manifest))


def test_an_utterance_has_its_noise_in_every_run(tmp_path: Path) -> None:
    root = store(tmp_path / "white.wav", 0.01 * np.random.default_rng(0).standard_normal(5 * RATE))
    first = added(RecordedNoise(Clean(), root), False, seed=3)
    torch.manual_seed(99)
    assert torch.equal(first, added(RecordedNoise(Clean(), root), False, seed=3))
    assert not torch.equal(first, added(RecordedNoise(Clean(), root), False, seed=4))


def test_it_models_the_wearer_if_the_inner_one_does(tmp_path: Path) -> None:
    root = store(tmp_path / "hum.wav", hum(300, peak=1e-4))
    worn = RecordedNoise(Accelerometer(noise_level=None), root)
    first = worn(speech(), draw(0, False, 7))["signal"]
    assert not torch.allclose(first, worn(speech(), draw(0, False, 8))["signal"], atol=1e-3)
    assert isinstance(worn, Simulator)


@pytest.mark.parametrize("length", [1, 3, 70000])
def test_any_length_and_digital_silence(length: int, tmp_path: Path) -> None:
    for name, samples in (("hum", hum(300)), ("silent", np.zeros(RATE))):
        simulator = RecordedNoise(Clean(), store(tmp_path / name / "one.wav", samples))
        out = simulator(speech(length)[:, :length], draw())["signal"]
        assert out.shape == (1, length)
        assert out.dtype == torch.float32
        assert bool(out.isfinite().all())
    assert torch.equal(out, speech(length))


def test_what_the_user_got_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="noise_root of RecordedNoise"):
        RecordedNoise(Clean(), str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="level"):
        RecordedNoise(Clean(), str(tmp_path), level=(-50, -75))
