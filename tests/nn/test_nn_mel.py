"""Log mel analysis: the bands of HiFi-GAN, frames that stream, silence."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio
from torch import Tensor

from bcfusion.errors import AudioError, ConfigError
from bcfusion.nn.mel import LogMel

RATE = 16000


def noise(samples: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.07 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(3), dtype=dtype)


def test_equals_torchaudio_with_frames_aligned_like_ours() -> None:
    x = noise(256 * 20)
    reference = torchaudio.transforms.MelSpectrogram(
        RATE, 1024, 1024, 256, n_mels=80, power=1.0, center=False, norm="slaney", mel_scale="slaney"
    )
    expected = (reference(torch.nn.functional.pad(x, (1024 - 256, 0))[:, 0]) + 1e-5).log()
    torch.testing.assert_close(LogMel(RATE, 1024, 256, 1024, 80)(x), expected, atol=1e-4, rtol=1e-4)


def test_a_tone_is_loudest_in_the_band_around_it() -> None:
    mel = LogMel(RATE, 1024, 256, 1024, 80)
    for hertz in (300.0, 1000.0, 5000.0):
        tone = 0.1 * torch.sin(2 * math.pi * hertz / RATE * torch.arange(256 * 12)).view(1, 1, -1)
        loudest = mel(tone)[0, :, -1].argmax()
        edges = mel.filters[loudest].nonzero() * RATE / 1024
        assert edges.min() - 16 < hertz < edges.max() + 16


def test_frames_hold_the_samples_up_to_the_end_of_their_hop() -> None:
    x = torch.zeros(1, 1, 80 * 30)
    x[..., 840] = 1.0  # in the middle of hop 10
    loud = LogMel(RATE, 1024, 80, 320, 20)(x)[0].amax(0) > math.log(1e-5) + 1
    assert loud.nonzero().flatten().tolist() == [10, 11, 12, 13]


def test_streams_to_the_same_frames() -> None:
    mel = LogMel(RATE, 512, 128, 512, 40).double()
    x = noise(128 * 13, batch=2, dtype=torch.float64)
    whole = mel(x)
    with mel.streaming(2):
        chunks = [mel(chunk) for chunk in x.split([128, 256, 384, 896], dim=-1)]
    torch.testing.assert_close(torch.cat(chunks, -1), whole, atol=1e-10, rtol=0)


def test_silence_is_the_floor_and_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 1, 2560, requires_grad=True)
    y = LogMel(RATE, 1024, 256, 1024, 80, floor=1e-5)(x)
    y.sum().backward()
    torch.testing.assert_close(y, torch.full_like(y, math.log(1e-5)), atol=0.01, rtol=0)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_band_edges_are_those_given() -> None:
    filters = LogMel(RATE, 1024, 256, 1024, 30, f_min=1000.0, f_max=4000.0).filters
    bins = filters.amax(0).nonzero().flatten() * RATE / 1024
    assert 1000 <= bins.min() < 1050
    assert 3900 < bins.max() <= 4000


def test_exports() -> None:
    mel, x = LogMel(RATE, 512, 128, 512, 40).eval(), noise(128 * 8)
    exported = torch.export.export(mel, (x,)).module()
    torch.testing.assert_close(exported(x), mel(x))


def test_can_be_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        assert LogMel(RATE, 512, 128, 512, 40).filters.shape == (40, 257)


def test_invalid_arguments_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"f_min=5000.*\n?.*n_mels=0.*\n?.*floor=0"):
        LogMel(RATE, 1024, 256, 1024, 0, f_min=5000, f_max=4000, floor=0)
    with pytest.raises(ConfigError, match="no bin falls into"), pytest.warns(UserWarning, match="all zero"):
        LogMel(RATE, 256, 64, 256, 128)
    with pytest.raises(AudioError, match=r"\(batch, 1, time\)"):
        LogMel(RATE, 512, 128, 512, 40)(torch.zeros(1, 2, 1280))
