"""The short-time model of a sensor: its fit, its draws, its use."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from draws import draw, seeded
from scipy import signal as scipy_signal

from bcfusion.data.simulation.bands import band_centres, band_levels, band_weights
from bcfusion.data.simulation.calibration import Calibration
from bcfusion.data.simulation.estimation import Evenly, Pair, calibrate
from bcfusion.data.simulation.following import Following
from bcfusion.data.simulation.frames import grid
from bcfusion.data.simulation.magnitude_ratio import MagnitudeRatio
from bcfusion.data.simulation.measured import MeasuredSensor
from bcfusion.data.simulation.sensor_noise import draw_noise, sensor_noise
from bcfusion.data.simulation.short_time_fit import BandFrames, fit
from bcfusion.data.simulation.transfer_function import TransferFunction
from bcfusion.errors import DataError

RATE = 16000
STEP = 0.008
CENTRES = band_centres(RATE)
BANDS = len(CENTRES)
#: dB of body per dB of air: a slope, and every band follows band 5
WEIGHTS = -0.4 * np.eye(BANDS) + 0.3 * np.eye(BANDS)[5]


def smooth(rng: np.random.Generator, frames: int, deviation: float) -> np.ndarray:
    """``(frames, B)``, correlated over some frames."""
    kernel = np.hanning(9)[1:-1] / np.linalg.norm(np.hanning(9)[1:-1])
    white = rng.standard_normal((frames + 6, BANDS))
    return deviation * np.stack([np.convolve(white[:, band], kernel, "valid") for band in range(BANDS)], axis=1)


def recordings(count: int, frames: int = 600, floor: float = 1e-12, seed: int = 0) -> list[BandFrames]:
    """Recordings of as many wearers whose body follows WEIGHTS, with a residual of 3 dB."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        level = smooth(rng, frames, 8.0) + np.linspace(0.0, -10.0, BANDS)
        speech = np.arange(frames) % 100 < 80
        air = np.where(speech[:, None], 10.0 ** (level / 10.0), 1e-9)
        about = level - level[speech].mean(axis=0)
        ratio = 5.0 * number + about @ WEIGHTS.T + smooth(rng, frames, 3.0)
        noise = floor * rng.gamma(8.0, 1.0 / 8.0, air.shape)
        body = air * 10.0 ** (ratio / 10.0) + noise
        made.append(
            BandFrames(f"w{number}", air, body, speech, np.stack([np.full(BANDS, 1e-12), np.full(BANDS, floor)]))
        )
    return made


def test_the_model_is_found_and_judged_on_what_it_was_not_fitted_to() -> None:
    found = fit(recordings(4), CENTRES, STEP)
    assert found is not None
    assert np.abs(found.weights - WEIGHTS).max() < 0.12
    assert np.mean(found.deviation_db) == pytest.approx(3.0, abs=0.2)
    assert found.explained > found.explained_by_level + 0.1
    # variance of the ratio: (.4 * 8)² + (.3 * 8)² of 25 dB², and 9 of the residual
    assert found.explained == pytest.approx(16.0 / 25.0, abs=0.06)
    assert found.memory[0] == 1.0
    assert found.memory[2] == pytest.approx(0.65, abs=0.12)
    assert abs(found.memory[12]) < 0.1
    assert np.abs(found.correlation - np.eye(BANDS))[10:20, 25:].max() < 0.2
    assert np.mean(found.decay) < 0.01  # the loudness of these frames says nothing


def test_the_noise_floor_does_not_widen_or_raise_what_is_left() -> None:
    """A third of the frames is at the floor: the deviation stays that of the multiplicative part."""
    made = recordings(4, floor=0.5)
    at_floor = np.mean([np.mean(one.body[one.speech] < 2.0 * one.floors[1]) for one in made])
    assert 0.2 < at_floor < 0.5
    found = fit(made, CENTRES, STEP)
    assert found is not None
    assert np.mean(found.deviation_db) == pytest.approx(3.0, abs=0.5)
    assert np.abs(found.weights - WEIGHTS).mean() < 0.05


@pytest.mark.parametrize(
    ("count", "wearers", "validation"), [(2, "ab", "wearers"), (2, "aa", "recordings"), (1, "a", "stretches")]
)
def test_what_is_left_out_follows_from_what_there_is(count: int, wearers: str, validation: str) -> None:
    made = [replace(one, wearer=name) for one, name in zip(recordings(count), wearers, strict=True)]
    found = fit(made, CENTRES, STEP)
    assert found is not None
    assert found.validation == validation
    assert found.explained >= found.explained_by_level > 0.0


def test_too_little_speech_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert fit(recordings(1, frames=100), CENTRES, STEP) is None
    assert "too little" in caplog.text
    assert "level of air in each band alone" in caplog.text


def test_of_many_recordings_some_are_kept_evenly() -> None:
    made, kept = recordings(1, frames=100) * 70, Evenly(most=1000)
    for number, one in enumerate(made):
        kept.add(replace(one, wearer=str(number)))
    assert [one.wearer for one in kept.kept] == ["0", "8", "16", "24", "32", "40", "48", "56", "64"]
    long = Evenly(most=10)
    long.add(made[0])
    assert len(long.kept) == 1


def test_the_deviation_of_loud_frames_is_smaller() -> None:
    rng = np.random.default_rng(0)
    made = []
    for one in recordings(4):
        swing = np.repeat(rng.uniform(-15.0, 0.0, 60), 10)[:, None]  # loudness of the frame, the same in all bands
        air = one.air * 10.0 ** (swing / 10.0)
        ratio = smooth(rng, 600, 2.0) * np.exp(-0.03 * swing)
        made.append(replace(one, air=air, body=air * 10.0 ** (ratio / 10.0)))
    found = fit(made, CENTRES, STEP)
    assert found is not None
    assert np.mean(found.decay) == pytest.approx(0.03, abs=0.01)


def test_draws_have_the_measured_deviation_memory_and_correlation() -> None:
    model = fit(recordings(4), CENTRES, STEP)
    assert model is not None
    correlation = np.full((BANDS, BANDS), 0.5) + 0.5 * np.eye(BANDS)
    memory = np.exp(-np.arange(31) / 5.0)
    following = Following(replace(model, correlation=correlation, memory=memory, deviation_db=np.linspace(3, 6, BANDS)))
    for hops in (1, 2):  # of 8 ms
        drawn = following.draw(20000, hops * STEP, seeded(3)).numpy() * 0.93  # see KEPT
        np.testing.assert_allclose(drawn.std(axis=0), np.linspace(3, 6, BANDS), rtol=0.08)
        found = np.corrcoef(drawn.T)[np.triu_indices(BANDS, 1)]
        assert np.mean(found) == pytest.approx(0.5, abs=0.05)
        unit = drawn / drawn.std(axis=0)
        assert np.mean(unit[4:] * unit[:-4]) == pytest.approx(memory[4 * hops], abs=0.06)


def test_bands_and_levels() -> None:
    assert BANDS == 40
    frequencies = np.fft.rfftfreq(512, 1 / RATE)
    weights = band_weights(CENTRES, frequencies)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    low = band_weights(CENTRES, np.fft.rfftfreq(256, 1 / 8000))  # at half the rate: upper bands do not exist
    assert (low[CENTRES > 4000] == 0.0).all()
    np.testing.assert_allclose(low[CENTRES < 3700].sum(axis=1), 1.0)
    power = torch.rand(2, 50, BANDS, dtype=torch.float64) + 0.1
    speech = (torch.arange(50) % 3 > 0).double()[None, :, None].expand(2, -1, -1)
    level = band_levels(power, speech)
    torch.testing.assert_close(band_levels(7.0 * power, speech), level)
    assert float(level.sum(dim=1).abs().max()) < 1e-9
    assert float((level * (1 - speech)).abs().max()) == 0.0
    assert float(band_levels(0.0 * power, speech).abs().max()) == 0.0


def speech_like(seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    syllables = np.maximum(np.sin(2 * np.pi * 2.0 * time), 0.0) * (time % 2.0 < 1.5)
    return (0.1 * syllables * rng.standard_normal(len(time)) + 1e-5 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("short_time") / "s.json"
    pairs = [(name, [Pair(name, gain * speech_like(seed=3), speech_like())]) for name, gain in (("a", 1.0), ("b", 3.0))]
    calibrate("throat", pairs, RATE).save(file)
    return file


def test_digital_silence_in_a_file_is_no_noise_floor_of_the_sensor() -> None:
    body, air = speech_like(), speech_like()
    body += 1e-4 * np.random.default_rng(5).standard_normal(len(body)).astype(np.float32)
    silence = np.zeros(RATE, dtype=np.float32)
    plain, padded = (
        calibrate("throat", [("a", [Pair("a", *(np.concatenate([*before, one]) for one in (body, air)))])], RATE)
        for before in ((), (silence,))
    )
    assert padded.responses[0].noise_swing_db == pytest.approx(plain.responses[0].noise_swing_db, abs=0.3)
    for name in ("noise_db", "response_db"):
        np.testing.assert_allclose(padded.curves(name), plain.curves(name), atol=0.5)
    click = np.where(np.arange(len(air)) == 8000, np.float32(0.1), np.float32(0.0))
    with pytest.raises(DataError, match="no recording could be measured"):
        calibrate("throat", [("a", [Pair("a", click, air)])], RATE)


def test_the_file_holds_the_model_and_version_1_has_none(measured: Path, tmp_path: Path) -> None:
    made = Calibration.load(measured)
    assert made.short_time is not None
    assert made.short_time.weights.shape == (BANDS, BANDS)
    assert measured.stat().st_size < 100_000
    record = json.loads(measured.read_text())
    old = {**record, "version": 1}
    del old["short_time"]
    for response in old["responses"]:
        del response["noise_swing_db"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert Calibration.load(tmp_path / "old.json").short_time is None
    assert TransferFunction(str(tmp_path / "old.json")).follow == "level"
    assert TransferFunction(str(measured)).follow == "spectrum"
    record["short_time"]["weights"][3] = [1.0]
    (tmp_path / "bad.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="damaged"):
        Calibration.load(tmp_path / "bad.json")
    for change in ({"step": 0.0}, {"explained": float("nan")}):
        whole = json.loads(measured.read_text())
        whole["short_time"] |= change
        (tmp_path / "bad.json").write_text(json.dumps(whole))
        with pytest.raises(DataError, match="damaged"):
            Calibration.load(tmp_path / "bad.json")


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_the_long_term_spectrum_is_that_measured_at_any_rate(measured: Path, rate: int) -> None:
    simulator = TransferFunction(str(measured), noise=False)
    air = 0.1 * torch.randn(1, 6 * rate, generator=seeded(2))
    out = simulator(air, draw(1, False, rate=rate))["signal"]
    powers = [
        torch.stft(x, 512, window=torch.hann_window(512), return_complex=True).abs().square().mean(-1)
        for x in (air, out)
    ]
    at = np.linspace(0, rate / 2, 257)
    found = 10 * np.log10((powers[1] / powers[0])[0].numpy())
    wanted = np.stack([np.interp(at, grid(RATE), curve) for curve in Calibration.load(measured).curves("ratio_db")])
    band = (at > 200) & (at < min(0.45 * rate, 7500))
    assert wanted[0][band].mean() - 1.5 < found[band].mean() < wanted[1][band].mean() + 1.5


def test_noise_of_the_room_is_not_heard_in_pauses(measured: Path) -> None:
    air = torch.from_numpy(speech_like()).clone()[None]
    air += 5e-4 * torch.randn(air.shape, generator=seeded(7))
    follows, fixed = (
        TransferFunction(str(measured), wander=0.0, noise=False, follow=follow)(air, draw(1, False))["signal"]
        for follow in ("spectrum", "none")
    )
    pause = slice(int(1.6 * RATE), int(1.9 * RATE))
    assert float(follows[0, pause].square().mean() / fixed[0, pause].square().mean()) < 0.1


def test_the_level_of_the_noise_swings_in_pauses_alone() -> None:
    air = torch.from_numpy(speech_like(8.0))[None, None]
    drawn = draw_noise(air.shape[-1], RATE, seeded(1))
    batch = type(drawn)(*(part[None] for part in drawn))
    density = torch.full((1, 257), -60.0)
    still, swinging = (sensor_noise(batch, air, RATE, density, swing)[0, 0] for swing in (0.0, 6.0))
    gain = 20 * torch.log10((swinging / still).abs())
    time = torch.arange(len(gain)) / RATE
    speech = (time % 0.5 > 0.03) & (time % 0.5 < 0.2) & (time % 2.0 < 1.4)
    assert float(gain[speech].abs().max()) < 1e-2
    pause = slice(int(1.6 * RATE), int(1.9 * RATE))
    assert float(gain[pause].std()) > 1.0


def test_speakers_are_drawn_around_the_mean_of_those_measured(measured: Path) -> None:
    simulator = TransferFunction(str(measured), wearer_spread=1.0)
    wearers = simulator.wearers(RATE)
    drawn = torch.stack([simulator.curves(draw(0, False, body)).response for body in range(200)])
    np.testing.assert_allclose(drawn.mean(0), wearers.response.mean(0), atol=1.5)
    assert float(drawn.std(0).mean()) == pytest.approx(float(wearers.response.std(0).mean()), rel=0.2)
    assert bool((drawn.max(0).values > wearers.response.max(0).values).all())  # beyond those measured
    with pytest.raises(Exception, match="wearer_spread=-1"):
        TransferFunction(str(measured), wearer_spread=-1.0)


KINDS = (TransferFunction, MagnitudeRatio)


@pytest.mark.parametrize("kind", KINDS)
def test_any_length_and_a_batch_equals_its_items(measured: Path, kind: type[MeasuredSensor]) -> None:
    simulator = kind(str(measured))  # type: ignore[call-arg, arg-type]
    for length in (1, 127, 257, 5000):
        for air in (torch.zeros(1, length), 0.1 * torch.randn(1, length, generator=seeded(length))):
            out = simulator(air, draw())["signal"]
            assert out.shape == (1, length)
            assert bool(out.isfinite().all())
            assert bool(out.any())
    air = 0.1 * torch.randn(2, 1, 9001, generator=seeded(1))
    air[0] = 0.0
    together = simulator.batch(air, [draw(n, True, n) for n in range(2)])["signal"]
    for number in range(2):
        alone = simulator(air[number], draw(number, True, number))["signal"]
        torch.testing.assert_close(together[number], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_simulated_ratio_follows_air_as_measured(tmp_path: Path, kind: type[MeasuredSensor]) -> None:
    """A sensor with a known model is simulated, then measured again."""
    pairs = [(name, [Pair(name, speech_like(8.0, 3), speech_like(8.0))]) for name in "ab"]
    made = calibrate("throat", pairs, RATE)
    assert made.short_time is not None
    flat = np.ones(len(made.frequencies))
    weights = -0.5 * np.eye(BANDS)
    weights[22:, 8:13] += 0.12  # bands above 2.3 kHz follow those about 800 Hz
    model = replace(
        made.short_time,
        weights=weights,
        deviation_db=np.full(BANDS, 2.0),
        decay=np.zeros(BANDS),
        correlation=np.eye(BANDS),
        memory=np.exp(-np.arange(31) / 4.0),
    )
    responses = tuple(replace(one, ratio_db=0.0 * flat, response_db=0.0 * flat) for one in made.responses)
    replace(made, short_time=model, responses=responses).save(tmp_path / "s.json")
    simulator = kind(str(tmp_path / "s.json"), noise=False)  # type: ignore[call-arg]
    loudness = np.repeat(np.random.default_rng(0).uniform(-12, 8, (8, 100)), 1920, axis=1)  # 8 bands, 120 ms each
    white = np.random.default_rng(1).standard_normal((8, loudness.shape[1]))
    edges = np.geomspace(80, 7900, 9)
    air = np.zeros(loudness.shape[1])
    for band in range(8):
        sections = scipy_signal.butter(4, edges[band : band + 2], "band", fs=RATE, output="sos")
        air += 0.02 * scipy_signal.sosfilt(sections, white[band]) * 10 ** (loudness[band] / 20)
    body = simulator(torch.from_numpy(air)[None].float(), draw(0, False))["signal"][0].numpy()
    found = calibrate("again", [("a", [Pair("a", body, air.astype(np.float32))])], RATE).short_time
    assert found is not None
    assert np.mean(np.diag(found.weights)[24:38]) == pytest.approx(-0.5, abs=0.12)
    assert found.weights[24:38, 5:16].sum(axis=1).mean() == pytest.approx(0.6, abs=0.2)
    assert abs(found.weights[19, 5:16].sum()) < 0.15
    assert np.mean(found.deviation_db[5:35]) == pytest.approx(2.0, abs=0.7)
