"""The conformer block against its definition, and what depends on what in it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.conformer import ConformerBlock, SelfAttention

SIZES: dict[str, Any] = {"channels": 8, "heads": 2, "kernel_size": 5, "feed_forward": 12, "convolution": 16}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_block_of_the_paper() -> None:
    torch.manual_seed(0)
    block = ConformerBlock(**SIZES).double().train()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, p = noise(3, 9, 8), dict(block.named_parameters())

    def norm(h: Tensor, name: str) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]
        )

    def linear(h: Tensor, name: str) -> Tensor:
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def swish(h: Tensor) -> Tensor:
        return h * torch.sigmoid(h)

    def feed_forward(h: Tensor, name: str) -> Tensor:
        return linear(swish(linear(norm(h, f"{name}.norm"), f"{name}.widen")), f"{name}.narrow")

    h = x + feed_forward(x, "first") / 2
    rows = linear(norm(h, "attention.norm"), "attention.inward")
    heads = []
    for n in range(2):
        query, key, value = (rows[..., 8 * part + 4 * n : 8 * part + 4 * n + 4] for part in range(3))
        heads.append(torch.softmax(query @ key.mT / math.sqrt(4), dim=-1) @ value)
    h = h + linear(torch.cat(heads, dim=-1), "attention.outward")
    wide = linear(norm(h, "convolution.norm"), "convolution.widen")
    gated = (wide[..., :16] * torch.sigmoid(wide[..., 16:])).mT
    weight, bias = p["convolution.depthwise.weight"], p["convolution.depthwise.bias"]
    filtered = sum(F.pad(gated, (2, 2))[..., k : k + 9] * weight[:, :, k] for k in range(5)) + bias[:, None]
    centred = filtered - filtered.mean((0, 2), keepdim=True)  # batch normalisation in training
    normal = centred / (centred.square().mean((0, 2), keepdim=True) + 1e-5).sqrt()
    scaled = normal * p["convolution.batch_norm.weight"][:, None] + p["convolution.batch_norm.bias"][:, None]
    h = h + linear(swish(scaled.mT), "convolution.narrow")
    expected = norm(h + feed_forward(h, "second") / 2, "norm")
    torch.testing.assert_close(block(x), expected, atol=1e-9, rtol=1e-9)


def test_without_its_convolution_it_does_not_know_the_order_of_the_frames() -> None:
    torch.manual_seed(0)
    block, x = ConformerBlock(**SIZES).double().eval(), noise(1, 9, 8)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not torch.allclose(block(x[:, order]), block(x)[:, order])
        nn.init.zeros_(block.convolution.narrow.weight)
        torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


def test_each_sequence_is_attended_to_alone_and_as_a_whole() -> None:
    torch.manual_seed(0)
    block, x = ConformerBlock(**SIZES).double().eval(), noise(2, 30, 8)
    changed = x.clone()
    changed[1, -1] = noise(8, seed=2)
    with torch.no_grad():
        before, after = block(x), block(changed)
    assert torch.equal(before[0], after[0])
    assert (before[1] != after[1]).any(-1).all()  # beyond the kernel of the convolution, too


def test_dropout_acts_in_training_only_and_on_the_parts_it_is_for() -> None:
    torch.manual_seed(0)
    x = noise(1, 9, 8)
    for settings in ({"dropout": 0.5}, {"residual_dropout": 0.5}):
        block = ConformerBlock(**{**SIZES, **settings}).double().eval()
        assert torch.equal(block(x), block(x))
        block.train()
        assert not torch.equal(block(x), block(x))
    attention = SelfAttention(8, 2, 0.5).double()
    assert not torch.equal(attention(x), attention(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "ConformerBlock: channels=8 must be a multiple of heads=3"),
        ({"heads": 0}, "heads=0 must be at least 1"),
        ({"kernel_size": 4}, "kernel_size=4 must be odd"),
        ({"dropout": 1.0}, "dropout=1.0 must be"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConformerBlock(**{**SIZES, **settings})
