from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bcfusion.inference.containers import output_format
from bcfusion.inference.peaks import LIMITER_SECONDS, Limiter
from bcfusion.inference.writing import write_blocks

RATE = 8000
REACH = round(LIMITER_SECONDS * RATE)


def bursts() -> np.ndarray:
    """Noise at a third of full scale, with bursts beyond it, at both ends too."""
    rng = np.random.default_rng(0)
    x = (0.1 * rng.standard_normal(6000)).clip(-0.3, 0.3)
    for at in (0, 1, 2500, 2503, 2600, 4000, 5999):
        x[at] = rng.choice([-1, 1]) * rng.uniform(1.1, 3)
    return x.astype(np.float32)


def limited(x: np.ndarray, blocks: int) -> tuple[np.ndarray, float]:
    limiter = Limiter(RATE)
    pieces = [limiter.push(x[at : at + blocks]) for at in range(0, len(x), blocks)]
    return np.concatenate([*pieces, limiter.finish()]), limiter.gain


@pytest.mark.parametrize("blocks", [1, 37, 512, 6000])
def test_a_limiter_stays_below_full_scale_and_does_not_depend_on_the_blocks(blocks: int) -> None:
    x = bursts()
    y, gain = limited(x, blocks)
    assert len(y) == len(x)
    assert np.abs(y).max() <= 1
    assert gain == pytest.approx(1 / np.abs(x).max(), rel=0.02)
    np.testing.assert_allclose(y, limited(x, 6000)[0], atol=1e-7)


def test_a_limiter_leaves_alone_what_is_far_from_a_peak_and_moves_smoothly() -> None:
    x = bursts()
    y, _ = limited(x, 100)
    peaks = np.flatnonzero(np.abs(x) > 1)
    far = np.abs(np.arange(len(x))[:, None] - peaks).min(axis=1) > 2 * REACH
    assert far.sum() > 3000
    np.testing.assert_array_equal(y[far], x[far])
    gain = y / x
    assert np.abs(np.diff(gain)).max() < 2 / REACH
    lone = [at for at in peaks if np.abs(peaks - at)[peaks != at].min() > 2 * REACH]
    assert len(lone) == 3
    assert (np.abs(y[lone]) > 0.99).all()  # no lower than needed


@pytest.mark.parametrize("samples", [1, 5, 100])
def test_a_limiter_of_a_signal_shorter_than_its_window(samples: int) -> None:
    y, _ = limited(np.full(samples, 2, dtype=np.float32), 3)
    np.testing.assert_allclose(np.abs(y), 1, atol=0.01)
    assert np.abs(y).max() <= 1
    assert limited(np.zeros(0, dtype=np.float32), 1)[0].shape == (0,)


@pytest.mark.parametrize("on_disk", [False, True])
def test_scaling_keeps_the_shape_and_leaves_a_file_within_full_scale_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    if on_disk:
        monkeypatch.setattr("bcfusion.inference.writing.SPOOL_BYTES", 1000)
        monkeypatch.setattr("bcfusion.inference.writing.BLOCK", 777)
    x, how, target = bursts(), output_format("wav", "PCM_24"), tmp_path / "x.wav"
    blocks = torch.from_numpy(x)[None].split(500, dim=1)
    done = write_blocks(iter(blocks), target, RATE, len(x), how)
    assert done.overs == 7
    assert done.peak == pytest.approx(np.abs(x).max())
    np.testing.assert_allclose(soundfile.read(target)[0], x * done.gain, atol=2e-7)
    assert done.gain == pytest.approx(1 / done.peak)
    quiet = write_blocks((0.3 * block for block in blocks), target, RATE, len(x), how)
    assert (quiet.overs, quiet.gain) == (0, 1)
    np.testing.assert_allclose(soundfile.read(target)[0], 0.3 * x, atol=2e-7)
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]
