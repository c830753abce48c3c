from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import nn

from bcfusion.errors import ConfigError
from bcfusion.generators.bsrnn import BSRNN, BandMlp, BandSplit, bins_of_bands, speech_band_widths

SMALL: dict[str, Any] = {"channels": 8, "layers": 1, "rnn_channels": 8, "mlp_channels": 8}
N64_L5: dict[str, Any] = {"channels": 64, "layers": 5, "rnn_channels": 256, "mlp_channels": 64, "causal": True}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_published_sizes_have_approximately_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        large, small = parameters(BSRNN()), parameters(BSRNN(**N64_L5))
    assert (large, small) == (11_502_468, 3_023_172)
    assert large == pytest.approx(11.4e6, rel=0.01)
    assert small == pytest.approx(3.0e6, rel=0.01)


def test_a_second_sensor_widens_the_band_split_only() -> None:
    with torch.device("meta"):
        assert parameters(BSRNN(in_channels=2)) - parameters(BSRNN()) == 257 * 2 * 128


@pytest.mark.parametrize(
    ("sample_rate", "bands", "last"), [(8000, 20, 200), (16000, 27, 1000), (22050, 28, 2025), (48000, 35, 1000)]
)
def test_the_split_for_speech_ends_at_half_the_sample_rate(sample_rate: int, bands: int, last: float) -> None:
    widths = speech_band_widths(sample_rate)
    assert (len(widths), widths[-1]) == (bands, last)
    assert sum(widths) == sample_rate / 2
    assert set(widths[:20]) == {200.0}


@pytest.mark.parametrize(
    ("sample_rate", "n_fft"), [(8000, 256), (16000, 512), (16000, 320), (44100, 2048), (48000, 960)]
)
def test_every_bin_lies_in_the_band_that_holds_its_frequency(sample_rate: int, n_fft: int) -> None:
    widths = speech_band_widths(sample_rate)
    counts = bins_of_bands(widths, sample_rate, n_fft)
    assert sum(counts) == n_fft // 2 + 1
    f = 0
    for lower, width, count in zip([0.0, *accumulate(widths)], widths, counts, strict=False):
        for _ in range(count):
            assert lower <= f * sample_rate / n_fft <= lower + width
            f += 1


@pytest.mark.parametrize("causal", [True, False])
def test_the_bands_split_in_one_product_equal_the_bands_split_one_by_one(causal: bool) -> None:
    torch.manual_seed(0)
    widths, inputs = [2, 3, 1, 5], 4
    split = BandSplit(widths, inputs, channels=6, causal=causal).double()
    x = torch.randn(2, inputs, sum(widths), 7, dtype=torch.float64)
    y = split(x)
    start = 0
    for band, width in enumerate(widths):
        part = x[:, :, start : start + width]
        over = (1, 2) if causal else (1, 2, 3)
        deviation = (part.var(over, unbiased=False, keepdim=True) + split.eps).sqrt()
        normal = (part - part.mean(over, keepdim=True)) / deviation
        layer = split.weight[start : start + width]  # (width, inputs, channels)
        expected = torch.einsum("bcwn,wcd->bdn", normal, layer) + split.bias[:, band]
        if causal:
            expected = expected + split.level_weight[:, band] * deviation.log10()[:, :, 0]
        torch.testing.assert_close(y[:, :, band], expected)
        start += width


@pytest.mark.parametrize("causal", [True, False])
def test_the_output_layers_of_all_bands_equal_those_of_each_band(causal: bool) -> None:
    torch.manual_seed(0)
    widths = [2, 3, 1]
    mlp = BandMlp(widths, channels=6, hidden=5, causal=causal, scale=1.0, start=1.0).double()
    x = torch.randn(2, 6, 3, 7, dtype=torch.float64)
    y = mlp(x)
    start = 0
    for band, width in enumerate(widths):
        part = x[:, :, band]
        over = (1,) if causal else (1, 2)
        normal = (part - part.mean(over, keepdim=True)) / (
            part.var(over, unbiased=False, keepdim=True) + mlp.eps
        ).sqrt()
        hidden = torch.tanh(torch.einsum("bdn,dh->bhn", normal, mlp.hidden_weight[band]) + mlp.hidden_bias[band].mT)
        for f in range(start, start + width):
            out = torch.einsum("bhn,ho->bon", hidden, mlp.output_weight[f]) + mlp.output_bias[:, f]
            torch.testing.assert_close(y[:, :, f], out[:, :2] * torch.sigmoid(out[:, 2:]))
        start += width


def test_the_causal_split_keeps_the_loudness_of_a_frame() -> None:
    x = torch.randn(1, 2, 11, 4)
    split = BandSplit([5, 6], 2, channels=6, causal=True)
    louder = split(10 * x) - split(x)
    torch.testing.assert_close(louder, split.level_weight.expand_as(louder), atol=1e-4, rtol=1e-3)


def test_only_the_causal_network_has_a_delay() -> None:
    assert (BSRNN(**SMALL).delay, BSRNN(**SMALL, causal=True).delay) == (None, 511)
    assert BSRNN(**SMALL, causal=True).hop == 256


def test_the_bands_of_a_frame_depend_on_each_other_in_both_directions() -> None:
    model = BSRNN(**SMALL, causal=True).eval()
    x = torch.randn(1, 1, 257, 1)
    for poisoned, reached in ((0, 256), (256, 0)):  # lowest bin to highest, and back
        changed = x.clone()
        changed[:, :, poisoned] = torch.nan
        assert model.spectrum(changed, changed)[0][0][0, reached, 0].isnan()


@pytest.mark.parametrize("causal", [True, False])
def test_a_mask_cannot_fill_an_empty_band_and_an_added_spectrum_can(causal: bool) -> None:
    x = torch.randn(1, 1, 257, 8)
    x[:, :, 128:] = 0.0  # narrow-band speech: nothing above 4 kHz
    outputs = {}
    for head in ("mask", "additive", "mapping"):
        torch.manual_seed(0)
        (outputs[head], _), _ = BSRNN(**SMALL, causal=causal, head=head).spectrum(x, x)
    assert not outputs["mask"][:, 128:].any()
    for head in ("additive", "mapping"):
        assert outputs[head][:, 128:].abs().mean() > 0.01


@pytest.mark.parametrize("head", ["mask", "polar_mask"])
def test_the_provided_mask_is_the_gain_of_each_bin(head: Any) -> None:
    model = BSRNN(**SMALL, head=head)
    assert model.provides == ("mask",)
    real, imag = torch.randn(2, 2, 1, 257, 6)
    (y_real, y_imag), provided = model.spectrum(real, imag)
    gain = torch.hypot(y_real, y_imag) / torch.hypot(real, imag)[:, 0]
    torch.testing.assert_close(provided["mask"], gain, atol=1e-3, rtol=1e-3)
    assert BSRNN(**SMALL, head="mapping").provides == ()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("head", ["additive", "mask"])
def test_it_starts_near_the_sensor_it_is_added_to(head: Any, causal: bool) -> None:
    torch.manual_seed(0)
    model = BSRNN(in_channels=2, head=head, causal=causal, skip_channel=0, **SMALL)
    inputs = 0.07 * torch.randn(2, 2, 8000)
    output = model(inputs)
    y = output["estimate"] if isinstance(output, dict) else output
    error = (y[:, 0] - inputs[:, 0]).square().mean() / inputs[:, 0].square().mean()
    assert error < 0.25  # of the power: -6 dB


@pytest.mark.parametrize(
    "wrong",
    [
        {"rnn_channels": 7},
        {"layers": 0},
        {"band_widths": (1000.0, 2000.0)},  # up to 3 kHz only
        {"band_widths": (10.0, 10.0, 7980.0)},  # less than a bin
        {"head": "sum"},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BSRNN(**{**SMALL, **wrong})


def test_custom_bands() -> None:
    model = BSRNN(**SMALL, band_widths=(1000.0, 3000.0, 4000.0))
    assert model.band_bins == [32, 96, 129]
