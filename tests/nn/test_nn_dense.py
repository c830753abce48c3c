"""Dense blocks: a late causal layer is the layer that looks ahead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv2d import Conv2d
from bcfusion.nn.dense import (
    DenseDilatedBlock,
    DenseEncoder,
    LearnableSigmoid,
    MagnitudeDecoder,
    PhaseDecoder,
    frames_ahead,
)
from bcfusion.nn.norm import ChannelLayerNorm

BINS, FRAMES = 5, 40


def block(**arguments: Any) -> DenseDilatedBlock:
    torch.manual_seed(0)
    return DenseDilatedBlock(3, BINS, depth=3, **arguments).eval()


def looking_ahead(dense: DenseDilatedBlock, x: Tensor, share: float) -> Tensor:
    """The definition: all layers aligned, each with its share of the zeros on the right."""
    seen = y = x
    for layer in dense.layers:
        assert isinstance(layer, nn.Sequential)
        conv = layer[0]
        assert isinstance(conv, Conv2d)
        right = round(share * conv.context)
        padded = F.pad(seen, (conv.context - right, right, conv.below, conv.above))
        h = F.conv2d(padded, conv.weight, conv.bias, 1, 0, conv.dilation, conv.groups)
        y = layer[1:](h)
        seen = torch.cat([y, seen], dim=1)
    return y


@pytest.mark.parametrize(("share", "frames"), [(0.0, 0), (1 / 30, 1), (0.1, 3), (1 / 6, 5), (0.5, 15), (1.0, 30)])
def test_shares_give_the_look_ahead_of_the_paper(share: float, frames: int) -> None:
    """LaCo-SENet: the look-ahead of an encoder with kernels of 3 frames, dilated by 1, 2, 4 and 8."""
    assert sum(frames_ahead(3, share, dilation) for dilation in (1, 2, 4, 8)) == frames


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_a_late_block_is_the_block_that_looks_ahead(share: float, separable: bool) -> None:
    dense = block(future_share=share, separable=separable)
    x = torch.randn(2, 3, BINS, FRAMES)
    with torch.no_grad():
        late, aligned = dense(x), looking_ahead(dense, x, share)
    inside = slice(14, FRAMES - 14)  # away from the zeros, which by-passed layers see at other places
    shifted = late[..., dense.late :]
    torch.testing.assert_close(shifted[..., inside], aligned[..., : shifted.shape[-1]][..., inside])
    assert dense.late == sum(round(share * context) for context in (2, 4, 8))


def test_a_share_of_one_half_is_the_centred_block_with_the_same_weights() -> None:
    late, centred = block(future_share=0.5), block(causal=False)
    centred.load_state_dict(late.state_dict())
    assert late.late == centred.future == 7
    x = torch.randn(1, 3, BINS, FRAMES)
    with torch.no_grad():
        torch.testing.assert_close(late(x)[..., 7 + 14 : -7], centred(x)[..., 14 : FRAMES - 14])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_frame_of_a_late_block_sees_a_later_one(share: float) -> None:
    dense = block(future_share=share)
    x = torch.randn(1, 3, BINS, FRAMES)
    changed = x.clone()
    changed[..., 20:] += 1.0
    with torch.no_grad():
        before, after = dense(x), dense(changed)
    assert torch.equal(before[..., :20], after[..., :20])
    assert not torch.allclose(before[..., 20], after[..., 20])


def test_the_encoder_halves_the_bins_and_both_decoders_restore_them() -> None:
    encoder = DenseEncoder(2, DenseDilatedBlock(3, 9, depth=1))
    assert encoder.out_bins == 4
    h = encoder(torch.randn(1, 2, 9, 6))
    assert h.shape == (1, 3, 4, 6)
    magnitude, phase = (
        MagnitudeDecoder(DenseDilatedBlock(3, 4, depth=1)),
        PhaseDecoder(DenseDilatedBlock(3, 4, depth=1)),
    )
    assert magnitude.out_bins == phase.out_bins == 9
    assert magnitude(h).shape == (1, 9, 6)
    assert [part.shape for part in phase(h)] == [(1, 9, 6)] * 2
    with pytest.raises(ConfigError, match="DenseEncoder: 8 bins must be an odd number"):
        DenseEncoder(2, DenseDilatedBlock(3, 8))


def test_the_sigmoid_is_bounded_and_has_a_slope_per_bin() -> None:
    sigmoid = LearnableSigmoid(3, 2.0)
    with torch.no_grad():
        sigmoid.slope.copy_(torch.tensor([[0.0], [1.0], [100.0]]))
        y = sigmoid(torch.tensor([[[-1.0, 1.0]] * 3]))
    torch.testing.assert_close(y[0], torch.tensor([[1.0, 1.0], [0.5378828, 1.4621172], [0.0, 2.0]]))


def test_each_bin_of_each_frame_is_normalised_over_its_channels() -> None:
    x = 3 + 5 * torch.randn(2, 8, 4, 6)
    y = ChannelLayerNorm(8)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 4, 6), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.std(1, correction=0), torch.ones(2, 4, 6), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"future_share": 1.1}, "future_share=1.1 must be from 0 to 1"),
        ({"kernel_size": (2, 3)}, "must start with an odd number of bins"),
        ({"causal": False, "future_share": 0.5}, "future_share=0.5 needs causal=True"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DenseDilatedBlock(3, BINS, **arguments)
