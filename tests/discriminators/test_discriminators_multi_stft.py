from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from published import assert_published, fill, signal
from torch import Tensor
from torch.nn.utils import parametrize

from bcfusion.discriminators.multi_stft import MultiStftDiscriminator, StftDiscriminator
from bcfusion.discriminators.stack import judge
from bcfusion.errors import ConfigError


def small(n_fft: int = 64, hop_length: int = 16, **arguments: Any) -> StftDiscriminator:
    torch.manual_seed(0)
    model = MultiStftDiscriminator([n_fft], [hop_length], channels=4, **arguments).resolutions[0]
    assert isinstance(model, StftDiscriminator)
    return model


def tone(bin_: float, n_fft: int, samples: int) -> Tensor:
    return torch.sin(2 * math.pi * bin_ / n_fft * torch.arange(samples, dtype=torch.float64)).float().view(1, 1, -1)


# The logits of the public code (EnCodec 0.1.1, 4 channels, without weight norm) in float64, with the weights of `fill`.
PUBLISHED = [
    5.55246892, -0.134797747, -0.100589508, -0.126461036, -0.314512676, -0.30979536, -0.344419824, -0.354437693,
    -0.434675286, -0.226504727, -0.30367545, -0.291733525, -0.277983645, -0.312292156, -0.132999327, -0.140761977,
    -0.169661837,
]  # fmt: skip


def test_it_computes_what_the_public_code_computes_from_the_frames_that_both_have() -> None:
    model = small(norm=None).double()
    fill(model.parameters())
    with torch.inference_mode():
        frames = model.spectrogram(signal(2, 1, 640)).double()[:, :, 2:-2]  # the whole windows
        assert_published(judge(frames, model.layers, model.logits, model.negative_slope).logits, PUBLISHED)


def test_all_layers_but_the_first_have_weight_norm_as_published() -> None:
    model = small()
    normed = [parametrize.is_parametrized(layer) for layer in [*model.layers, model.logits]]
    assert normed == [False, True, True, True, True, True]


def test_the_published_discriminator_has_472330_parameters() -> None:
    # weights, then a gain and a bias for each output channel; the first layer has no gains
    first = 2 * 32 * 3 * 9 + 32
    dilated = 32 * 32 * 3 * 9 + 2 * 32
    final = 32 * 32 * 3 * 3 + 2 * 32
    logits = 32 * 1 * 3 * 3 + 2
    assert first + 3 * dilated + final + logits == 94_466
    with torch.device("meta"):
        model = MultiStftDiscriminator()
    assert sum(p.numel() for p in model.parameters()) == 5 * 94_466 == 472_330


def test_the_layers_of_the_paper_keep_the_frames_and_halve_the_bins_three_times() -> None:
    judgements = MultiStftDiscriminator()(torch.zeros(1, 1, 2048))
    bins = {
        2048: [1025, 513, 257, 129, 129],
        1024: [513, 257, 129, 65, 65],
        512: [257, 129, 65, 33, 33],
        256: [129, 65, 33, 17, 17],
        128: [65, 33, 17, 9, 9],
    }
    for (n_fft, expected), judgement in zip(bins.items(), judgements, strict=True):
        frames = 2048 // (n_fft // 4) + 1
        assert [tuple(feature.shape) for feature in judgement.features] == [(1, 32, frames, n) for n in expected]
        assert judgement.logits.shape == (1, 1, frames, expected[-1])


def test_the_spectrogram_is_torchs_normalised_by_the_windows_norm() -> None:
    x = torch.randn(2, 1, 1000)
    window = torch.hann_window(64)
    expected = torch.stft(x[:, 0], 64, 16, window=window, pad_mode="constant", return_complex=True)
    expected = expected.mT / window.square().sum().sqrt()
    found = small().spectrogram(x)
    torch.testing.assert_close(torch.complex(found[:, 0], found[:, 1]), expected, atol=1e-5, rtol=1e-5)


def test_white_noise_keeps_its_variance_in_every_bin_at_every_resolution() -> None:
    torch.manual_seed(0)
    x = 0.1 * torch.randn(1, 1, 60_000)
    for n_fft in (64, 512):
        spectrum = small(n_fft, n_fft // 4).spectrogram(x)
        power = spectrum.square().sum(1)[:, 4:-4, 1:-1].mean()
        assert power == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("bin_", [8, 20])
def test_a_tone_on_a_bin_excites_only_that_bin_and_its_two_neighbours(bin_: int) -> None:
    magnitude = small().spectrogram(tone(bin_, 64, 640)).square().sum(1).sqrt()[0, 4:-4]
    assert magnitude.argmax(-1).unique().tolist() == [bin_]
    elsewhere = [n for n in range(33) if abs(n - bin_) > 1]
    assert magnitude[:, elsewhere].max() < 1e-3 * magnitude[:, bin_].min()
    torch.testing.assert_close(magnitude[:, bin_ + 1], magnitude[:, bin_] / 2, atol=1e-3, rtol=1e-3)  # Hann's main lobe


def test_a_change_of_one_band_changes_no_feature_far_from_it() -> None:
    # linear, so that the difference is that of the tone alone
    model = small(n_fft=512, hop_length=128, negative_slope=1.0)
    x = torch.randn(1, 1, 8192)
    before, after = model(x).features, model(x + tone(30, 512, 8192)).features
    for depth, (a, b) in enumerate(zip(before, after, strict=True)):
        # by bin, away from the frames in which the tone begins and ends
        moved = (a - b).abs()[0, :, 12:-12].amax((0, 1)).detach()
        bins = torch.arange(len(moved)) * 2 ** min(depth, 3)
        # half kernels of the first layer, of those with steps of 1, 2 and 4 bins, of the last with 8; the main lobe
        assert moved[(bins - 30).abs() > 4 + 4 + 8 + 16 + 8 + 1].max() < 1e-3 * moved.max()


def test_a_delay_of_one_hop_moves_all_features_and_logits_by_one_frame() -> None:
    model, x = small(), torch.randn(1, 1, 1600)
    before, after = model(x), model(F.pad(x, (16, 0))[..., :1600])
    for a, b in zip([*before.features, before.logits], [*after.features, after.logits], strict=True):
        inner = slice(15, -15)  # away from the ends: the frames that see them, widened by the dilations
        torch.testing.assert_close(b[:, :, 16:-14], a[:, :, inner], atol=1e-4, rtol=1e-4)


def test_the_dilations_are_in_time_and_the_stride_in_frequency() -> None:
    model = MultiStftDiscriminator(n_ffts=(64,), hop_lengths=(16,), channels=4, dilations=(1, 2, 4, 8))
    layers = [layer for layer in model.resolutions[0].modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.dilation for layer in layers] == [(1, 1), (1, 1), (2, 1), (4, 1), (8, 1), (1, 1), (1, 1)]
    assert [layer.stride for layer in layers] == [(1, 1), *[(1, 2)] * 4, (1, 1), (1, 1)]
    assert [layer.kernel_size for layer in layers] == [*[(3, 9)] * 5, (3, 3), (3, 3)]


def test_the_ends_are_judged_too() -> None:
    """The first and the last sample lie in the middle of a window."""
    x = torch.zeros(1, 1, 64).requires_grad_()
    spectrum = small().spectrogram(x)
    for sample, frame in ((0, 0), (63, 4)):
        (gradient,) = torch.autograd.grad(spectrum[0, 0, frame, 0], x, retain_graph=True)
        assert gradient[0, 0, sample] > 0.99 * gradient.max() > 0


def test_an_item_is_judged_alone_as_in_a_batch_padded_with_zeros() -> None:
    model, x = small(), torch.randn(1, 1, 160)
    alone, padded = model.spectrogram(x), model.spectrogram(F.pad(x, (0, 96)))
    torch.testing.assert_close(padded[:, :, : alone.shape[2]], alone)


def test_the_gradient_at_silence_is_finite_and_not_zero() -> None:
    x = torch.zeros(1, 1, 300).requires_grad_()
    model = MultiStftDiscriminator(n_ffts=(64, 32), hop_lengths=(16, 8), channels=4)
    torch.stack([judgement.logits.mean() for judgement in model(x)]).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_spectrogram_is_that_of_float32(dtype: torch.dtype) -> None:
    model, x = small(), torch.randn(1, 1, 300).to(dtype)
    expected = model.spectrogram(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.spectrogram(x)
        logits = model(x).logits
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert logits.dtype == torch.bfloat16


def test_any_waveform_of_at_least_one_sample_is_judged() -> None:
    model = MultiStftDiscriminator(n_ffts=(64, 30, 7), hop_lengths=(16, 10, 7), channels=4)
    for samples in (*range(1, 20), 63, 64, 65):
        judgements = model(torch.randn(2, 1, samples))
        frames = [samples // hop + 1 for hop in (16, 10, 7)]
        assert [j.logits.shape[2] for j in judgements] == frames
        assert all(j.logits.isfinite().all() for j in judgements)


def test_impossible_sizes_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        MultiStftDiscriminator(n_ffts=(64, 32), hop_lengths=(80,), kernel_size=(3, 8), channels=0)
    assert "2 n_ffts and 1 hop_lengths" in str(error.value)
    assert "80 must be from 1 to n_fft=64" in str(error.value)
    assert "kernel_size=[3, 8] must be two odd numbers" in str(error.value)
    assert "channels=0 must be at least 1" in str(error.value)
    with pytest.raises(ConfigError, match=r"n_ffts=\[\]"):
        MultiStftDiscriminator(n_ffts=(), hop_lengths=())
