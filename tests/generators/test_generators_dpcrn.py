from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bcfusion.errors import ConfigError
from bcfusion.generators.dpcrn import DPCRN, DualPathBlock

SMALL: dict[str, Any] = {"channels": (4, 4, 4, 8, 16)}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def with_random_norms(model: DPCRN) -> DPCRN:
    """Running statistics as after training, instead of the initial zeros and ones."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def test_dpcrn_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = DPCRN()
    assert parameters(model) == 805_798
    assert round(parameters(model) / 1e6, 3) == 0.806


def test_a_second_sensor_widens_the_input_norm_and_the_first_convolution_only() -> None:
    with torch.device("meta"):
        more = parameters(DPCRN(in_channels=2)) - parameters(DPCRN())
    assert more == 2 * 201 * 2 + 2 * 32 * 5 * 2


def test_201_bins_become_100_then_50_and_are_restored() -> None:
    model = DPCRN(**SMALL)
    real = torch.randn(2, 1, 201, 7)
    bins = []
    h = model.input_norm(torch.cat([real, real], dim=1))
    for encode in model.encoder:
        h = encode(h)
        bins.append(h.shape[2])
    assert bins == [100, 50, 50, 50, 50]
    (estimate, _), _ = model.spectrum(real, real)
    assert estimate.shape == (2, 201, 7)


@pytest.mark.parametrize("n_fft", [400, 402, 512, 960])
def test_any_number_of_bins_is_restored(n_fft: int) -> None:
    model = DPCRN(**SMALL, n_fft=n_fft)
    real = torch.randn(1, 1, n_fft // 2 + 1, 3)
    assert model.spectrum(real, real)[0][0].shape == (1, n_fft // 2 + 1, 3)


def test_the_latency_is_one_frame_of_25_ms() -> None:
    model = DPCRN(**SMALL)
    assert (model.causal, model.hop, model.delay) == (True, 200, 399)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_at_inference_no_frame_depends_on_a_later_one(norm: Any) -> None:
    model = with_random_norms(DPCRN(**SMALL, norm=norm))
    x = torch.randn(1, 1, 201, 12)
    changed = x.clone()
    changed[..., 6:] += 1.0
    with torch.inference_mode():
        (before, _), _ = model.spectrum(x, x)
        (after, _), _ = model.spectrum(changed, changed)
    assert torch.equal(before[..., :6], after[..., :6])
    assert not torch.allclose(before[..., 6], after[..., 6])


def test_instance_norm_measures_each_item_separately_in_training() -> None:
    model = DPCRN(**SMALL, norm="instance").train()
    x = torch.randn(2, 1, 201, 9)
    together, alone = model.spectrum(x, x)[0][0][:1], model.spectrum(x[:1], x[:1])[0][0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    batch = DPCRN(**SMALL, norm="batch").train()
    assert not torch.allclose(batch.spectrum(x, x)[0][0][:1], batch.spectrum(x[:1], x[:1])[0][0], atol=1e-3)


def test_the_norm_of_the_dual_paths_is_over_bins_and_channels_of_one_frame() -> None:
    block = DualPathBlock(channels=4, freq_bins=6)
    x = torch.randn(1, 4, 6, 5)
    added = block(x) - x
    assert torch.count_nonzero(block.intra_norm.weight) == 4 * 6
    with torch.no_grad():
        for norm in (block.intra_norm, block.inter_norm):
            norm.weight.zero_()
        block.intra_norm.bias.fill_(1.0)
    assert not torch.allclose(added, torch.ones_like(added))
    torch.testing.assert_close(block(x), x + 1.0)  # only the residuals and the shift


def test_a_mask_cannot_fill_an_empty_band_and_an_added_spectrum_can() -> None:
    x = torch.randn(1, 1, 201, 8)
    x[:, :, 100:] = 0.0
    outputs = {}
    for head in ("mask", "additive", "mapping"):
        torch.manual_seed(0)
        (outputs[head], _), _ = with_random_norms(DPCRN(**SMALL, head=head)).spectrum(x, x)
    assert not outputs["mask"][:, 100:].any()
    assert outputs["additive"][:, 100:].any()
    assert outputs["mapping"][:, 100:].any()


@pytest.mark.parametrize("head", ["mask", "polar_mask"])
def test_the_provided_mask_is_the_gain_of_each_bin(head: Any) -> None:
    model = with_random_norms(DPCRN(**SMALL, head=head))
    assert model.provides == ("mask",)
    real, imag = torch.randn(2, 2, 1, 201, 6)
    (y_real, y_imag), provided = model.spectrum(real, imag)
    gain = torch.hypot(y_real, y_imag) / torch.hypot(real, imag)[:, 0]
    torch.testing.assert_close(provided["mask"], gain, atol=1e-3, rtol=1e-3)
    assert DPCRN(**SMALL, head="mapping").provides == ()


def test_a_mapped_output_has_the_level_that_the_input_norm_removed() -> None:
    model = with_random_norms(DPCRN(**SMALL, head="mapping"))
    real, imag = torch.randn(2, 1, 1, 201, 6)
    quiet, loud = model.spectrum(10 * real, 10 * imag)[0][0], model.spectrum(40 * real, 40 * imag)[0][0]
    torch.testing.assert_close(loud, 4 * quiet, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("head", ["additive", "mask"])
def test_it_starts_near_the_sensor_it_is_added_to(head: Any) -> None:
    torch.manual_seed(0)
    model = DPCRN(in_channels=2, head=head, skip_channel=0, **SMALL).train()
    inputs = 0.07 * torch.randn(2, 2, 8000)
    output = model(inputs)
    y = output["estimate"] if isinstance(output, dict) else output
    error = (y[:, 0] - inputs[:, 0]).square().mean() / inputs[:, 0].square().mean()
    assert error < 0.25  # of the power: -6 dB


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": (8, 8)},
        {"channels": (4, 4, 4, 8, 15)},
        {"freq_strides": (8, 2, 1, 1, 1)},
        {"norm": "layer"},
        {"blocks": 0},
        {"head": "sum"},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DPCRN(**{**SMALL, **wrong})
