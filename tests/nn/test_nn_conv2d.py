from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.streaming import StreamingError, StreamingModule

BINS = 17
LAYERS: dict[str, Callable[[bool], Conv2d | ConvTranspose2d]] = {
    "plain": lambda causal: Conv2d(4, 6, (3, 3), BINS, padding=(1, 1), causal=causal),
    "of DCCRN": lambda causal: Conv2d(4, 6, (5, 2), BINS, (2, 1), padding=(2, 1), causal=causal),
    "strided in time": lambda causal: Conv2d(4, 6, (3, 4), BINS, (1, 2), padding=(1, 1), causal=causal),
    "dilated": lambda causal: Conv2d(4, 6, (3, 3), BINS, dilation=(2, 3), padding=(2, 2), causal=causal),
    "grouped": lambda causal: Conv2d(4, 6, (3, 2), BINS, groups=2, causal=causal),
    "pointwise": lambda causal: Conv2d(4, 6, (1, 1), BINS, causal=causal),
    "transposed": lambda causal: ConvTranspose2d(4, 6, (5, 2), BINS, 2, (2, 2), causal=causal),
    "transposed grouped": lambda causal: ConvTranspose2d(4, 6, (3, 3), BINS, 2, (1, 0), groups=2, causal=causal),
    "transposed pointwise": lambda causal: ConvTranspose2d(4, 6, (3, 1), BINS, 1, (1, 1), bias=False, causal=causal),
}


def name_of(entry: object) -> str:
    return str(entry)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("chunk", [2, 4, 6])
def test_chunks_give_the_output_of_the_whole_file(name: str, chunk: int) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[name](True).double(), torch.randn(2, 4, BINS, 24, dtype=torch.float64)
    whole = layer(x)
    with layer.streaming(2):
        parts = torch.cat([layer(part) for part in x.split(chunk, dim=-1)], dim=-1)
    assert whole.shape[2] == layer.out_bins
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("causal", [True, False])
def test_a_frame_reaches_no_further_back_than_declared(name: str, causal: bool) -> None:
    layer, x = LAYERS[name](causal), torch.randn(1, 4, BINS, 24)
    stride = layer.stride[1] if isinstance(layer, Conv2d) else 1
    x[..., 12] = torch.nan
    first = int(layer(x).isnan().any(dim=(0, 1, 2)).nonzero()[0])
    assert first == 12 // stride - (0 if causal else layer.future)
    assert layer.future == 0 or not causal


def test_a_centred_convolution_is_torchs_with_equal_padding() -> None:
    layer = Conv2d(4, 6, (3, 5), BINS, padding=(1, 1))
    reference = nn.Conv2d(4, 6, (3, 5), padding=(1, 2))
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, BINS, 11)
    torch.testing.assert_close(layer(x), reference(x))


def test_a_transposed_convolution_is_torchs_cut_to_the_frames() -> None:
    for future in (0, 1, 2):
        layer = ConvTranspose2d(4, 6, (5, 3), BINS, 2, (2, 1), future=future)
        reference = nn.ConvTranspose2d(4, 6, (5, 3), stride=(2, 1))
        reference.load_state_dict(layer.state_dict())
        x = torch.randn(2, 4, BINS, 11)
        torch.testing.assert_close(layer(x), reference(x)[:, :, 2:-1, future : future + 11])


def test_the_bias_of_a_transposed_convolution_is_added_once() -> None:
    layer = ConvTranspose2d(1, 1, (3, 3), 4, causal=True)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    with layer.streaming(1):
        for frames in (1, 2, 1):
            assert torch.equal(layer(torch.randn(1, 1, 4, frames)), layer.bias.expand(1, 1, 6, frames))


def test_any_number_of_frames_works() -> None:
    for frames in range(1, 8):
        assert Conv2d(1, 1, (3, 4), 5, (1, 3), causal=True)(torch.zeros(1, 1, 5, frames)).shape[-1] == -(-frames // 3)
        assert ConvTranspose2d(1, 1, (3, 4), 5)(torch.zeros(1, 1, 5, frames)).shape[-1] == frames


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Conv2d(4, 6, (3, 2), BINS, groups=3), "groups=3 must divide"),
        (lambda: Conv2d(4, 6, (3, 2), BINS, (1, 3)), "a kernel of 2 frames leaves gaps at stride=3"),
        (lambda: Conv2d(4, 6, (5, 2), 3), "3 bins are fewer than the kernel's 5"),
        (lambda: ConvTranspose2d(4, 6, (3, 2), BINS, causal=True, future=1), "future=1 must be from 0 to 0"),
        (lambda: ConvTranspose2d(4, 6, (3, 2), BINS, future=2), "future=2 must be from 0 to 1"),
        (lambda: ConvTranspose2d(4, 6, (3, 2), 1, padding=(2, 1)), "leaves no bin"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("frames", [1, 2])
def test_short_chunks_of_wide_layers_give_the_output_of_the_whole_file(frames: int) -> None:
    """They are computed by matrix products, since preparing the weight of a convolution would take longest here."""
    torch.manual_seed(0)
    layers: list[Conv2d | ConvTranspose2d] = [
        Conv2d(32, 24, (5, 2), 8, (2, 1), padding=(2, 1), causal=True),
        ConvTranspose2d(32, 24, (5, 2), 4, 2, (2, 1), causal=True),
    ]
    for layer in layers:
        layer.double()
        x = torch.randn(2, 32, 8 if isinstance(layer, Conv2d) else 4, 6, dtype=torch.float64)
        assert x[..., :frames].numel() < layer.weight.numel()
        with layer.streaming(2):
            parts = torch.cat([layer(part) for part in x.split(frames, dim=-1)], dim=-1)
        torch.testing.assert_close(parts, layer(x), atol=1e-12, rtol=0)


def test_a_chunk_must_be_a_multiple_of_the_stride() -> None:
    layer: StreamingModule = LAYERS["strided in time"](True)
    with layer.streaming(1), pytest.raises(StreamingError, match="3 frames is not a multiple of the stride 2"):
        layer(Tensor(1, 4, BINS, 3))
