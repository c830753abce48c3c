from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from pictures import assert_nothing_is_covered
from scipy import signal as scipy_signal

from bcfusion import audio
from bcfusion.cli import main
from bcfusion.data.simulation.calibration import Calibration
from bcfusion.report.calibration_figure import calibration_figure

RATE = 16000
LAG = 24  # samples, 1.5 ms


def speech_like(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(4 * RATE) / RATE
    syllables = np.maximum(np.sin(2 * np.pi * 3.0 * time), 0.0) ** 0.5 * (time % 2.0 < 1.5)
    return 0.1 * syllables * rng.standard_normal(len(time)) + 1e-4 * rng.standard_normal(len(time))


def through_the_sensor(air: np.ndarray) -> np.ndarray:
    """Return air amplified by 6 dB, low-passed at 1 kHz, inverted, delayed, with noise."""
    filtered = 2.0 * scipy_signal.lfilter(*scipy_signal.butter(2, 1000, fs=RATE), air)
    noise = 1e-4 * np.random.default_rng(9).standard_normal(len(air))
    return np.asarray(noise - np.concatenate([np.zeros(LAG), filtered[:-LAG]]))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings of two speakers, as a manifest and as two folders."""
    root = tmp_path_factory.mktemp("pairs")
    lines: list[str] = []
    for name, speaker, split in (("a1", "ann", "train"), ("a2", "ann", "train"), ("b1", "bob", "test")):
        air = speech_like(len(lines))
        audio.write(root / "air" / f"{name}.flac", air, RATE)
        audio.write(root / "body" / f"{name}.flac", through_the_sensor(air), RATE)
        files = {"air": f"air/{name}.flac", "body": f"body/{name}.flac"}
        lines.append(json.dumps({"id": name, "split": split, "speaker": speaker, **files}))
    (root / "pairs.jsonl").write_text("\n".join(lines))
    return root


def folders(pairs: Path) -> list[str]:
    return ["--body", str(pairs / "body"), "--air", str(pairs / "air")]


@pytest.mark.slow
def test_a_sensor_is_measured_with_its_lag_and_polarity_undone(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "sensor.json", tmp_path / "sensor.png"
    assert main(["calibrate", "--pairs", str(pairs / "pairs.jsonl"), "--out", str(out), "--plot", str(plot)]) == 0
    made = Calibration.load(out)
    assert [(one.id, one.recordings) for one in made.responses] == [("ann", ("a1", "a2")), ("bob", ("b1",))]
    response = scipy_signal.freqz(*scipy_signal.butter(2, 1000, fs=RATE), made.frequencies, fs=RATE)[1]
    band = (made.frequencies > 150) & (made.frequencies < 3000)
    for one in made.responses:
        assert one.polarity == -1
        assert one.lag == pytest.approx(LAG / RATE, abs=2e-4)
        assert one.coherence[band].mean() > 0.95  # only if the lag is undone
        np.testing.assert_allclose(one.response_db[band], 20 * np.log10(2 * np.abs(response[band])), atol=1.5)
    printed = capsys.readouterr().out
    assert "2 wearers, 16000 Hz; response in dB in bands of Hz" in printed
    assert "degradation=transfer_function" in printed
    assert "frame by frame air's spectrum explains" in printed
    assert made.short_time is not None
    line = next(line for line in printed.splitlines() if line.startswith("ann")).split()
    assert float(line[2]) == pytest.approx(1.5, abs=0.2)
    assert line[3] == "-1"
    assert float(line[5]) == pytest.approx(6.0, abs=1.0)  # 60-125 Hz
    assert matplotlib.image.imread(plot).std() > 0.05
    figure = calibration_figure(made)
    assert_nothing_is_covered(figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:3] == ["ann", "bob", "mean of 2 wearers"]
    assert len(names) == len(set(names)) == 7
    many = calibration_figure(replace(made, responses=made.responses * 5))
    assert_nothing_is_covered(many)
    assert [text.get_text() for text in many.legends[0].get_texts()][:2] == ["one of 10 wearers", "mean of 10 wearers"]


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        (["--split", "test"], ["b1"]),
        (["--limit", "1"], ["a1"]),
        (["--ids", "b1", "a2"], ["b1", "a2"]),
    ],
)
def test_recordings_are_chosen(pairs: Path, tmp_path: Path, chosen: list[str], ids: list[str]) -> None:
    out = tmp_path / "sensor.json"
    assert main(["calibrate", "--pairs", str(pairs / "pairs.jsonl"), "--out", str(out), *chosen]) == 0
    assert [name for one in Calibration.load(out).responses for name in one.recordings] == ids


def test_two_folders_work_too_and_each_unknown_speaker_counts(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "sensor.json"
    assert main(["calibrate", *folders(pairs), "--out", str(out), "--sample-rate", "8000"]) == 0
    made = Calibration.load(out)
    assert [one.id for one in made.responses] == ["a1", "a2", "b1"]
    assert (made.sample_rate, made.frequencies[-1]) == (8000, 4000.0)


def test_a_silent_recording_is_named_and_left_out(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    silence = np.zeros(RATE, dtype=np.float32)
    for side in ("body", "air"):
        audio.write(tmp_path / side / "dead.flac", silence, RATE)
    out = tmp_path / "sensor.json"
    sides = ["--body", str(tmp_path / "body"), "--air", str(tmp_path / "air")]
    assert main(["calibrate", *sides, "--out", str(out)]) == 2
    assert "dead" in caplog.text
    assert "none of 1 recordings could be measured" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --pairs MANIFEST, or --body DIR and --air DIR"),
        (["--body", "x"], "give --pairs MANIFEST, or --body DIR and --air DIR"),
        (["--pairs", "x.jsonl", "--air", "y"], "give --pairs MANIFEST, or --body DIR and --air DIR"),
    ],
)
def test_half_a_source_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", *arguments, "--out", "sensor.json"])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["--sensor", "ear"], "no recording with both 'ear' and air"),
        (["--ids", "zz"], "no recording zz; it has a1, a2, b1"),
        (["--split", "valid"], "in split valid"),
    ],
)
def test_missing_recordings_and_files_are_reported(
    pairs: Path, tmp_path: Path, chosen: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["calibrate", "--pairs", str(pairs / "pairs.jsonl"), "--out", str(tmp_path / "s.json"), *chosen]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_what_a_manifest_corrects_is_part_of_the_lag_and_polarity_that_are_stated(pairs: Path, tmp_path: Path) -> None:
    stated = pairs / "corrected.jsonl"
    lines = [json.loads(line) for line in (pairs / "pairs.jsonl").read_text().splitlines()]
    stated.write_text("".join(json.dumps({**line, "lag": 0.001, "polarity": -1}) + "\n" for line in lines))
    out = tmp_path / "sensor.json"
    assert main(["calibrate", "--pairs", str(stated), "--out", str(out)]) == 0
    for one in Calibration.load(out).responses:
        assert one.polarity == -1
        assert one.lag == pytest.approx(LAG / RATE, abs=2e-4)
