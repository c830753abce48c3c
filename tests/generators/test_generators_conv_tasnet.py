from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.conv_tasnet import ConvTasNet, EncodingHead, Head, MaskActivation, NormName
from bcfusion.nn.conv import Conv1d
from bcfusion.nn.norm import CumulativeLayerNorm
from bcfusion.nn.streaming import StreamingError

SMALL: dict[str, Any] = {"filters": 48, "bottleneck_channels": 6, "hidden_channels": 8, "blocks": 3, "repeats": 2}


def parameters(**arguments: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ConvTasNet(**arguments).parameters())


def with_zero_output(model: ConvTasNet) -> ConvTasNet:
    """The network itself, its separator's output set to zero."""
    last = model.output[-1]
    assert isinstance(last, Conv1d)
    assert last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return model


def tone(frequency: float, samples: int = 4096) -> Tensor:
    time = torch.arange(samples) / 16000
    ramp = torch.hann_window(samples, periodic=False)
    return (0.1 * ramp * torch.sin(2 * torch.pi * frequency * time)).view(1, 1, -1)


def test_with_a_second_speaker_it_has_the_papers_5_1_million_parameters() -> None:
    ours = parameters()
    assert ours == 4_918_833
    second_map = 128 * 512 + 512  # of the last convolution; here the softmax over speech and the rest needs it
    assert parameters(mask_activation="softmax") == ours + second_map
    unused = 512 * 128 + 128  # residual convolution of the last block, whose output is not used, left out here
    assert ours + second_map + unused == pytest.approx(5.1e6, rel=0.01)


def test_without_the_skip_path_it_has_3_4_million_parameters() -> None:
    assert parameters(skip_path=False) == 3_408_561
    assert 3.38e6 < parameters(skip_path=False) < 3.45e6


def test_global_layer_norm_refuses_a_causal_network() -> None:
    with pytest.raises(ConfigError, match="GlobalLayerNorm: causal=True is impossible"):
        ConvTasNet(norm="gLN", causal=True, **SMALL)


def test_cumulative_layer_norm_equals_a_loop_over_the_frames_so_far() -> None:
    torch.manual_seed(0)
    model = ConvTasNet(norm="cLN", causal=True, **SMALL).double()
    norm = model.bottleneck[0]
    assert isinstance(norm, CumulativeLayerNorm)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    encoding = model.encoder(0.07 * torch.randn(2, 1, 20 * model.hop, dtype=torch.float64))
    expected = torch.empty_like(encoding)
    for item, frames in enumerate(encoding):
        for k in range(frames.shape[-1]):
            so_far = frames[:, : k + 1]
            normal = (frames[:, k] - so_far.mean()) / (so_far.var(correction=0) + norm.eps).sqrt()
            expected[item, :, k] = normal * norm.weight + norm.bias
    torch.testing.assert_close(norm(encoding), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", ["cLN", "BN", "channel_LN"])
@pytest.mark.parametrize(("causal", "frames"), [(True, 0), (False, 2 * (1 + 2 + 4))])
@pytest.mark.parametrize("filter_length", [16, 10])
def test_the_delay_is_exactly_how_far_a_nan_reaches(
    norm: NormName, causal: bool, frames: int, filter_length: int
) -> None:
    model = ConvTasNet(norm=norm, causal=causal, filter_length=filter_length, **SMALL).eval()
    assert model.delay == filter_length - 1 + frames * filter_length // 2
    start = 30 * model.hop
    x = 0.07 * torch.randn(model.hop, 1, start + 10 * model.hop)
    for phase in range(model.hop):  # all frame phases at once, one per item
        x[phase, 0, start + phase :] = torch.nan
    with torch.inference_mode():
        bad = model(x).isnan()[:, 0].int().argmax(dim=1)
    assert int((start + torch.arange(model.hop) - bad).max()) == model.delay


def test_a_network_normalised_over_the_file_has_no_delay_and_does_not_stream() -> None:
    model = ConvTasNet(**SMALL)
    assert model.delay is None
    with pytest.raises(StreamingError, match="ConvTasNet is not causal"), model.streaming(1):
        pass


@pytest.mark.parametrize("head", ["mask", "additive"])
@pytest.mark.parametrize(("causal", "norm"), [(True, "cLN"), (False, "gLN")])
@pytest.mark.parametrize("length", [1, 1000])
def test_encoder_and_decoder_are_initially_aligned_inverses(
    head: Head, causal: bool, norm: NormName, length: int
) -> None:
    model = with_zero_output(ConvTasNet(in_channels=2, head=head, causal=causal, norm=norm, skip_channel=0, **SMALL))
    x = torch.randn(2, 2, length)
    torch.testing.assert_close(model(x), x[:, :1], atol=1e-5, rtol=0)  # including the first and the last sample


@pytest.mark.parametrize("activation", ["relu", "softmax", "sigmoid"])
def test_the_untrained_network_changes_its_input_little(activation: MaskActivation) -> None:
    torch.manual_seed(0)
    model, x = ConvTasNet(mask_activation=activation).eval(), tone(300.0)
    with torch.inference_mode():
        y = model(x)
    assert 0.5 < y.std() / x.std() < 2.0
    gain = (y * x).sum() / x.square().sum()
    assert (y - gain * x).square().sum() < 0.1 * y.square().sum()


def test_a_mask_keeps_silence_and_mapping_need_not() -> None:
    torch.manual_seed(0)
    silence = torch.zeros(1, 1, 400)
    assert not ConvTasNet(head="mask", **SMALL)(silence).any()
    assert ConvTasNet(head="mapping", **SMALL)(silence).any()


def test_a_mask_on_a_learned_encoding_is_not_confined_to_the_sensors_band() -> None:
    torch.manual_seed(0)

    def high_band(y: Tensor) -> Tensor:  # share of the power above 4 kHz
        power = torch.fft.rfft(y.double() * torch.hann_window(4096, dtype=torch.float64)).abs().square()[0, 0]
        return power[1024:].sum() / power.sum()

    x = tone(500.0)
    with torch.inference_mode():
        y = ConvTasNet(mask_activation="sigmoid", **SMALL).eval()(x)
    assert high_band(x) < 1e-9  # rounding errors of float32
    assert high_band(y) > 1e-5


def test_the_mask_applies_to_the_chosen_sensor() -> None:
    torch.manual_seed(0)
    model = ConvTasNet(in_channels=2, skip_channel=0, **SMALL)
    x = 0.07 * torch.randn(1, 2, 800)
    with torch.no_grad():
        both = model(x)
        assert not model(x * torch.tensor([0.0, 1.0]).view(2, 1)).any()
        assert not torch.allclose(model(x * torch.tensor([1.0, 0.0]).view(2, 1)), both), "the mask depends on both"


def test_masks_stay_within_their_range() -> None:
    torch.manual_seed(0)
    encoding, output = torch.ones(2, 5, 7), 4 * torch.randn(2, 10, 7)
    one = output[:, :5]
    softmax, rest = EncodingHead("mask", "softmax", 1.0), torch.cat([output[:, 5:], one], dim=1)
    torch.testing.assert_close(softmax(encoding, output) + softmax(encoding, rest), encoding)
    sigmoid, relu = (EncodingHead("mask", name, 1.0)(encoding, one) for name in ("sigmoid", "relu"))
    assert 0 < sigmoid.min() < 0.1
    assert 0.9 < sigmoid.max() < 1
    assert relu.min() == 0
    assert relu.max() > 1


def test_the_skip_path_is_the_sum_of_all_blocks() -> None:
    torch.manual_seed(0)
    model = ConvTasNet(**SMALL)
    skips: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: skips.append(output[:, -6:]))
    sums: list[Tensor] = []
    model.output.register_forward_hook(lambda _module, inputs, _output: sums.append(inputs[0]))
    model(0.07 * torch.randn(1, 1, 200))
    assert len(skips) == 6
    torch.testing.assert_close(sums[0], torch.stack(skips).sum(0))


@pytest.mark.parametrize(
    "arguments",
    [
        {"filter_length": 15},
        {"filter_length": 0},
        {"blocks": 0},
        {"hidden_channels": 0},
        {"norm": "LN"},
        {"head": "polar_mask"},
        {"mask_activation": "tanh"},
        {"speech_level": 0.0},
    ],
    ids=str,
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ConvTasNet(**{**SMALL, **arguments})
