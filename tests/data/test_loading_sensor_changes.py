from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bcfusion.audio.level import active_level
from bcfusion.data.loading.sensor_changes import MASK_DEPTH, SensorChanges

RATES = (8000, 16000, 48000)


def octaves(curve: Tensor, rate: int, low: float = 100.0, high: float = 4000.0, step: float = 1 / 24) -> Tensor:
    """Return a curve over frequency, read at equal steps in octaves."""
    places = low * 2.0 ** torch.arange(0.0, math.log2(high / low), step) * (curve.shape[-1] - 1) / (rate / 2)
    return curve[..., places.round().long()]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("smoothness", [0.5, 1.0])
def test_the_response_has_the_stated_deviation_and_smoothness_and_no_gain(rate: int, smoothness: float) -> None:
    change = SensorChanges(equalisation=4.0, octaves=smoothness)
    curves = octaves(torch.stack([change.gain(seed, rate) for seed in range(400)]), rate)
    assert float(curves.square().mean().sqrt()) == pytest.approx(4.0, rel=0.05)
    assert float(curves.mean(dim=1).abs().max()) < 0.25  # each has mean 0, so that body_gain alone sets the level
    # The variance of the difference over d octaves grows as 1 - exp(-d^2 / (4 s^2)), which no common offset changes.
    near, far = ((curves[:, d:] - curves[:, :-d]).square().mean() for d in (12, 24))
    wanted = [1 - math.exp(-(d**2) / (4 * smoothness**2)) for d in (0.5, 1.0)]
    assert float(near / far) == pytest.approx(wanted[0] / wanted[1], rel=0.1)


@pytest.mark.parametrize("rate", RATES)
def test_the_filter_has_the_drawn_response_and_no_delay(rate: int) -> None:
    change = SensorChanges(equalisation=4.0)
    impulse = torch.zeros(1, 1, rate // 4)
    impulse[..., 50] = 1.0
    for seed in range(5):
        made = change(impulse, [seed], rate)[0, 0]
        assert float(made[:50].abs().max()) < 1e-6  # nothing before its cause
        gain = change.gain(seed, rate)
        measured = 20 * torch.fft.rfft(made, n=2 * (len(gain) - 1)).abs().log10()
        torch.testing.assert_close(octaves(measured, rate), octaves(gain, rate), rtol=0, atol=0.6)
        # of all filters with this response, that of minimum phase has the largest first sample: exp(mean log response)
        assert float(made[50].log()) == pytest.approx(float(gain[1:-1].mean()) * math.log(10) / 20, abs=0.01)


def test_the_same_seed_means_the_same_curve_at_every_rate() -> None:
    change = SensorChanges(equalisation=4.0, mask=1.0)
    low, high = change.gain(3, 16000), change.gain(3, 48000)
    torch.testing.assert_close(octaves(low, 16000), octaves(high, 48000), rtol=0, atol=2.5)
    assert not torch.equal(change.gain(4, 16000), low)


def test_a_band_of_the_stated_width_is_masked_in_the_stated_share_of_the_crops() -> None:
    change = SensorChanges(mask=0.3, mask_octaves=(0.5, 1.5))
    gains = torch.stack([change.gain(seed, 16000) for seed in range(1000)])
    masked = gains.amin(dim=1) < -0.99 * MASK_DEPTH
    assert 0.26 < float(masked.float().mean()) < 0.34
    assert not gains[~masked].any()
    widths = (octaves(gains[masked], 16000, 50.0, 7900.0) < -MASK_DEPTH / 2).sum(dim=1) / 24
    assert 0.4 < float(widths.min()) < 0.6
    assert 1.4 < float(widths.max()) < 1.6
    signal = torch.randn(1, 1, 8000, generator=torch.Generator().manual_seed(0))
    seed = int(masked.nonzero()[0])
    lost = torch.fft.rfft(signal)[..., ::4] / torch.fft.rfft(change(signal, [seed], 16000))[..., ::4]
    depth = 20 * lost.abs().log10()[0, 0]
    expected = -gains[seed, (torch.arange(len(depth)) * (gains.shape[1] - 1) / (len(depth) - 1)).round().long()]
    assert float((depth - expected)[expected == 0].abs().median()) < 0.5
    assert float(depth[expected > 39].median()) > 20  # the tail that is cut off, and the crop's borders, leak into it


def test_noise_is_as_far_below_the_speech_as_drawn_and_about_white() -> None:
    rate = 16000
    speech = torch.randn(1, 1, 2 * rate, generator=torch.Generator().manual_seed(0))
    speech[..., rate:] = 0.0  # pauses do not count
    change = SensorChanges(noise=(20.0, 40.0))
    added = torch.cat([change(speech, [seed], rate) - speech for seed in range(60)])[:, 0]
    distances = 20 * torch.log10(active_level(speech[0], rate) / added.square().mean(dim=1).sqrt())
    assert 19.5 < float(distances.min()) < 23
    assert 37 < float(distances.max()) < 40.5
    half = added[:, : rate // 2].square().mean(dim=1) / added[:, rate // 2 : rate].square().mean(dim=1)
    assert float(half.log10().abs().max()) < 0.2  # stationary, from the first sample on
    spectra = torch.fft.rfft(added).abs().square()
    bands = torch.stack([band.mean(dim=1) for band in spectra.tensor_split(16, dim=1)])
    assert 2 < float((10 * torch.log10(bands / bands.mean(dim=0))).std()) < 8
    assert float((10 * torch.log10(bands.mean(dim=1) / bands.mean())).abs().max()) < 4
    silence = torch.zeros(1, 1, 100)
    assert torch.equal(change(silence, [0], rate), silence)


def test_an_item_does_not_depend_on_its_batch_or_on_what_else_is_on() -> None:
    signals = torch.randn(3, 1, 3000, generator=torch.Generator().manual_seed(1))
    every = SensorChanges(3.0, 0.5, 0.5, noise=(10.0, 30.0))
    together = every(signals, [5, 6, 7], 16000)
    for place, seed in enumerate((5, 6, 7)):
        alone = every(signals[place : place + 1], [seed], 16000)
        torch.testing.assert_close(alone[0], together[place], rtol=0, atol=1e-5)
    curves = torch.stack([SensorChanges(3.0).gain(seed, 16000) for seed in range(20)])
    masks = torch.stack([SensorChanges(mask=0.5).gain(seed, 16000) for seed in range(20)])
    torch.testing.assert_close(torch.stack([every.gain(seed, 16000) for seed in range(20)]), curves + masks)
    assert not SensorChanges()
