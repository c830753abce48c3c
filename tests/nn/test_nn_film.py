from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.nn.film import TFiLM
from bcfusion.nn.streaming import StreamingError


def plain(layer: TFiLM, x: Tensor) -> Tensor:
    """The definition, block by block."""
    blocks = x.split(layer.block_size, dim=-1)  # the last one may be short
    modulation = layer.recurrent.layers(torch.stack([block.amax(-1) for block in blocks], dim=1))[0]
    parts = []
    for number, block in enumerate(blocks):
        scale = 1 + modulation[:, number, : layer.channels, None]
        shift = modulation[:, number, layer.channels :, None] if layer.shift else 0.0
        parts.append(scale * block + shift)
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 29])
def test_it_matches_its_definition_for_any_number_of_frames(causal: bool, shift: bool, frames: int) -> None:
    torch.manual_seed(0)
    layer = TFiLM(4, block_size=8, shift=shift, causal=causal).double()
    x = torch.randn(2, 4, frames, dtype=torch.float64) - 2  # all below 0: padding with zeros would be the maximum
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain(layer, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shift", [True, False])
def test_chunks_give_the_output_of_the_whole_file(dtype: torch.dtype, tolerance: float, shift: bool) -> None:
    torch.manual_seed(0)
    layer = TFiLM(3, block_size=4, shift=shift).to(dtype)
    x = torch.randn(2, 3, 4 * 14, dtype=dtype)
    with torch.inference_mode():
        whole = layer(x)
        for blocks in ([1], [2, 3], [7]):
            edges = [0]
            while edges[-1] < x.shape[-1]:
                edges.append(min(edges[-1] + 4 * blocks[(len(edges) - 1) % len(blocks)], x.shape[-1]))
            with layer.streaming(2):
                chunks = [layer(x[..., a:b]) for a, b in pairwise(edges)]
                assert set(layer.get_state()) == {"recurrent.hidden", "recurrent.memory"}
            assert (torch.cat(chunks, -1) - whole).abs().max() <= tolerance * whole.abs().max()


def test_only_whole_blocks_and_causal_layers_stream() -> None:
    layer = TFiLM(2, block_size=4)
    with pytest.raises(StreamingError, match="5 frames is not a multiple of TFiLM's block, 4"), layer.streaming(1):
        layer(torch.zeros(1, 2, 5))
    with pytest.raises(StreamingError, match="not causal"), TFiLM(2, 4, causal=False).streaming(1):
        pass


@pytest.mark.parametrize("changed", [8, 10, 15])
def test_a_block_depends_on_itself_and_the_blocks_before_it_only(changed: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 24, dtype=torch.float64)
    louder = x.clone()
    louder[..., changed] = 5.0  # the maximum of its block; torch's LSTM on CPUs does not carry a NaN through time
    for causal, affected in ((True, range(8, 24)), (False, range(24))):
        layer = TFiLM(2, block_size=8, causal=causal).double()
        with torch.inference_mode():
            moved = (layer(x) != layer(louder)).any(1)[0]
        assert moved.nonzero().flatten().tolist() == list(affected)
    assert TFiLM(2, block_size=8).last_input(changed) == 15


def test_an_untrained_layer_keeps_the_level_and_modulates_a_little() -> None:
    torch.manual_seed(0)
    layer, x = TFiLM(64, block_size=8), torch.randn(2, 64, 160)
    with torch.inference_mode():
        y = layer(x)
    assert 0.8 < y.std() / x.std() < 1.2
    assert 0.05 < (y / x).std() < 0.5


def test_a_last_short_block_has_finite_gradients() -> None:
    layer, x = TFiLM(2, block_size=8, shift=True), torch.randn(1, 2, 11, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert all(bool(p.grad is not None and p.grad.isfinite().all() and p.grad.any()) for p in (x, *layer.parameters()))


def test_invalid_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="block_size=0"):
        TFiLM(2, block_size=0)
    with pytest.raises(ConfigError, match="channels=3 must be even"):
        TFiLM(3, block_size=2, causal=False)
