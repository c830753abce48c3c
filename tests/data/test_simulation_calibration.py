from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import signal as scipy_signal

from bcfusion.data.simulation.calibration import Calibration
from bcfusion.data.simulation.estimation import Pair, measure
from bcfusion.data.simulation.frames import grid
from bcfusion.errors import DataError

RATE = 16000
FREQUENCIES = grid(RATE)
SPEECH = (FREQUENCIES > 200) & (FREQUENCIES < 7000)


def speech_like(seconds: float = 8.0, seed: int = 0) -> np.ndarray:
    """Noise in syllables, with pauses, over a quiet floor."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    syllables = np.maximum(np.sin(2 * np.pi * 2.0 * time), 0.0) * (time % 2.0 < 1.5)
    signal = 0.1 * syllables * rng.standard_normal(len(time)) + 1e-5 * rng.standard_normal(len(time))
    return signal.astype(np.float32)


def sensor(air: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A second-order low-pass of 800 Hz and 6 dB of gain; with its response in dB over the grid."""
    sections = scipy_signal.butter(2, 800, fs=RATE, output="sos")
    response = scipy_signal.sosfreqz(sections, FREQUENCIES, fs=RATE)[1]
    body = 2.0 * scipy_signal.sosfilt(sections, air)
    return body.astype(np.float32), 20 * np.log10(2.0 * np.maximum(np.abs(response), 1e-6))


def noise(level: float, samples: int, seed: int = 9) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def test_the_response_of_a_linear_sensor_is_found() -> None:
    air = speech_like()
    body, wanted = sensor(air)
    found = measure("w", [Pair("a", body, air)], RATE)
    band = (FREQUENCIES > 100) & (FREQUENCIES < 5000)
    for curve in (found.response_db, found.h1_db, found.ratio_db):
        np.testing.assert_allclose(curve[band], wanted[band], atol=1.0)
    assert found.coherence[band].min() > 0.99
    assert found.deviation_db[band].mean() < 1.0
    assert found.level_ratio == pytest.approx(10 * np.log10(np.sum(body**2) / np.sum(air**2)), abs=0.2)


def test_speech_on_another_path_is_missed_by_h1_and_kept_by_the_blend() -> None:
    air, other = speech_like(), speech_like(seed=5)
    body = (0.5 * air + np.sqrt(0.75) * other).astype(np.float32)  # as loud as air, a quarter of it coherent
    found = measure("w", [Pair("a", body, air)], RATE)
    assert np.mean(found.coherence[SPEECH]) == pytest.approx(0.25, abs=0.03)
    assert np.mean(found.h1_db[SPEECH]) == pytest.approx(-6.0, abs=0.6)
    assert np.mean(found.ratio_db[SPEECH]) == pytest.approx(0.0, abs=0.6)
    assert np.mean(found.response_db[SPEECH]) == pytest.approx(-1.5, abs=0.6)  # 0.25 of the way


def test_the_sensors_noise_is_separated_from_its_speech() -> None:
    air = speech_like()
    body, wanted = sensor(air)
    level = 10 ** (-50 / 20)
    found = measure("w", [Pair("a", body + noise(level, len(air)), air)], RATE)
    speech_power = np.mean(air[np.abs(air) > 1e-3] ** 2)
    density = 10 * np.log10(2 / RATE * level**2 / speech_power)
    assert np.mean(found.noise_db[SPEECH]) == pytest.approx(density, abs=2.0)
    covered = (FREQUENCIES > 3000) & (FREQUENCIES < 5000)  # 6 to 15 dB under the noise there
    body_with_noise = 10 * np.log10(np.mean(10 ** (wanted[covered] / 10)) + level**2 / np.mean(air**2))
    assert np.mean(found.response_db[covered]) < body_with_noise - 2.0


def test_what_changes_from_frame_to_frame_is_measured_with_the_part_that_air_explains() -> None:
    air = speech_like(20.0)
    time = np.arange(len(air)) / RATE
    swing = 6.0 * np.sqrt(2.0) * np.sin(2 * np.pi * 0.7 * time)  # deviation of 6 dB, independent of air
    found = measure("w", [Pair("a", (air * 10 ** (swing / 20)).astype(np.float32), air)], RATE)
    assert np.mean(found.deviation_db[SPEECH]) == pytest.approx(6.0, abs=0.7)
    assert abs(np.mean(found.slope[SPEECH])) < 0.1
    loudness = np.sqrt(scipy_signal.lfilter([0.002], [1, -0.998], air.astype(np.float64) ** 2))
    compressed = air / np.sqrt(loudness + 1e-3)  # half of air's loudness in dB is taken off
    found = measure("w", [Pair("a", compressed.astype(np.float32), air)], RATE)
    assert -0.6 < np.mean(found.slope[SPEECH]) < -0.2
    assert np.mean(found.residual_db[SPEECH]) < 0.8 * np.mean(found.deviation_db[SPEECH])


def test_recordings_of_one_wearer_are_pooled_whatever_their_loudness() -> None:
    air = speech_like()
    body, _ = sensor(air)
    once = measure("w", [Pair("a", body, air)], RATE)
    twice = measure("w", [Pair("a", body, air, 0.002, -1), Pair("b", 0.1 * body, 0.1 * air, 0.004, -1)], RATE)
    np.testing.assert_allclose(twice.response_db, once.response_db, atol=0.01)
    assert (twice.recordings, twice.lag, twice.polarity) == (("a", "b"), 0.003, -1)
    assert twice.seconds == pytest.approx(2 * once.seconds, abs=0.02)


@pytest.mark.parametrize("air", [np.zeros(RATE, np.float32), speech_like()[:1000]])
def test_silence_and_snippets_are_refused_by_name(air: np.ndarray) -> None:
    with pytest.raises(DataError, match="take7"):
        measure("w", [Pair("take7", air, air)], RATE)


def test_a_useless_recording_does_not_affect_the_others() -> None:
    air = speech_like()
    good, silent = Pair("good", sensor(air)[0], air), Pair("silent", np.zeros(RATE, np.float32), air[:RATE])
    both, alone = measure("w", [silent, good], RATE), measure("w", [good], RATE)
    assert both.recordings == alone.recordings == ("good",)
    np.testing.assert_array_equal(both.response_db, alone.response_db)


def calibration() -> Calibration:
    air = speech_like(3.0)
    pairs = {name: Pair(name, gain * sensor(air)[0], air) for name, gain in (("a", 1.0), ("b", 2.0))}
    return Calibration("throat", RATE, FREQUENCIES, tuple(measure(name, [pair], RATE) for name, pair in pairs.items()))


def test_a_file_is_small_whole_and_read_back(tmp_path: Path) -> None:
    made = calibration()
    made.save(tmp_path / "new" / "throat.json")
    found = Calibration.load(tmp_path / "new" / "throat.json")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["throat.json"]
    assert (tmp_path / "new" / "throat.json").stat().st_size < 20_000 * len(made.responses)
    assert (found.sensor, found.sample_rate) == ("throat", RATE)
    for one, other in zip(found.responses, made.responses, strict=True):
        assert (one.id, one.recordings, one.seconds) == (other.id, other.recordings, other.seconds)
    for name in ("response_db", "noise_db", "coherence", "residual_db"):
        np.testing.assert_allclose(found.curves(name), made.curves(name), atol=0.006)
    np.testing.assert_allclose(np.diff(found.curves("response_db"), axis=0)[0], 6.02, atol=0.02)


def test_curves_are_read_at_other_frequencies_and_end_where_they_were_measured() -> None:
    made = calibration()
    finer = made.curves("response_db", np.array([0.0, 1000.0, 1015.625, 12000.0]))
    at = made.curves("response_db")
    np.testing.assert_allclose(finer[:, 0], at[:, 0])
    np.testing.assert_allclose(finer[:, 1], at[:, 32])
    np.testing.assert_allclose(finer[:, 2], (at[:, 32] + at[:, 33]) / 2)
    np.testing.assert_allclose(finer[:, 3], at[:, -1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "else"}, "not a calibration"),
        ({"version": 99}, "version 99"),
        ({"responses": []}, "damaged"),
        ({"responses": [{"id": "a"}]}, "damaged: KeyError"),
        ({"frequencies": [0.0, 1.0]}, "damaged"),
    ],
)
def test_other_and_damaged_files_are_reported(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "c.json"
    calibration().save(file)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=message) as caught:
        Calibration.load(file)
    assert "bcfusion calibrate" in str(caught.value)


def test_files_that_are_missing_or_not_json_are_reported(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{")
    for name, message in (("c.json", "not JSON"), ("d.json", "cannot read")):
        with pytest.raises(DataError, match=message):
            Calibration.load(tmp_path / name)
