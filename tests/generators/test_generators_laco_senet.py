from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators import laco_senet
from bcfusion.generators.laco_senet import ChannelAttention, GatedKernels, LaCoSENet, Stage
from bcfusion.nn.conv2d import Conv2d
from bcfusion.nn.dense import frames_ahead
from bcfusion.nn.network import additional_lookahead, estimate_of
from bcfusion.probe import measured_delay

SMALL: dict[str, Any] = {
    "channels": 4,
    "blocks": 1,
    "depth": 2,
    "time_pairs": 1,
    "frequency_pairs": 1,
    "time_kernels": (3, 5),
    "frequency_kernels": (3, 5),
    "pool_frames": 3,
    "n_fft": 80,
    "hop_length": 20,
    "win_length": 80,
}
PAPER: dict[str, Any] = {"head": "mask", "phase_input": "angle", "phase_skip": False, "init_scale": 0}
#: real and imaginary part by bin and frame, as the public code (yskim3271/LaCo-SENet, src/models/backbone.py, causal)
#: gives them for the weights and the spectrum of the test below; it adds 1e-8 to the numbers of an angle
PUBLIC = {
    (0, 0): (-0.384972517252, -2.960882363585),
    (3, 5): (-0.548700447463, -4.599834171644),
    (7, 30): (-0.208534906203, -1.748136211198),
    (12, 11): (-0.537758827613, -4.601905580293),
    (15, 59): (-0.169654255583, -1.422353534390),
    (20, 44): (-0.458707416785, -3.984144852963),
}
#: shares of encoder, blocks and decoders, and frames of look-ahead at the small size, whose contexts are 2 + 4,
#: 2 + 2 + 4 and 2 + 4 frames
SHARES = [(0.0, 0.0, 0.0, 0), (0.5, 0.5, 0.5, 10), (1.0, 1.0, 1.0, 20), (0.3, 0.0, 0.6, 5)]


def network(encoder: float = 0.0, block: float = 0.0, decoder: float = 0.0, **arguments: Any) -> LaCoSENet:
    torch.manual_seed(0)
    shares = {"encoder_future": encoder, "block_future": block, "decoder_future": decoder}
    return LaCoSENet(**{**SMALL, **shares, **arguments}).eval()


def noise(samples: int, channels: int = 1) -> Tensor:
    return 0.07 * torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(1))


def test_it_has_the_published_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in LaCoSENet(**PAPER).parameters()) == 1_370_193  # 1.37 M in the paper
        assert sum(p.numel() for p in LaCoSENet().parameters()) == 1_370_193 + 64  # a phase is two numbers


def test_it_computes_what_the_public_code_computes_with_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laco_senet, "PHASOR_EPS", 0.0)
    sizes = {"blocks": 2, "depth": 3, "frequency_kernels": (3, 7), "pool_frames": 5}
    model = network(**sizes, **PAPER, n_fft=40, hop_length=10, win_length=40).double()
    with torch.no_grad():
        for index, (name, value) in enumerate(model.state_dict().items()):
            if not value.is_floating_point():
                value.fill_(10**6)  # batches seen: the initial statistics of batch norm no longer count
                continue
            wave = torch.cos(0.7 * torch.arange(value.numel(), dtype=torch.float64) + index).reshape(value.shape)
            value.copy_(1 + 0.4 * wave if name.endswith("running_var") else 0.3 * wave)
        n = torch.arange(21 * 60, dtype=torch.float64).reshape(1, 1, 21, 60)
        (real, imag), _ = model.spectrum(3 * torch.cos(n * n * 0.01), 3 * torch.sin(n * 1.3))
    for (f, t), (public_real, public_imag) in PUBLIC.items():
        assert real[0, f, t].item() == pytest.approx(public_real, abs=1e-6)
        assert imag[0, f, t].item() == pytest.approx(public_imag, abs=1e-6)


@pytest.mark.parametrize(
    ("shares", "frames"),
    [((0, 0, 0), 0), ((1 / 30, 0, 1 / 30), 2), ((0.1, 0, 0.1), 6), ((1 / 6, 0, 1 / 6), 10), ((0.5, 0, 0.5), 30)],
)
def test_the_shares_of_the_paper_give_its_latencies(shares: tuple[float, float, float], frames: int) -> None:
    """12.5, 25, 50, 75 and 200 ms, which count half a window; a sample is complete after all frames that hold it."""
    with torch.device("meta"):
        model = LaCoSENet(encoder_future=shares[0], block_future=shares[1], decoder_future=shares[2])
    assert model.late_frames == frames
    assert additional_lookahead(model) == 100 * frames, "what a crop of training does not hold"
    assert model.lookahead == 300 + 100 * frames
    assert model.delay == 399 + 100 * frames


def test_with_all_of_the_context_in_the_future_it_looks_a_second_and_a_half_ahead() -> None:
    with torch.device("meta"):
        model = LaCoSENet(encoder_future=1, block_future=1, decoder_future=1)
        longer = LaCoSENet(encoder_future=1, block_future=1, decoder_future=1, time_kernels=(3, 7, 11, 23))
    assert model.delay == 23_999
    assert longer.delay is not None
    assert longer.delay > 2 * 16_000


@pytest.mark.parametrize(("encoder", "block", "decoder", "frames"), SHARES)
def test_the_declared_look_ahead_is_the_measured_one(encoder: float, block: float, decoder: float, frames: int) -> None:
    model = network(encoder, block, decoder)
    assert model.late_frames == frames
    assert measured_delay(model) == model.delay == 79 + 20 * frames
    assert additional_lookahead(model) == 20 * frames


@pytest.mark.parametrize(("encoder", "block", "decoder", "frames"), SHARES)
def test_no_output_depends_on_an_input_later_than_the_look_ahead(
    encoder: float, block: float, decoder: float, frames: int
) -> None:
    model = network(encoder, block, decoder).double()  # the window fades out: the first change is a faint one
    assert model.delay is not None
    x = noise(2000).double()
    changed = x.clone()
    changed[..., 1419:] += noise(581)  # from the last sample of a hop on
    with torch.inference_mode():
        before, after = (estimate_of(model(signal))[0, 0] for signal in (x, changed))
    free = 1419 - model.delay
    assert torch.equal(before[:free], after[:free])
    assert not torch.equal(before[free : free + model.hop], after[free : free + model.hop])


@pytest.mark.parametrize(("encoder", "block", "decoder", "frames"), SHARES)
def test_a_stream_is_the_whole_file_late_by_the_look_ahead(
    encoder: float, block: float, decoder: float, frames: int
) -> None:
    model = network(encoder, block, decoder).double()
    x = noise(1600).double()
    with torch.inference_mode():
        whole = estimate_of(model(torch.cat([x, x.new_zeros(1, 1, model.lookahead)], dim=-1)))
        for hops in (1, 3):
            with model.streaming(1):
                streamed = torch.cat([estimate_of(model(chunk)) for chunk in x.split(hops * model.hop, dim=-1)], dim=-1)
            expected = whole[..., : 1600 - model.lookahead]
            torch.testing.assert_close(streamed[..., model.lookahead :], expected, atol=1e-12, rtol=0)


def test_the_parts_of_a_stage_wait_for_each_other() -> None:
    """Each is the aligned computation, shifted: all inputs constant over time but one frame."""
    attention = ChannelAttention(2, 3, "time", kernel_size=3, pool_frames=5, share=0.5, scale=1.0)
    kernels = GatedKernels(2, 3, "time", (3, 7), share=0.5, scale=1.0)
    along_bins = Stage(2, 3, "frequency", 1, 3, (3,), 3, share=1.0, scale=1.0)
    along_frames = Stage(2, 3, "time", 2, 3, (3, 7), 5, share=0.5, scale=1.0)
    assert (attention.late, kernels.late, along_bins.late, along_frames.late) == (1 + 2, 3, 0, 2 * (1 + 2 + 3))
    x = torch.zeros(1, 2, 3, 40)
    x[..., 20] = 1.0
    with torch.no_grad():
        for part in (attention, kernels):
            part.narrow.weight.zero_()
            changed = (part(x) - part(torch.zeros_like(x))).abs().sum((0, 1, 2)).nonzero().flatten().tolist()
            assert changed == [20 + part.late], "what by-passes the layers is as late as their output"


def aligned(conv: Conv2d, x: Tensor, share: float) -> Tensor:
    """The definition: a convolution along time with its share of the context in the future."""
    size = conv.weight.shape[-1]
    right = frames_ahead(size, share)
    return F.conv2d(F.pad(x, (size - 1 - right, right)), conv.weight, conv.bias, groups=conv.groups)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_parts_of_a_stage_are_the_layers_that_look_ahead(share: float) -> None:
    """All that is joined in them belongs to one frame: what comes late is waited for."""
    torch.manual_seed(0)
    attention = ChannelAttention(2, 3, "time", kernel_size=3, pool_frames=5, share=share, scale=1.0).double()
    kernels = GatedKernels(2, 3, "time", (3, 7), share=share, scale=1.0).double()
    x = torch.randn(1, 2, 3, 60, dtype=torch.float64)
    with torch.no_grad():
        first, second = aligned(attention.depthwise, attention.widen(attention.norm(x)), share).chunk(2, dim=1)
        h = first * second
        assert attention.pool is not None
        weighed = h * attention.gains(aligned(attention.pool, h, share))
        attended = x + attention.scale * attention.narrow(weighed)
        parts = kernels.widen(kernels.norm(x)).chunk(2, dim=1)
        gated = [
            gate[1](aligned(gate[0], part, share)) * aligned(value, part, share)
            for gate, value, part in zip(kernels.gates, kernels.values, parts, strict=True)
        ]
        joined = x + kernels.scale * kernels.narrow(torch.cat(gated, dim=1))
        for part, expected in ((attention, attended), (kernels, joined)):
            shifted = part(x)[..., part.late :]
            torch.testing.assert_close(shifted[..., 12:-12], expected[..., : shifted.shape[-1]][..., 12:-12])


def test_silence_is_masked_to_silence_and_mapped_to_something() -> None:
    silence = torch.zeros(1, 1, 2000)
    with torch.inference_mode():
        masked, mapped = (estimate_of(network(head=head)(silence)) for head in ("mask", "mapping"))
    assert masked.abs().max() < 1e-5
    assert mapped.std() > 1e-4


def test_a_mask_and_a_mapping_are_bounded() -> None:
    for head, largest, size in (("mask", None, 2.0), ("mapping", None, 40**0.3), ("mapping", 1.5, 1.5)):
        model = network(head=head, largest=largest)
        torch.nn.init.constant_(model.magnitude_decoder.scale.bias, 1e4)
        with torch.inference_mode():
            output = model(noise(1000))
        sizes = torch.linalg.vector_norm(output["spectrum"], dim=-1)
        if head == "mask":
            torch.testing.assert_close(output["mask"], torch.full_like(output["mask"], size ** (1 / 0.3)))
        else:  # the largest magnitude of a signal in [-1, 1] is the sum of the window, 40
            assert float(sizes.max()) == pytest.approx(size ** (1 / 0.3), rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_untrained_mask_returns_about_what_the_sensor_recorded(share: float) -> None:
    x = noise(4000)
    with torch.inference_mode():
        estimate = estimate_of(network(share, share, share, head="mask")(x))
    assert torch.nn.functional.cosine_similarity(estimate[0, 0, 200:-200], x[0, 0, 200:-200], dim=0) > 0.8


def test_it_provides_the_spectrum_that_the_waveform_is_made_of() -> None:
    model = network(0.5, 0.5, 0.5, head="mask")
    x = noise(1010)
    with torch.inference_mode():
        output = model(x)
    assert model.provides == ("spectrum", "mask")
    assert output["spectrum"].shape == (1, 41, 51, 2)
    frames = torch.nn.functional.pad(output["estimate"][0, 0], (40, 80)).unfold(-1, 80, 20) * torch.hann_window(80)
    own = torch.fft.rfft(frames[:51], dim=-1).T
    given = torch.view_as_complex(output["spectrum"][0].contiguous())
    # most of it is kept by the inverse transform: the frames are those centred on multiples of the hop
    assert (own - given)[:, 4:-4].abs().square().sum() < 0.5 * given[:, 4:-4].abs().square().sum()


def test_the_form_of_the_paper_sees_an_angle_and_starts_from_no_phase() -> None:
    x = noise(1000)
    with torch.inference_mode():
        published, direct = network(**PAPER), network(head="mask")
        assert published.encoder.widen[0].in_channels == 2
        assert direct.encoder.widen[0].in_channels == 3
        assert estimate_of(published(x)).isfinite().all()
    assert network(in_channels=2).encoder.widen[0].in_channels == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": 1.5}, "encoder_future=1.5 must be from 0 to 1"),
        ({"n_fft": 82, "win_length": 80}, "n_fft=82 must be a multiple of 4"),
        ({"head": "additive"}, "head='additive' must be one of"),
        ({"phase_input": "sine"}, "phase_input='sine' must be one of"),
        ({"frequency_kernels": (3, 4)}, "must be odd"),
        ({"compression": 1.5}, "compression=1.5 must be above 0 and at most 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(**arguments)
