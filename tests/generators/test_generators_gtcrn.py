from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bcfusion.errors import ConfigError
from bcfusion.generators.gtcrn import GTCRN, GroupedBlock, SubbandFeatures, erb_triangles
from bcfusion.nn.network import estimate_of
from bcfusion.probe import macs_per_second

SMALL: dict[str, Any] = {"channels": 8, "blocks": 1}
PAPER: dict[str, Any] = {"bands": 64, "head": "mask"}
#: real and imaginary part by bin and frame, as the public code (Xiaobin-Rong/gtcrn) gives them for the weights and the
#: spectrum of the test below
PUBLIC = {
    (0, 0): (0.299585164417, 0.096462552004),
    (3, 5): (-0.136810820231, -0.033062520235),
    (64, 11): (-0.131637761488, 0.204040370099),
    (65, 2): (0.062269474317, -0.343536645611),
    (130, 7): (0.332791964282, 0.474213585281),
    (200, 9): (0.153195240195, 0.232350292855),
    (256, 11): (0.458617474924, -0.220254989180),
}


def test_it_has_the_published_parameters_and_cost() -> None:
    model = GTCRN(**PAPER)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 23_669
    assert parameters + 2 * model.bands_to_bins.numel() == 48_245  # the paper counts both matrices of the bands: 48.2 K
    transforms = 2 * 514 * 512 * 62.5  # ours are matrix products
    assert 25e6 < macs_per_second(model) - transforms < 33e6  # 33 M in the paper, with activations and normalisation


def test_it_computes_what_the_public_code_computes_with_the_same_weights() -> None:
    model = GTCRN(**PAPER).double().eval()
    model.bands_to_bins = torch.from_numpy(erb_triangles(16000, 512, 65, 64).T)
    with torch.no_grad():
        for index, (name, value) in enumerate(model.state_dict().items()):
            if not value.is_floating_point():
                value.fill_(10**6)  # batches seen: the initial statistics of batch norm no longer count
                continue
            wave = torch.cos(0.7 * torch.arange(value.numel(), dtype=torch.float64) + index).reshape(value.shape)
            value.copy_(1 + 0.4 * wave if name.endswith("running_var") else 0.3 * wave)
        n = torch.arange(257 * 12, dtype=torch.float64).reshape(1, 1, 257, 12)
        (real, imag), _ = model.spectrum(torch.cos(n * n * 0.01), torch.sin(n * 1.3))
    for (f, t), (public_real, public_imag) in PUBLIC.items():
        assert real[0, f, t].item() == pytest.approx(public_real, abs=1e-10)
        assert imag[0, f, t].item() == pytest.approx(public_imag, abs=1e-10)


def test_bands_are_triangles_that_share_each_bin() -> None:
    weights = erb_triangles(16000, 512, 65, 64)
    assert weights.shape == (64, 192)
    np.testing.assert_allclose(weights.sum(0), 1.0)
    assert (weights.argmax(1) == np.sort(weights.argmax(1))).all()
    assert weights[0, 0] == weights[-1, -1] == 1.0
    assert ((weights > 0).sum(0) <= 2).all()  # a bin belongs to the two centres around it


def test_bands_of_one_value_are_bins_of_one_value() -> None:
    model = GTCRN(**PAPER)
    bands = torch.ones(1, 1, 129, 2)
    assert torch.allclose(model._expanded(bands), torch.ones(1, 1, 257, 2))


def test_each_band_sees_its_neighbours() -> None:
    x = torch.arange(1.0, 6.0).reshape(1, 1, 5, 1)
    below, own, beyond = SubbandFeatures()(x)[0, :, :, 0]
    assert below.tolist() == [0, 1, 2, 3, 4]
    assert own.tolist() == [1, 2, 3, 4, 5]
    assert beyond.tolist() == [2, 3, 4, 5, 0]


def test_half_of_the_channels_passes_a_block_unchanged_between_the_others() -> None:
    block = GroupedBlock(8, 5, dilation=2).eval()
    x = torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y[:, 1::2], x[:, 4:])
    assert not torch.allclose(y[:, ::2], x[:, :4])


@pytest.mark.parametrize("settings", [PAPER, {}, {"head": "mapping"}])
def test_no_frame_depends_on_a_later_one(settings: dict[str, Any]) -> None:
    model = GTCRN(**SMALL, **settings).eval()
    x = torch.randn(1, 1, 257, 14)
    changed = x.clone()
    changed[..., 8:] += 1.0
    with torch.inference_mode():
        (before, _), _ = model.spectrum(x, x)
        (after, _), _ = model.spectrum(changed, changed)
    assert torch.equal(before[..., :8], after[..., :8])
    assert not torch.allclose(before[..., 8], after[..., 8])


def test_untrained_it_gives_about_what_the_sensor_recorded() -> None:
    torch.manual_seed(0)
    speech = 0.1 * torch.randn(1, 1, 8000)
    for settings in (PAPER, {}):
        with torch.inference_mode():
            estimate = estimate_of(GTCRN(**settings).eval()(speech))
        similarity = torch.nn.functional.cosine_similarity(estimate[0, 0, 600:-600], speech[0, 0, 600:-600], dim=0)
        assert similarity > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 6}, "channels=6 must be a multiple of 4"),
        ({"bands": 63, "head": "mask"}, "128 bands of the first layer must be one more than a multiple of 4"),
        ({"bands": 64}, "head=additive needs bands=null"),
        ({"bands": 188, "head": "mask"}, "bands=188 above bin 65 are narrower than a bin"),
        ({"bands": 200, "head": "mask"}, "are more than the 257 bins"),
        ({"bands": 1, "low_bins": 64, "head": "mask"}, "bands=1 must be at least 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GTCRN(**settings)


def test_a_polar_mask_is_squashed_once() -> None:
    """Its magnitude is bounded by the head: what is large before it lets the sensor through."""
    model = GTCRN(**SMALL, head="polar_mask").eval()
    with torch.no_grad():
        norm = model.decoder[-1][1]  # type: ignore[index]
        norm.weight.zero_()
        norm.bias[0], norm.bias[1] = 10.0, 0.0
        real = torch.randn(1, 1, 257, 4)
        (restored, _), _ = model.spectrum(real, torch.randn(1, 1, 257, 4))
    inner = slice(2, 60)  # bins of their own, below the bands
    torch.testing.assert_close(restored[:, inner], real[:, 0, inner], atol=1e-3, rtol=1e-3)
