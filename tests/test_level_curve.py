"""scripts/level_curve.py: the scores belong to the requested level."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bcfusion import audio

ROOT = Path(__file__).parents[1]
RATE = 16000
FEWER = ("trainer.keep_best=[]", "trainer.samples=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained run on two seconds of coloured noise in place of speech, and white noise."""
    folder = tmp_path_factory.mktemp("curve")
    random = np.random.default_rng(0)
    for split in ("train", "valid"):
        speech = np.convolve(random.standard_normal(2 * RATE), np.ones(8) / 8, mode="same")
        audio.write(folder / "speech" / split / f"speaker_{split}" / "a.wav", 0.1 * speech, RATE)
        audio.write(folder / "noise" / split / "n.wav", 0.1 * random.standard_normal(4 * RATE), RATE)
    overrides = ["recipe=fusion", "experiment=identity", "data=folder", "data.root=speech", "data.noise_root=noise"]
    python(folder, "-m", "bcfusion", "train", *overrides, "metrics=[si_sdr]", "selection=si_sdr", *FEWER)
    return folder


@pytest.fixture
def run(folder: Path) -> str:
    return str(next((folder / "runs" / "fusion" / "identity").iterdir()))


def python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def curve(folder: Path, *arguments: str) -> dict[str, list[str]]:
    """Return the cells of each system at two levels, in ascending order of these."""
    printed = python(folder, str(ROOT / "scripts" / "level_curve.py"), *arguments, "--metrics", "si_sdr")
    return {cells[2].strip(): cells[3:5] for line in printed.splitlines() if len(cells := line.split("|")) > 4}


@pytest.mark.slow
def test_si_sdr_of_the_noisy_microphone_is_the_ratio(run: str, folder: Path) -> None:
    rows = curve(folder, run, "--snr", "5", "-5")
    assert [float(cell) for cell in rows["noisy air alone"]] == pytest.approx([-5, 5], abs=0.3)
    assert rows["fused"] == rows["noisy air alone"], "the run is the identity"
    assert len(set(rows["body alone"])) == 1, "no noise reaches the body sensor"
    assert (folder / "snr.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_gain_of_the_body_sensor_is_the_requested_one(run: str, folder: Path) -> None:
    overrides = ["trainer.samples=1", "degradation.noisy.evaluation_snr=5"]
    rows = curve(folder, run, "--gain", "-20", "0", "--figure", "g.png", "--output", "kept", *overrides)
    assert len(set(rows["body alone"])) == 1, "SI-SDR is independent of level"
    assert rows["fused"] == rows["noisy air alone"], "the air microphone keeps its level"
    quiet, usual = (next((folder / "kept" / name / "samples").glob("*body*.wav")) for name in ("gain-20", "gain+0"))
    (quiet_signal, _), (usual_signal, _) = audio.read(quiet), audio.read(usual)
    assert np.std(quiet_signal) / np.std(usual_signal) == pytest.approx(0.1, rel=0.01)
    assert "with -20 dB on the body sensor" in (folder / "kept" / "gain-20" / "scores.md").read_text()
    assert "body sensor" not in (folder / "kept" / "gain+0" / "scores.md").read_text()
    assert (folder / "g.png").is_file()


@pytest.mark.slow
def test_a_metric_that_is_not_scored_and_errors_of_evaluate_are_named(run: str, folder: Path) -> None:
    def error(*arguments: str) -> str:
        script = str(ROOT / "scripts" / "level_curve.py")
        command = [sys.executable, script, run, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "--metrics: not scored: stoi; " in error("--gain", "0", "--metrics", "stoi")
    assert "data.evaluation_body_gain: must be a number" in error("--gain", "500", "--metrics", "si_sdr")
    assert "one of the arguments --snr --gain is required" in error("--metrics", "si_sdr")
