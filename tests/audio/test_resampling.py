from __future__ import annotations

import math
import tracemalloc
from itertools import permutations

import numpy as np
import pytest
import torch

from bcfusion import audio
from bcfusion.audio import resampling
from bcfusion.errors import AudioError

RATES = (7418, 8000, 11025, 16000, 16001, 22050, 32000, 44100, 44101, 48000)


def sine(frequency: float, rate: int, frames: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(frames, dtype=torch.float64) / rate)


def unlucky(from_rate: int, to_rate: int, below: int) -> list[int]:
    """Lengths of which the resampled length, computed in float32, comes out too small."""
    change = audio.RateChange(from_rate, to_rate)
    frames = np.arange(below - 100_000, below, dtype=np.int64)
    exact = -(-frames * change.up // change.down)
    rounded = np.ceil((change.up * frames / change.down).astype(np.float32)).astype(np.int64)
    return [int(length) for length in frames[rounded < exact]]


@pytest.mark.parametrize(("from_rate", "to_rate"), list(permutations(RATES, 2)))
def test_every_pair_of_rates_and_every_length_gives_the_exact_length(from_rate: int, to_rate: int) -> None:
    change = audio.RateChange(from_rate, to_rate)
    lengths = [0, 1, 2, 3, 63, 1000, *np.random.default_rng(from_rate + to_rate).integers(4, 9000, 3).tolist()]
    for frames in lengths:
        whole, rest = divmod(frames * to_rate, from_rate)
        expected = whole + (rest > 0)
        assert change.length(frames) == expected
        assert audio.resample(torch.zeros(2, frames), from_rate, to_rate).shape == (2, expected)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (22050, 16000), (44100, 48000)])
def test_lengths_that_single_precision_rounds_down_are_exact(from_rate: int, to_rate: int) -> None:
    lengths = unlucky(from_rate, to_rate, 400_000)
    assert lengths
    if (from_rate, to_rate) == (44100, 16000):
        assert 397_228 in lengths
    for frames in lengths[:: max(1, len(lengths) // 3)]:
        resampled = audio.resample(torch.zeros(frames), from_rate, to_rate)
        assert len(resampled) == audio.RateChange(from_rate, to_rate).length(frames)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(16001, 16000), (16000, 7418), (48000, 11127), (44101, 16000)])
def test_odd_rates_are_as_good_and_keep_no_bank_of_filters(from_rate: int, to_rate: int) -> None:
    frames = from_rate
    frequency = 0.4 * min(from_rate, to_rate)
    before = resampling._resampler.cache_info().currsize
    tracemalloc.start()
    resampled = audio.resample(sine(frequency, from_rate, frames), from_rate, to_rate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert resampling._resampler.cache_info().currsize == before
    expected = sine(frequency, to_rate, len(resampled))
    inner = slice(to_rate // 10, -to_rate // 10)
    gain = float(resampled[inner] @ expected[inner] / (expected[inner] @ expected[inner]))
    error = (resampled - gain * expected)[inner].square().mean() / expected[inner].square().mean()
    assert 10 * math.log10(float(error)) < -110
    assert 20 * math.log10(gain) == pytest.approx(0, abs=0.01)
    above = sine(0.53 * min(from_rate, to_rate), from_rate, frames)
    if to_rate < from_rate and from_rate > 1.1 * to_rate:
        assert 10 * math.log10(float(audio.resample(above, from_rate, to_rate)[inner].square().mean())) < -140


def test_the_usual_rates_have_a_small_bank_of_filters() -> None:
    usual = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
    assert all(audio.RateChange(*pair).has_small_bank for pair in permutations(usual, 2))
    assert not audio.RateChange(16000, 16001).has_small_bank


def test_a_long_signal_at_odd_rates_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, (2, 30_000)).astype(np.float32))
    whole = audio.resample(signal, 7418, 16000)
    monkeypatch.setattr(resampling, "_SOXR_BLOCK", 7000)
    torch.testing.assert_close(audio.resample(signal, 7418, 16000), whole, atol=5e-6, rtol=0)
    assert audio.resample(signal.half(), 7418, 16000).dtype == torch.float16


def test_gradients_are_refused_where_there_are_none() -> None:
    with pytest.raises(AudioError, match="from 16001 to 16000 Hz has no gradient"):
        audio.resample(torch.zeros(10, requires_grad=True), 16001, 16000)
