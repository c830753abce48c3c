from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from published import assert_published, fill, signal
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bcfusion.errors import AudioError, ConfigError
from bcfusion.generators.eben import EBEN, DecoderBlock, EncoderBlock, ResidualUnit
from bcfusion.nn.conv import Conv1d, ConvTranspose1d, remove_weight_norm
from bcfusion.nn.streaming import StreamingError

SMALL: dict[str, Any] = {"channels": 2, "latent_channels": 2}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def silenced(**arguments: Any) -> EBEN:
    """EBEN whose network adds nothing: only the filter bank and the tanh on the kept bands remain."""
    model = EBEN(**{**SMALL, **arguments})
    with torch.no_grad():
        model.last.weight.zero_()
    return model


def tone(frequency: float, samples: int = 4000) -> Tensor:
    return torch.sin(2 * math.pi * frequency / 16000 * torch.arange(samples)).view(1, 1, -1)


@pytest.mark.parametrize(("input_bands", "published"), [(1, 1_946_144), (2, 1_946_240), (4, 1_946_432)])
def test_eben_has_the_published_number_of_parameters(input_bands: int, published: int) -> None:
    """The published counts include the taps of analysis and synthesis filters, which here are buffers."""
    for causal in (False, True):
        with torch.device("meta"):
            model = EBEN(input_bands=input_bands, causal=causal)
        taps = sum(buffer.numel() for buffer in model.buffers())
        assert taps == 2 * 4 * 32
        assert parameters(model) == published - taps


def test_a_second_sensor_adds_one_kernel_for_each_of_its_bands_and_nothing_else() -> None:
    assert parameters(EBEN(in_channels=2, input_bands=2)) - parameters(EBEN(input_bands=2)) == 2 * 32 * 3


def test_weight_norm_is_on_every_layer_but_the_first_and_last_and_no_layer_has_a_bias() -> None:
    model = EBEN(**SMALL)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Conv1d | ConvTranspose1d)}
    assert {name for name, layer in layers.items() if not parametrize.is_parametrized(layer)} == {"first", "last"}
    assert all(layer.bias is None for layer in layers.values())
    assert "last.weight" in dict(model.named_parameters())
    assert not any(parametrize.is_parametrized(layer) for layer in EBEN(weight_norm=False, **SMALL).modules())


def test_the_frame_is_256_samples_and_the_network_looks_198_ms_ahead() -> None:
    model = EBEN(**SMALL)
    assert model.hop == 256
    assert model.delay == 3163
    with pytest.raises(StreamingError, match="EBEN is not causal"), model.streaming(1):
        pass


def test_the_causal_network_waits_only_for_its_filter_bank_and_the_rest_of_its_frame() -> None:
    model = EBEN(causal=True, **SMALL)
    assert (model.hop, model.lookahead, model.delay) == (256, 28, 283)
    assert EBEN(causal=True, bands=3, taps=25, **SMALL).lookahead == 22


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("bands", "taps", "strides"), [(4, 32, (2, 4)), (3, 25, (2, 3)), (2, 16, (5,)), (8, 64, (2,))], ids=str
)
def test_the_delay_is_exactly_how_far_a_nan_reaches(
    bands: int, taps: int, strides: tuple[int, ...], causal: bool
) -> None:
    model = EBEN(bands=bands, taps=taps, strides=strides, causal=causal, channels=1, latent_channels=1).eval()
    assert model.delay is not None
    start = model.hop * (2 + model.delay // model.hop)
    x = torch.zeros(model.hop, 1, start + model.hop)
    for phase in range(model.hop):  # all frame phases at once, one per item
        x[phase, 0, start + phase] = torch.nan
    with torch.inference_mode():
        bad = model(x).isnan()[:, 0]
    t = start + torch.arange(model.hop)
    assert int((t - bad.int().argmax(dim=1)).max()) == model.delay


@pytest.mark.parametrize(("bands", "taps", "input_bands"), [(2, 16, 2), (3, 24, 1), (5, 41, 3), (8, 64, 1)])
def test_any_number_of_bands_and_any_length_work(bands: int, taps: int, input_bands: int) -> None:
    model = EBEN(bands=bands, taps=taps, input_bands=input_bands, **SMALL)
    with torch.inference_mode():
        for samples in (1, 2, 7, model.hop - 1, model.hop, model.hop + 1):
            y = model(torch.randn(2, 1, samples))
            assert y.shape == (2, 1, samples)
            assert y.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_without_its_network_quiet_speech_passes_unchanged_from_the_first_sample_to_the_last(causal: bool) -> None:
    x = 0.01 * torch.randn(2, 1, 1001)  # in the linear range of tanh
    with torch.inference_mode():
        error = silenced(input_bands=4, causal=causal)(x) - x
    for part in (slice(None), slice(16), slice(-16, None)):
        assert error[..., part].square().mean() < 1e-4 * x.square().mean()


@pytest.mark.parametrize(("bands", "taps"), [(2, 16), (3, 24), (3, 25), (4, 32), (5, 40)])
def test_chunks_give_the_output_of_the_whole_file(bands: int, taps: int) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"bands": bands, "taps": taps, "strides": (2, 3), "channels": 4, "latent_channels": 4}
    model = EBEN(in_channels=2, input_bands=2, causal=True, **sizes).double().eval()
    x = 0.1 * torch.randn(2, 2, 21 * model.hop, dtype=torch.float64)
    with torch.inference_mode():
        whole = model(x)
        for hops in (1, 2, 3, 7):
            with model.streaming(2):
                late = torch.cat([model(chunk) for chunk in x.split(hops * model.hop, dim=-1)], dim=-1)
            error = late[..., model.lookahead :] - whole[..., : -model.lookahead]
            assert error.abs().max() <= 1e-10 * whole.abs().max()


@pytest.mark.parametrize(("bands", "taps"), [(2, 16), (3, 25), (4, 32), (5, 40)])
def test_the_measured_look_ahead_of_a_stream_is_that_of_the_filter_bank(bands: int, taps: int) -> None:
    """Without its network, a stream returns quiet speech unchanged, ``taps - bands`` samples late."""
    model = silenced(bands=bands, taps=taps, input_bands=bands, strides=(2, 3), causal=True)
    x = 0.01 * torch.randn(1, 1, 40 * model.hop)
    with torch.inference_mode(), model.streaming(1):
        late = torch.cat([model(chunk) for chunk in x.split(model.hop, dim=-1)], dim=-1)
    correlation = torch.fft.irfft(torch.fft.rfft(late) * torch.fft.rfft(x).conj(), n=x.shape[-1])
    assert int(correlation.argmax()) == model.lookahead == taps - bands
    error = late[..., model.lookahead :] - x[..., : -model.lookahead]
    assert error.square().mean() < 1e-4 * x.square().mean()


def test_only_the_lowest_bands_are_used() -> None:
    x = 0.01 * (tone(1000) + tone(7000))
    with torch.inference_mode():
        y = silenced(input_bands=1)(x)[..., 200:-200]
        untrained = EBEN(input_bands=1)(0.01 * tone(7000))[..., 200:-200]
    assert (y - 0.01 * tone(1000)[..., 200:-200]).abs().max() < 1e-3
    assert untrained.abs().max() < 1e-5, "a network without biases maps silence to silence"


def test_no_band_exceeds_one() -> None:
    with torch.inference_mode():
        y = silenced(input_bands=1)(5.0 * tone(1000))[..., 200:-200]
    assert 0.8 < y.abs().max() < 1.5, "a square wave of amplitude one, at four samples a period: 1.41 at the most"


def test_the_output_starts_from_the_chosen_sensor() -> None:
    x = 0.01 * torch.randn(1, 2, 700)
    for skip in (0, -1):
        with torch.inference_mode():
            y = silenced(in_channels=2, input_bands=4, skip_channel=skip)(x)
        torch.testing.assert_close(y, x[:, skip].unsqueeze(1), atol=3e-4, rtol=0)


def test_both_sensors_reach_the_network() -> None:
    torch.manual_seed(0)
    model, x = EBEN(in_channels=2, input_bands=2), 0.1 * torch.randn(1, 2, 700)
    x.requires_grad_()
    kept = model.pqmf.analysis(x[..., 3:], slice(2))  # (1, sensors * 2, frames); with 17 + 3 samples before: 5 frames
    first = torch.einsum("bf,ob->of", kept[0], model.first.weight[..., 1])
    with torch.no_grad():
        model.first.weight[..., [0, 2]] = 0
    seen: list[Tensor] = []
    model.first.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(x).sum().backward()
    inner = slice(4, -4)  # past the edges
    torch.testing.assert_close(seen[0][0, :, 5 : 5 + first.shape[-1]][:, inner], first[:, inner], atol=1e-5, rtol=1e-4)
    assert x.grad is not None
    assert x.grad.any(dim=2).all()


# Before tanh and at the output, for p = 1 and 2: the public code (vibravox 0.1.1) in float64 with the weights of `fill`
# and `signal(2, 1, 2272)`.
PUBLISHED = {
    1: (
        [127.130307, 0.260579905, -2.55071296, -1.81758417, -0.502586511, -2.61074491, -1.38440962, -1.29949687,
         -1.17103419, -1.65151396, -2.12913351, -0.870590172, -0.594847054, -3.10738984, -2.02704805, -2.10341986,
         -1.28335499],
        [113.155676, -2.83770272, -1.19198705, -1.15902191, -1.88285151, 1.29036998, 0.0872495209, -1.17274143,
         -1.75677473, -1.8966493, -1.95417491, -2.52188908, 1.5309382, -1.53967985, -1.25734223, -0.481918502,
         1.59404537],
    ),
    2: (
        [127.269167, 0.282291612, -2.75806131, -2.15808331, -0.848784506, -3.0469192, -1.49026919, -1.44772182,
         -1.14445021, -1.91496581, -1.54893839, -0.821661048, -0.28763199, -3.01087571, -1.50995377, -1.65632924,
         -1.49731708],
        [113.368637, -2.71339572, -1.14190352, -1.08250137, -1.79992188, 1.22936708, -0.0378162784, -1.24014046,
         -1.42222766, -1.80974053, -2.04931981, -1.92366632, 1.47751549, -1.6693878, -1.43131743, -1.24521115,
         1.69268853],
    ),
}  # fmt: skip
PUBLISHED_CUTOFF, PUBLISHED_ENERGY = 0.15886658430099487, 0.99902019236  # of its filter bank; here .158875 and 1


def with_weights_by_the_rule(**arguments: Any) -> EBEN:
    model = EBEN(weight_norm=False, **arguments).double().eval()
    fill(model.parameters())
    return model


def with_published_filters(input_bands: int) -> EBEN:
    """EBEN whose filters have the cutoff and the gain of the public code: .05 % from those that it has otherwise."""
    arguments = {"cutoff": PUBLISHED_CUTOFF, "filter_gain": math.sqrt(PUBLISHED_ENERGY)}
    return with_weights_by_the_rule(input_bands=input_bands, **arguments)


@pytest.mark.parametrize("input_bands", PUBLISHED)
def test_it_computes_what_the_public_code_computes(input_bands: int) -> None:
    model, bands = with_published_filters(input_bands), []
    synthesis = model.pqmf.synthesis
    model.pqmf.synthesis = lambda bounded: bands.append(bounded) or synthesis(bounded)  # type: ignore[method-assign,func-returns-value]
    with torch.inference_mode():
        estimate = model(signal(2, 1, 2272))
    before_tanh, output = PUBLISHED[input_bands]
    assert_published(torch.atanh(bands[0]), before_tanh)
    assert_published(estimate, output)


def test_the_filter_bank_is_the_published_one_up_to_a_twentieth_of_a_percent() -> None:
    own, published = EBEN(**SMALL).pqmf.analysis_filters, with_published_filters(1).pqmf.analysis_filters
    assert 1e-4 < (own - published).norm() / published.norm() < 6e-4


def convolved(layer: Conv1d, x: Tensor) -> Tensor:
    """A causal convolution: zeros before the file, nothing after it."""
    past = (layer.kernel_size - 1) * layer.dilation + 1 - layer.stride
    return F.conv1d(F.pad(x, (past, 0)), layer.weight, stride=layer.stride, dilation=layer.dilation)


def test_the_causal_network_has_the_published_topology_with_zeros_before_the_file() -> None:
    """Written out: raw skips, an activation before each encoder block, around and between the bottleneck's layers."""
    model, kept = with_weights_by_the_rule(causal=True, input_bands=2), signal(2, 2, 320, level=1.0)
    act = nn.LeakyReLU(0.01)

    def units(layers: nn.Module, h: Tensor) -> Tensor:
        for unit in layers.children():
            assert isinstance(unit, ResidualUnit)
            h = h + act(convolved(unit.pointwise, convolved(unit.dilated, h)))
        return h

    with torch.inference_mode():
        h, skips = convolved(model.first, kept), []
        for block in model.encoder:
            h = convolved(block.down, units(block.units, act(h)))
            skips.append(h)
        h = act(convolved(model.expand, act(convolved(model.reduce, act(h)))))
        for block, skip in zip(model.decoder, reversed(skips), strict=True):
            up = F.conv_transpose1d(h + skip, block.up.weight, stride=block.up.stride)[..., : -block.up.stride]
            h = units(block.units, act(up))
        expected = convolved(model.last, h)
        expected[:, :2] += kept
        torch.testing.assert_close(model.restored_bands(kept), expected, atol=0, rtol=1e-9)


def test_every_level_of_the_encoder_feeds_the_same_level_of_the_decoder() -> None:
    torch.manual_seed(0)
    model, x = EBEN(weight_norm=False, input_bands=4, **SMALL), torch.randn(1, 1, 1024)
    with torch.no_grad():
        model.expand.weight.zero_()
        y = model(x)
        for decode in model.decoder:  # without biases, a block whose first layer is zero outputs zeros
            assert isinstance(decode, DecoderBlock)
            decode.up.weight.zero_()
            without = model(x)
            assert not torch.allclose(without, y), "this block had only its skip connection as input"
            y = without
        bands = torch.tanh(model.pqmf.analysis(F.pad(x, (17, 15))))
    torch.testing.assert_close(y, model.pqmf.synthesis(bands)[..., 17:-15])


def test_blocks_halve_and_double_as_in_the_paper() -> None:
    model, shapes = EBEN(), []
    for block in (model.first, *model.encoder, model.reduce, model.expand, *model.decoder, model.last):
        block.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    assert all(isinstance(block, EncoderBlock) for block in model.encoder)
    with torch.inference_mode():
        model(torch.randn(1, 1, 8160))  # plus 31 samples of the filter bank's edges, in whole frames
    assert shapes == [
        (32, 2048),
        (64, 1024),
        (128, 256),
        (256, 32),
        (64, 32),
        (256, 32),
        (128, 256),
        (64, 1024),
        (32, 2048),
        (4, 2048),
    ]


def test_the_untrained_correction_is_audible_and_below_the_speech() -> None:
    torch.manual_seed(0)
    model, x = EBEN(input_bands=4), 0.07 * torch.randn(2, 1, 8000)  # -23 dBFS
    with torch.inference_mode():
        error = model(x) - x
    assert 0.02 * x.std() < error.std() < x.std()


def test_the_state_excludes_the_filters_and_removing_weight_norm_changes_nothing() -> None:
    torch.manual_seed(0)
    model, x = EBEN(**SMALL).eval(), 0.1 * torch.randn(1, 1, 2000)
    assert not any(name.startswith("pqmf") for name in model.state_dict())
    plain = remove_weight_norm(copy.deepcopy(model))
    assert not any("parametrizations" in name for name in plain.state_dict())
    torch.testing.assert_close(plain(x), model(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "arguments",
    [{"strides": ()}, {"strides": (2, 0)}, {"input_bands": 5}, {"input_bands": 0}, {"skip_channel": 1}, {"taps": 8}],
    ids=str,
)
def test_invalid_sizes_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        EBEN(**arguments)


def test_another_number_of_sensors_is_refused() -> None:
    with pytest.raises(AudioError, match="2 sensors"):
        EBEN(in_channels=2, **SMALL)(torch.zeros(1, 1, 256))


def test_the_bands_that_it_provides_are_those_that_make_the_estimate() -> None:
    torch.manual_seed(0)
    model, x = EBEN(provide_bands=True, in_channels=2, input_bands=2, **SMALL), 0.1 * torch.randn(1, 2, 1000)
    output = model(x)
    assert isinstance(output, dict)
    assert tuple(output) == ("estimate", *model.provides)
    torch.testing.assert_close(model.pqmf.synthesis(output["bands"])[..., model.head :][..., :1000], output["estimate"])
    model.provides = ()
    torch.testing.assert_close(model(x), output["estimate"])


@pytest.mark.parametrize("causal", [False, True])
def test_the_bands_inside_a_target_are_aligned_with_those_of_the_same_estimate(causal: bool) -> None:
    model = silenced(provide_bands=True, causal=causal, in_channels=2, input_bands=4)
    x = 1e-3 * torch.randn(1, 2, 1000)  # in the linear range of tanh
    with torch.inference_mode():
        torch.testing.assert_close(model.inside(x[:, -1:])["bands"], model(x)["bands"], atol=1e-7, rtol=1e-4)


def test_the_published_filter_bank_is_an_option() -> None:
    own = EBEN(cutoff=PUBLISHED_CUTOFF, filter_gain=None, **SMALL).pqmf
    published = with_published_filters(1).pqmf
    torch.testing.assert_close(own.analysis_filters.double(), published.analysis_filters, atol=1e-7, rtol=0)
    torch.testing.assert_close(own.synthesis_filters.double(), published.synthesis_filters, atol=1e-6, rtol=0)
