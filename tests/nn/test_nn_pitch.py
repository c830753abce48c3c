from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.nn.pitch import Pitch

RATE = 16000


def voice(f0: float, seconds: float = 0.5, highest: float = 4000) -> Tensor:
    t = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    harmonics = range(1, int(highest / f0) + 1)
    waves = [torch.cos(2 * math.pi * k * f0 * t + k * k) / k for k in harmonics]
    return (0.05 * torch.stack(waves).sum(0)).float()[None, None]


def pitch() -> Pitch:
    return Pitch(RATE, 256, 1024)


@pytest.mark.parametrize("f0", [80, 110, 151.3, 220, 340])
@pytest.mark.parametrize("highest", [600, 4000])  # a throat microphone, and air
def test_the_frequency_of_a_voice_is_found_within_one_percent(f0: float, highest: float) -> None:
    x = voice(f0, highest=highest)
    found, voicing = pitch()(x[..., : x.shape[-1] // 256 * 256])
    settled = slice(5, None)  # the first frames hold the zeros before the file
    assert ((found[..., settled] - f0).abs() < 0.01 * f0).all()
    assert (voicing[..., settled] > 0.95).all()


def test_noise_and_silence_are_not_voiced() -> None:
    noise = 0.05 * torch.randn(1, 1, 256 * 40, generator=torch.Generator().manual_seed(0))
    _, voicing = pitch()(noise)
    assert voicing.median() < 0.4
    f0, voicing = pitch()(torch.zeros(1, 1, 256 * 4))
    assert f0.isfinite().all()
    assert not voicing.any()


def test_voicing_is_the_periodic_share_of_the_power() -> None:
    x = voice(120, 1.6)[..., : 256 * 100]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    _, voicing = pitch()(x + noise * x.std())  # as much noise as voice
    assert float(voicing[..., 5:].mean()) == pytest.approx(0.5, abs=0.07)


def test_chunks_give_the_output_of_the_whole_file() -> None:
    model, x = pitch(), voice(130)[..., : 256 * 30]
    whole = model(x)
    with model.streaming(1):
        parts = [model(part) for part in x.split(512, dim=-1)]
    for index in (0, 1):
        torch.testing.assert_close(torch.cat([part[index] for part in parts], dim=-1), whole[index])


def test_windows_too_short_for_the_lowest_voice_are_refused() -> None:
    with pytest.raises(ConfigError, match="win_length=512 must be at least 686, three periods of f_min=70"):
        Pitch(RATE, 256, 512)
    with pytest.raises(ConfigError, match="f_min=500"):
        Pitch(RATE, 256, 1024, f_min=500)


@pytest.mark.parametrize("sound", ["20 Hz", "50 Hz", "offset", "Brownian", "rumble in noise"])
def test_rumble_hum_and_an_offset_are_no_voice(sound: str) -> None:
    """Body sensors have them in pauses. The signal is like itself at the shortest lag, which is no period."""
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    t = torch.arange(RATE) / RATE
    sounds = {
        "20 Hz": 0.1 * torch.sin(2 * math.pi * 20 * t),
        "50 Hz": 0.1 * torch.sin(2 * math.pi * 50 * t),
        "offset": 0.1 + 0.01 * noise,
        "Brownian": 0.001 * noise.cumsum(0),
        "rumble in noise": 0.003 * noise + 0.1 * torch.sin(2 * math.pi * 20 * t),
    }
    _, voicing = pitch()(sounds[sound][None, None, : RATE // 256 * 256])
    assert voicing[..., 5:].median() < 0.3
