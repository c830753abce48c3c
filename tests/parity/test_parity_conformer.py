"""Conformers with copied weights: torchaudio's layer, and SE-Conformer, which is that layer inside of Demucs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from parity import TOLERANCE, Read, View, double_precision, named, one_step, speech_like, without_init
from torch import Tensor, nn

from bcfusion.generators.se_conformer import SEConformer
from bcfusion.nn.conformer import ConformerBlock

REASON = "scripts/install_public_code.sh installs the public code"
CHANGES = [  # of the names of torchaudio's layer
    *(("self_attn_layer_norm", "attention.norm"), ("self_attn.in_proj_", "attention.inward.")),
    *(("self_attn.out_proj", "attention.outward"), ("conv_module.layer_norm", "convolution.norm")),
    *((f"conv_module.sequential.{n}.", f"convolution.{name}.") for n, name in ((0, "widen"), (2, "depthwise"))),
    *((f"conv_module.sequential.{n}.", f"convolution.{name}.") for n, name in ((3, "batch_norm"), (5, "narrow"))),
    *((f"ffn{n}.sequential.0.", f"{half}.norm.") for n, half in ((1, "first"), (2, "second"))),
    *((f"ffn{n}.sequential.1.", f"{half}.widen.") for n, half in ((1, "first"), (2, "second"))),
    *((f"ffn{n}.sequential.4.", f"{half}.narrow.") for n, half in ((1, "first"), (2, "second"))),
    ("final_layer_norm", "norm"),
]
POINTWISE = ("widen.weight", "narrow.weight")  # of the convolution: linear layers here
CANCELLED = "depthwise.bias"  # by the batch normalisation after it: gradients are rounding errors


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    with double_precision():
        yield


def public_view(network: nn.Module, *changes: tuple[str, str]) -> View:
    """Return the public parameters by our names, those of pointwise convolutions in the shape of linear layers."""

    def view(read: Read) -> dict[str, Tensor]:
        tensors = {}
        for name, tensor in named(network, *changes)(read).items():
            if CANCELLED not in name:
                linear = "convolution" in name and name.endswith(POINTWISE)
                tensors[name] = tensor.squeeze(-1) if linear else tensor
        return tensors

    return view


def layer(channels: int) -> nn.Module:
    conformer = pytest.importorskip("torchaudio.models.conformer", reason=REASON)
    return cast("nn.Module", conformer.ConformerLayer(channels, 12, 2, 5))


def test_a_step_of_a_conformer_is_that_of_torchaudio() -> None:
    public, ours = layer(8), ConformerBlock(8, 2, 5, 12, 8)
    x, target = torch.randn(3, 11, 8), torch.randn(3, 11, 8)
    difference = one_step(
        "torchaudio 2.11.0",
        "conformer, MSE, 1 step",
        (ours, named(ours, without=CANCELLED), lambda: (ours(x) - target).square().mean()),
        (
            public,
            public_view(public, *CHANGES),
            lambda: (public(x.transpose(0, 1), None).transpose(0, 1) - target).square().mean(),
        ),
    )
    assert difference <= TOLERANCE


class Conformers(nn.Module):
    """What Demucs has as its LSTM: a sequence ``(N, B, C)`` to another, and a state that it does not use."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(channels) for _ in range(blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        for block in self.layers:
            x = block(x, None)
        return x, None


def difference_of_networks(what: str, fault: bool = False) -> float:
    without_init("denoiser")
    demucs = pytest.importorskip("denoiser.demucs", reason=REASON)
    public = demucs.Demucs(hidden=4, depth=3, causal=True, normalize=False)
    public.lstm = Conformers(16, 2)
    for decode in public.decoder:  # a ReLU more, as in the baseline of TAPS
        decode.insert(2, nn.ReLU())
    sizes: dict[str, Any] = {"heads": 2, "conformer_kernel_size": 5, "feed_forward": 12, "dropout": 0.0}
    ours = SEConformer(channels=4, depth=3, conformers=2, **sizes)
    if fault:
        ours.conformers[1].attention.register_forward_hook(lambda _, __, output: 1.01 * output)  # type: ignore[union-attr]
    changes = [*((f"lstm.layers.{n}", f"conformers.{n}") for n in range(2)), *CHANGES]
    x = speech_like(2, 40 * ours.hop + ours.rest, seed=1)
    target = speech_like(2, x.shape[-1], seed=2)
    return one_step(
        "denoiser 0.1.5, torchaudio 2.11.0",
        what,
        (ours, named(ours, without=CANCELLED), lambda: (ours.restored(x) - target).square().mean()),
        (public, public_view(public, *changes), lambda: (public(x) - target).square().mean()),
    )


def test_a_step_of_se_conformer_is_that_of_the_public_parts() -> None:
    assert difference_of_networks("SE-Conformer, MSE, 1 step") <= TOLERANCE


def test_a_louder_attention_of_se_conformer_is_found() -> None:
    assert difference_of_networks("", fault=True) > TOLERANCE
