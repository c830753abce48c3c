from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bcfusion.errors import AudioError, ConfigError
from bcfusion.nn.resample import Resample
from bcfusion.nn.streaming import StreamingError

RATES = [(8000, 16000), (16000, 8000), (16000, 48000), (44100, 16000), (16000, 22050), (16000, 16000)]


def tone(frequency: float, rate: int, samples: int) -> Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(samples, dtype=torch.float64) / rate)[None, None]


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_tone_keeps_its_frequency_level_and_phase(source: int, target: int) -> None:
    x = tone(1000, source, source // 4)
    y = Resample(source, target).double()(x)
    assert y.shape[-1] == -(-x.shape[-1] * target // source)
    inner = slice(target // 20, -target // 20)
    assert (y - tone(1000, target, y.shape[-1]))[..., inner].abs().max() < 2e-5


def test_frequencies_above_the_lower_nyquist_frequency_are_removed() -> None:
    y = Resample(16000, 8000).double()(tone(4200, 16000, 8000))
    assert 20 * math.log10(float(y[..., 400:-400].abs().max())) < -120


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_stream_equals_the_whole_file_delayed_as_declared(source: int, target: int) -> None:
    whole, causal = Resample(source, target, 2).double(), Resample(source, target, 2, causal=True).double()
    x = torch.randn(3, 2, causal.frame * (1 + 3000 // causal.frame), dtype=torch.float64)
    with causal.streaming(3):
        y = torch.cat([causal(part) for part in x.split(causal.frame * max(1, 200 // causal.frame), dim=-1)], dim=-1)
    torch.testing.assert_close(causal(x), y, atol=1e-12, rtol=0)
    aligned = whole(x)[..., : y.shape[-1] - causal.late]
    reach = math.ceil(causal.width * target / source) + 1
    torch.testing.assert_close(y[..., causal.late :][..., :-reach], aligned[..., :-reach], atol=1e-10, rtol=0)
    assert causal.late * source == causal.lookahead * target


def test_a_causal_resampler_depends_on_nothing_past_its_own_frame() -> None:
    layer = Resample(3, 2, causal=True, zeros=4)
    x = torch.randn(1, 1, 90)
    for phase in range(3):
        poisoned = x.clone()
        poisoned[..., 60 + phase :] = torch.nan
        assert layer(poisoned)[..., :40].isfinite().all()


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="source_rate=0"):
        Resample(0, 8000)
    with pytest.raises(ConfigError, match=r"16001 to 16000, which needs \d+ coefficients, of at most 1048576: use"):
        Resample(16001, 16000)
    with pytest.raises(AudioError, match=r"takes \(batch, 1, time\)"):
        Resample(2, 1)(torch.zeros(1, 2, 8))
    layer = Resample(2, 1, causal=True)
    with layer.streaming(1), pytest.raises(StreamingError, match="3 samples is not a multiple of 2"):
        layer(torch.zeros(1, 1, 3))
