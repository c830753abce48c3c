"""scripts/snr_curve.py: the scores belong to the requested ratio."""

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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An untrained run on two seconds of coloured noise in place of speech, and white noise."""
    random = np.random.default_rng(0)
    for split in ("train", "valid"):
        speech = np.convolve(random.standard_normal(2 * RATE), np.ones(8) / 8, mode="same")
        audio.write(tmp_path / "speech" / split / f"speaker_{split}" / "a.wav", 0.1 * speech, RATE)
        audio.write(tmp_path / "noise" / split / "n.wav", 0.1 * random.standard_normal(4 * RATE), RATE)
    overrides = ["recipe=fusion", "experiment=identity", "data=folder", "data.root=speech", "data.noise_root=noise"]
    python(tmp_path, "-m", "bcfusion", "train", *overrides, "metrics=[si_sdr]", "selection=si_sdr", *FEWER)
    return next((tmp_path / "runs" / "fusion" / "identity").iterdir())


def python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_si_sdr_of_the_noisy_microphone_is_the_ratio(run: Path, tmp_path: Path) -> None:
    printed = python(
        tmp_path, str(ROOT / "scripts" / "snr_curve.py"), str(run), "--snr", "5", "-5", "--metrics", "si_sdr"
    )
    rows = {cells[2].strip(): cells[3:5] for line in printed.splitlines() if len(cells := line.split("|")) > 4}
    assert [float(cell) for cell in rows["noisy air alone"]] == pytest.approx([-5, 5], abs=0.3)
    assert rows["fused"] == rows["noisy air alone"], "the run is the identity"
    assert len(set(rows["body alone"])) == 1, "no noise reaches the body sensor"
    assert (tmp_path / "snr.png").read_bytes().startswith(b"\x89PNG")
