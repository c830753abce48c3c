from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from bcfusion.errors import ConfigError
from bcfusion.generators.unet_causal import GatedBlock, UNetCausal
from bcfusion.nn.network import estimate_of
from bcfusion.nn.spectral import compressed
from bcfusion.objectives.bridge import Bridge
from bcfusion.objectives.paths import Flow

SMALL: dict[str, Any] = {"channels": (8, 8, 12), "embedding": 8}


def taught_times(model: UNetCausal) -> UNetCausal:
    """As after training: the modulation starts at 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulation" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def test_its_size_and_latency() -> None:
    model = UNetCausal()
    assert sum(p.numel() for p in model.parameters()) == 783_162
    assert (model.hop, model.delay, model.causal) == (160, 319, True)


@pytest.mark.parametrize("n_fft", [320, 512])
def test_the_bins_are_halved_and_restored(n_fft: int) -> None:
    model = UNetCausal(n_fft=n_fft, channels=(4, 4, 4, 4, 8))
    real = torch.randn(1, 1, n_fft // 2 + 1, 5)
    (estimate, _), _ = model.spectrum(real, real)
    assert estimate.shape == (1, n_fft // 2 + 1, 5)


def test_no_frame_depends_on_a_later_one() -> None:
    model = taught_times(UNetCausal(**SMALL))
    x = torch.randn(1, 1, 161, 12)
    changed = x.clone()
    changed[..., 6:] += 1.0
    with torch.inference_mode():
        (before, _), _ = model.spectrum(x, x)
        (after, _), _ = model.spectrum(changed, changed)
    assert torch.equal(before[..., :6], after[..., :6])
    assert not torch.allclose(before[..., 6], after[..., 6])


def test_half_of_a_convolution_gates_the_other() -> None:
    block = GatedBlock(2, 5, (3, 1), 4).eval()
    with torch.no_grad():
        for layer in (block.conv, block.out):
            layer.weight.zero_()
            layer.bias.zero_()  # type: ignore[union-attr]
        block.conv.bias[:] = torch.tensor([3.0, 5.0, 0.0, -100.0])  # type: ignore[index]
        block.out.weight[:, :, 0, 0] = torch.eye(2)
    x = torch.randn(1, 2, 5, 3)
    added = block(x, torch.zeros(1, 4)) - x
    torch.testing.assert_close(added[:, 0], torch.full((1, 5, 3), 1.5))  # half open
    torch.testing.assert_close(added[:, 1], torch.zeros(1, 5, 3))  # closed


def test_it_depends_on_the_time_item_by_item_and_takes_that_of_the_source_by_itself() -> None:
    model = taught_times(UNetCausal(**SMALL))
    speech = 0.1 * torch.randn(1, 1, 1600).expand(2, -1, -1)
    with torch.inference_mode():
        alone = estimate_of(model(speech))
        with model.at_time(torch.tensor([1.0, 0.3])):
            timed = estimate_of(model(speech))
    assert torch.equal(timed[0], alone[0])
    assert (timed[1] - alone[1]).abs().max() > 1e-4


def test_on_a_path_it_is_told_the_time_and_has_no_channel_for_it() -> None:
    torch.manual_seed(0)
    bridge = Bridge(partial(UNetCausal, **SMALL), Flow(), predict="velocity", steps=2).eval()
    network = bridge.domain.network
    assert isinstance(network, UNetCausal)
    assert network.in_channels == 2  # sensor and state
    before = bridge(0.1 * torch.randn(1, 1, 1600, generator=torch.Generator().manual_seed(0)))
    taught_times(network)
    after = bridge(0.1 * torch.randn(1, 1, 1600, generator=torch.Generator().manual_seed(0)))
    assert (before - after).abs().max() > 1e-4


def test_the_loudness_of_a_frame_is_restored_or_left_to_the_network() -> None:
    speech = 0.1 * torch.randn(1, 1, 3200)
    for normalised in (None, True, False):
        model = UNetCausal(**SMALL, head="mapping", normalize_frames=normalised).eval()
        with torch.inference_mode():
            loud, quiet = estimate_of(model(speech)), estimate_of(model(0.01 * speech))
        error = float((100 * quiet - loud).norm() / loud.norm())
        assert error > 1 if normalised is False else error < 0.05


@pytest.mark.parametrize("head", ["additive", "mask"])
def test_compressed_spectra_leave_the_network_as_they_came(head: Any) -> None:
    """A correction of nothing, and a mask of one, give the sensor."""
    model = UNetCausal(**SMALL, head=head, compression=None).eval()
    with torch.no_grad():
        model.last.weight.zero_()
    speech = 0.1 * torch.randn(1, 1, 3200)
    with torch.inference_mode():
        torch.testing.assert_close(estimate_of(model(speech)), speech, atol=1e-5, rtol=1e-4)
    assert model.compression == 0.5


def test_the_network_works_between_compressed_magnitudes() -> None:
    model = UNetCausal(**SMALL, head="mapping", compression=0.5, normalize_frames=False).eval()
    plain = UNetCausal(**SMALL, head="mapping", compression=1.0, normalize_frames=False).eval()
    plain.load_state_dict(model.state_dict())
    real, imag = torch.randn(2, 1, 1, 161, 3)
    with torch.inference_mode():
        (found, _), _ = model.spectrum(real, imag)
        (x, y), _ = plain.spectrum(*compressed(real, imag, 0.5))
    torch.testing.assert_close(found, x * (x.square() + y.square()).sqrt(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_fft": 330}, "n_fft=330 must be a multiple of 32 with 5 levels"),
        ({"channels": (8, 8, 7)}, r"channels=\[8, 8, 7\] must end with an even number"),
        ({"kernel_size": (2, 3)}, r"kernel_size=\[2, 3\] must be odd"),
        ({"blocks": 0}, "blocks=0 must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UNetCausal(**settings)
