from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.wave_unet import DownsamplingBlock, UpsamplingBlock, WaveUNet
from bcfusion.nn.conv import Conv1d
from bcfusion.nn.initial import whiten


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def autoregressive(samples: int) -> Tensor:
    """A first-order process at -23 dBFS: it falls by 6 dB per octave, as speech does."""
    decay = 0.95 ** torch.arange(199, -1, -1.0)
    signal = F.conv1d(torch.randn(1, 1, samples + 199), decay.view(1, 1, -1))
    return 0.07 * signal / signal.std()


def test_wave_unet_has_the_published_17_5_million_parameters() -> None:
    with torch.device("meta"):
        assert parameters(WaveUNet()) == 17_465_378


def test_a_second_sensor_adds_one_kernel_per_feature_of_the_first_layer_and_one_weight_at_the_end() -> None:
    with torch.device("meta"):
        one, two = WaveUNet(channels=8, levels=3), WaveUNet(channels=8, levels=3, in_channels=2)
    assert parameters(two) - parameters(one) == 8 * 5 + 1


def test_a_frame_has_1024_samples_and_the_look_ahead_is_362_ms() -> None:
    with torch.device("meta"):
        model = WaveUNet()
    assert model.hop == 1024
    assert model.delay == 5799


@pytest.mark.parametrize("sizes", [{"levels": 3}, {"levels": 4, "stride": 2, "kernel_size": 4}], ids=str)
def test_the_delay_is_exactly_how_far_a_nan_reaches(sizes: dict[str, int]) -> None:
    model = WaveUNet(channels=2, **sizes).eval()
    assert model.delay is not None
    start = model.hop * (2 + model.delay // model.hop)
    x = torch.zeros(model.hop, 1, start + 2 * model.hop)
    for phase in range(model.hop):
        x[phase, 0, start + phase] = torch.nan
    with torch.inference_mode():
        first_bad = model(x).isnan()[:, 0].int().argmax(dim=1)
    assert int((start + torch.arange(model.hop) - first_bad).max()) == model.delay


def convolve(layer: Conv1d, x: Tensor) -> Tensor:
    return F.conv1d(F.pad(x, (layer.kernel_size // 2,) * 2), layer.weight, layer.bias)


def test_it_matches_the_network_of_the_paper() -> None:
    """Convolve, keep every fourth frame; interpolate linearly; LeakyReLU; append the input at the end."""
    torch.manual_seed(0)
    model = WaveUNet(channels=3, levels=3, in_channels=2).double()
    x = 0.07 * torch.randn(2, 2, 160, dtype=torch.float64)
    h, skips = x / 0.07, []
    for encode in model.encoder:
        assert isinstance(encode, DownsamplingBlock)
        skips.append(F.leaky_relu(convolve(encode.features, h), 0.2))
        # the strided kernel begins one sample before its frame: a centred one, sampled at index 1 of every four
        h = F.leaky_relu(convolve(encode.down, skips[-1])[..., 1::4], 0.2)
    h = F.leaky_relu(convolve(model.bottleneck, h), 0.2)
    for decode in model.decoder:
        assert isinstance(decode, UpsamplingBlock)
        h = F.leaky_relu(convolve(decode.up, F.interpolate(h, scale_factor=4, mode="linear")), 0.2)
        h = F.leaky_relu(convolve(decode.merge, torch.cat([h, skips.pop()], dim=1)), 0.2)
    expected = 0.07 * convolve(model.last, torch.cat([h, x / 0.07], dim=1))
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, atol=1e-12, rtol=0)


def test_the_output_starts_from_the_chosen_sensor() -> None:
    x = 0.07 * torch.randn(1, 2, 700)
    for skip in (0, -1):
        model = WaveUNet(in_channels=2, channels=2, levels=3, skip_channel=skip, init_output_scale=1e-6)
        torch.testing.assert_close(model(x), x[:, skip].unsqueeze(1), atol=1e-5, rtol=0)


def test_an_untrained_network_returns_the_input_plus_a_smaller_correction() -> None:
    torch.manual_seed(0)
    model, x = WaveUNet(channels=8), autoregressive(8192)
    with torch.inference_mode():
        correction = model(x) - x
    assert 0.03 < correction.square().mean().sqrt() / 0.07 < 1.0


def test_whitened_kernels_respond_to_the_upper_band_of_speech_as_well_as_to_the_lower() -> None:
    torch.manual_seed(0)
    speech = autoregressive(20_000) / 0.07
    layer = Conv1d(1, 200, 5, bias=False)
    nn.init.normal_(layer.weight, std=5**-0.5)
    with torch.inference_mode():
        spread = [torch.linalg.matrix_rank(torch.cov(layer(speech)[0]), rtol=0.05)]
        whiten(layer)
        features = layer(speech)[0]
        spread.append(torch.linalg.matrix_rank(torch.cov(features), rtol=0.05))
    assert [int(rank) for rank in spread] == [2, 5], "directions with at least a twentieth of the strongest one's power"
    torch.testing.assert_close(features.square().mean(), torch.tensor(1.0), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    "arguments", [{"levels": 1}, {"stride": 1}, {"stride": 6}, {"channels": 0}, {"init_output_scale": 0.0}], ids=str
)
def test_invalid_sizes_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="WaveUNet"):
        WaveUNet(**arguments)
