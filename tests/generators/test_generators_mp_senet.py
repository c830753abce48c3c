"""MP-SENet: its size, what the public code computes, the meaning of its outputs, and the level of its input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.generators.mp_senet import Decoder, MagnitudeHead, MPSENet, TwoStageBlock
from bcfusion.nn.conformer import ConformerBlock
from bcfusion.nn.dense import DenseDilatedBlock
from bcfusion.nn.network import estimate_of
from bcfusion.nn.stft import Stft

SMALL: dict[str, Any] = {"channels": 4, "blocks": 1, "heads": 2, "kernel_size": 5, "depth": 2}
SIZES: dict[str, Any] = {"n_fft": 80, "hop_length": 20, "win_length": 80}
PAPER: dict[str, Any] = {"head": "mask", "phase_skip": False}
#: mask and phase by item, bin and frame, as the public code (yxlu-0102/MP-SENet, conference version) gives them for the
#: weights and the spectra of the test below, with attention along the frames or bins of an item, as in the paper; the
#: code leaves out batch_first, and attends to all sequences instead
PUBLIC = {
    (0, 0, 0): (1.024933051543, 0.954714055325),
    (0, 3, 5): (0.994346044444, 0.93062550914),
    (0, 8, 2): (0.981231904278, 1.019713458583),
    (1, 1, 4): (1.015420993943, 0.850108960546),
    (1, 4, 0): (1.004901947536, 0.918890856707),
    (1, 8, 5): (0.980966631349, 0.993367683281),
}


def in_public_order(network: MPSENet) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Yield weights and buffers in the order of the public code, each with the shape that it has there."""

    def own(*modules: nn.Module) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        for module in modules:
            for value in module.state_dict(keep_vars=True).values():
                shape = tuple(value.shape)
                yield value, (*shape[:2], shape[3], shape[2]) if len(shape) == 4 else shape  # (time, frequency) there

    def conformer(block: ConformerBlock) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        attention, convolution = block.attention, block.convolution
        yield from own(block.first, attention.inward, attention.outward, attention.norm, convolution, block.second)
        yield from own(block.norm)

    yield from own(network.encoder)
    for block in network.blocks:
        assert isinstance(block, TwoStageBlock)
        yield from conformer(block.time)
        yield from conformer(block.frequency)
    for decoder in (network.magnitude_decoder, network.phase_decoder):
        yield from own(decoder.block, decoder.upsample, decoder.features)
        weight, bias = decoder.output.weight, decoder.output.bias
        assert bias is not None
        for value in range(decoder.output.out_channels):  # one convolution each
            yield weight[value : value + 1], (1, *weight.shape[1:])
            yield bias[value : value + 1], (1,)
        if decoder is network.magnitude_decoder:
            yield from own(network.sigmoid)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_has_the_published_parameters() -> None:
    with torch.device("meta"):
        paper, additive = MPSENet(**PAPER), MPSENet()
    assert sum(p.numel() for p in paper.parameters()) == 2_048_849  # 2.05 M; the public code has as many
    assert sum(p.numel() for p in additive.parameters()) == 2_048_835


def test_it_computes_what_the_public_code_computes_with_the_same_weights() -> None:
    sizes: dict[str, Any] = {"n_fft": 16, "hop_length": 4, "win_length": 16}
    network = MPSENet(channels=4, blocks=2, heads=2, kernel_size=5, **sizes, **PAPER).double().eval()
    with torch.no_grad():
        for index, (value, shape) in enumerate(in_public_order(network)):
            if not value.is_floating_point():
                value.fill_(10**6)  # batches seen: the initial statistics of batch norm no longer count
                continue
            drawn = torch.from_numpy(np.random.default_rng(index).uniform(-1, 1, shape))
            drawn = drawn.mT if len(shape) == 4 else drawn.reshape(value.shape)
            is_variance = any(value is part.running_var for part in network.modules() if hasattr(part, "running_var"))
            value.copy_(1 + 0.4 * drawn if is_variance else drawn)
        assert index + 1 == 221
        n = torch.arange(2 * 9 * 6, dtype=torch.float64).reshape(2, 1, 9, 6)
        mask, (cosine, sine) = network.outputs(1 + torch.sin(n * n * 0.01), 3 * torch.sin(n * 1.3))
    for place, (public_mask, public_phase) in PUBLIC.items():
        assert mask[place].item() == pytest.approx(public_mask, abs=1e-9)
        assert torch.atan2(sine, cosine)[place].item() == pytest.approx(public_phase, abs=1e-9)


@pytest.mark.parametrize("head", ["mask", "mapping", "additive"])
@pytest.mark.parametrize("phase_skip", [True, False])
def test_the_estimate_has_the_magnitude_and_the_phase_of_the_decoders(head: MagnitudeHead, phase_skip: bool) -> None:
    torch.manual_seed(0)
    network = MPSENet(**SMALL, **SIZES, head=head, phase_skip=phase_skip, init_output_scale=1.0).double().eval()
    real, imag = noise(2, 1, 41, 9).double(), noise(2, 1, 41, 9, seed=1).double()
    with torch.no_grad():
        (found_real, found_imag), provided = network.spectrum(real, imag)
        level = network._level(real, imag)
        sensor = torch.complex(real, imag) / level
        of_magnitude, (cosine, sine) = network.outputs(sensor.abs() ** 0.3, sensor.angle())
    sensor = sensor[:, 0]
    compressed = {
        "mask": sensor.abs() ** 0.3 * of_magnitude,
        "mapping": of_magnitude.abs(),
        "additive": (sensor.abs() ** 0.3 + of_magnitude).abs(),
    }[head]
    direction = torch.complex(cosine, sine) + (sensor / sensor.abs() if phase_skip else 0)
    estimate = torch.complex(found_real, found_imag) / level[:, 0]
    torch.testing.assert_close(estimate.abs(), compressed ** (1 / 0.3), rtol=1e-3, atol=1e-6)
    clear = direction.abs() > 0.1
    assert clear.double().mean() > 0.8
    turned = (estimate / estimate.abs() * direction.conj() / direction.abs())[clear]
    torch.testing.assert_close(turned, torch.ones_like(turned), atol=1e-4, rtol=0)
    assert set(provided) == ({"mask"} if head == "mask" else set())
    if head == "mask":
        torch.testing.assert_close(provided["mask"] * sensor.abs(), estimate.abs(), rtol=1e-4, atol=1e-6)


def test_a_mask_is_one_at_first_and_between_0_and_beta_after_any_output() -> None:
    torch.manual_seed(0)
    network = MPSENet(**SMALL, **SIZES, head="mask").eval()
    x = 0.07 * noise(1, 1, 1000)
    with torch.no_grad():
        assert (network(x)["mask"] - 1).abs().mean() < 0.3
        network.magnitude_decoder.output.weight.fill_(1e4)
        mask = network(x)["mask"]
    assert mask.min() >= 0
    assert mask.max() == pytest.approx(2 ** (1 / 0.3), rel=1e-5)  # 20 dB


@pytest.mark.parametrize("head", ["mask", "mapping", "additive"])
def test_a_louder_file_gives_a_louder_output_and_nothing_else(head: MagnitudeHead) -> None:
    torch.manual_seed(0)
    network = MPSENet(**SMALL, **SIZES, head=head).eval()
    x = 0.07 * noise(1, 1, 2000)
    with torch.inference_mode():
        soft, loud = (estimate_of(network(scale * x)) for scale in (1.0, 20.0))
    torch.testing.assert_close(loud, 20 * soft, atol=1e-4 * float(loud.abs().max()), rtol=0)


def test_the_level_is_the_root_mean_square_of_all_sensors() -> None:
    network = MPSENet(**SMALL, in_channels=2)
    x = noise(1, 2, 40000) * torch.tensor([0.02, 0.3]).view(1, 2, 1)
    with torch.no_grad():
        level = network._level(*Stft(400, 100, 400, "hann", channels=2)(x))
    assert level.item() == pytest.approx(float(x.square().mean().sqrt()), rel=0.01)


def test_an_empty_band_is_filled_by_all_heads_but_the_mask() -> None:
    torch.manual_seed(0)
    parts = noise(2, 1, 1, 41, 9)
    parts[:, :, :, 20:] = 0
    filled, heads = {}, get_args(MagnitudeHead)
    for head in heads:
        network = MPSENet(**SMALL, **SIZES, head=head).eval()
        nn.init.constant_(network.magnitude_decoder.output.bias, 1.0)  # type: ignore[arg-type]
        with torch.no_grad():
            (real, imag), _ = network.spectrum(parts[0], parts[1])
        filled[head] = float(torch.complex(real, imag)[:, 20:].abs().mean())
    assert filled["mask"] < 1e-3
    assert min(filled["mapping"], filled["additive"]) > 0.1


def test_a_decoder_doubles_the_bins_that_the_encoder_halved() -> None:
    with torch.device("meta"):
        network = MPSENet(**SMALL, n_fft=400)
        half = network.encoder(torch.zeros(1, 2, 201, 5))
        assert half.shape == (1, 4, 100, 5)
        assert Decoder(DenseDilatedBlock(4, 100, 1, causal=False), 2, False, 1.0)(half).shape == (1, 2, 201, 5)


def test_untrained_it_returns_about_what_the_sensor_recorded() -> None:
    torch.manual_seed(0)
    speech = 0.1 * noise(1, 2, 8000)
    heads: tuple[MagnitudeHead, ...] = ("additive", "mask")
    for head in heads:
        with torch.inference_mode():
            estimate = estimate_of(MPSENet(**SMALL, in_channels=2, skip_channel=0, head=head).eval()(speech))
        similarity = nn.functional.cosine_similarity(estimate[0, 0, 400:-400], speech[0, 0, 400:-400], dim=0)
        assert similarity > 0.8


def test_an_item_is_attended_to_alone() -> None:
    torch.manual_seed(0)
    network = MPSENet(**SMALL, **SIZES).eval()
    batch = 0.07 * noise(3, 1, 900)
    with torch.inference_mode():
        torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]), atol=1e-6, rtol=1e-4)


def test_the_whole_file_counts() -> None:
    network = MPSENet(**SMALL, **SIZES)
    assert network.delay is None
    assert not network.causal
    late = 0.07 * noise(1, 1, 400)
    late[..., -1] = torch.nan
    with torch.inference_mode():
        assert math.isnan(float(network.eval()(late)[0, 0, 0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "channels=4 must be a multiple of heads=3"),
        ({"kernel_size": 4}, "kernel_size=4 must be odd"),
        ({"n_fft": 82}, "n_fft=82 must be a multiple of 4"),
        ({"head": "polar_mask"}, "head='polar_mask' must be one of mask, mapping, additive"),
        ({"compression": 1.2}, "compression=1.2 must be"),
        ({"dropout": 1.0}, "dropout=1.0 must be"),
        ({"win_length": 60}, "win_length=60 must be a multiple of 40"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MPSENet(**{**SMALL, **SIZES, **settings})
