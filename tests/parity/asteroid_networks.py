"""Conv-TasNet and DCCRN, ours and asteroid's: views of their parameters by common names, and what is computed alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from parity import Read, View, named
from torch import Tensor, nn

from bcfusion.generators.conv_tasnet import ConvTasNet
from bcfusion.generators.dccrn import DCCRN

# ---------------------------------------------------------------- Conv-TasNet


def public_conv_tasnet(filters: int, bottleneck: int, hidden: int, blocks: int, repeats: int) -> Any:
    """Return asteroid's network for one source, with frames of 8 samples."""
    from asteroid.models import ConvTasNet as Public

    sizes = {"n_blocks": blocks, "n_repeats": repeats, "bn_chan": bottleneck, "hid_chan": hidden}
    return Public(1, **sizes, skip_chan=bottleneck, n_filters=filters, stride=8)


def conv_tasnet_output(public: Any, inputs: Tensor) -> Tensor:
    """Return the estimate ``(B, 1, T)``; segments that reach over the ends of the file are complete, as in ours."""
    return public(F.pad(inputs, (8, 8)))[..., 8:-8]  # type: ignore[no-any-return]


def conv_tasnet_views(ours: ConvTasNet, public: Any) -> tuple[View, View]:
    """Return the views of both; asteroid's last block has a path to a next one, which nothing uses."""
    count = len(ours.blocks)

    def our_view(read: Read) -> dict[str, Tensor]:
        tensors = {n: read(p) for n, p in ours.named_parameters() if "project" not in n}
        for index, block in enumerate(ours.blocks):
            both = [read(block.project.weight), read(block.project.bias)]
            if index < count - 1:  # the input of the next block first, then the skip path
                width = len(both[0]) // 2
                kinds = [("res", slice(width)), ("skip", slice(width, None))]
            else:
                kinds = [("skip", slice(None))]
            for kind, part in kinds:
                tensors |= {f"blocks.{index}.{kind}.{i}": tensor[part] for i, tensor in enumerate(both)}
        return tensors

    public_view = named(
        public,
        ("encoder.filterbank._filters", "encoder.weight"),
        ("decoder.filterbank._filters", "decoder.weight"),
        ("masker.bottleneck", "bottleneck"),
        ("masker.mask_net", "output"),
        ("masker.TCN", "blocks"),
        ("shared_block.0", "expand"),
        ("shared_block.1", "expand_act.0"),
        ("shared_block.2", "expand_act.1"),
        ("shared_block.3", "depthwise"),
        ("shared_block.4", "depthwise_act.0"),
        ("shared_block.5", "depthwise_act.1"),
        ("gamma", "weight"),
        ("beta", "bias"),
        ("res_conv.weight", "res.0"),
        ("res_conv.bias", "res.1"),
        ("skip_conv.weight", "skip.0"),
        ("skip_conv.bias", "skip.1"),
        without=f"TCN.{count - 1}.res_conv",
    )
    return our_view, public_view


# ---------------------------------------------------------------- DCCRN


class PublicDCCRN(nn.Module):
    """The blocks of asteroid's DCCRN, in its order, padded with a frame before each encoder block as in the paper.

    asteroid pads none: each level has a frame less. Its network also drops the bin of half the sample rate in place of
    that of 0 Hz, has a slope of its own for the imaginary parts, and a dense layer that mixes real and imaginary parts,
    where the authors' code, which ours follows, has one for either part.

    Args:
        channels: after each level, counting real and imaginary ones.
        units: of each LSTM layer, likewise.
        bins: of the spectrum.
    """

    def __init__(self, channels: Sequence[int], units: int, bins: int) -> None:
        super().__init__()
        from asteroid import complex_nn
        from asteroid.masknn.convolutional import DCUNetComplexDecoderBlock, DCUNetComplexEncoderBlock
        from asteroid.masknn.recurrent import DCCRMaskNetRNN

        sizes, padding = [1, *(width // 2 for width in channels)], ((5, 2), (2, 1), (2, 0))
        self.encoders = nn.ModuleList(
            DCUNetComplexEncoderBlock(before, after, *padding, activation="prelu") for before, after in pairwise(sizes)
        )
        features = sizes[-1] * (bins >> len(channels))
        self.rnn = DCCRMaskNetRNN(features, hid_size=units // 2)
        self.rnn.linear = complex_nn.OnReIm(nn.Linear, units // 2, features)
        self.decoders = nn.ModuleList(
            DCUNetComplexDecoderBlock(2 * before, after, *padding, (1, 0), activation="prelu")
            for after, before in reversed(list(pairwise(sizes))[1:])
        )
        self.last = complex_nn.ComplexConvTranspose2d(2 * sizes[1], 1, *padding, (1, 0))
        self.bound = complex_nn.BoundComplexMask("tanh")
        for block in (*self.encoders, *self.decoders):
            block.activation.im_module = block.activation.re_module

    def forward(self, spectrum: Tensor) -> Tensor:
        h, outputs = spectrum.unsqueeze(1), []
        for encoder in self.encoders:
            h = encoder(F.pad(h, (1, 0)))
            outputs.append(h)
        h = self.rnn(h)
        for decoder in self.decoders:
            h = decoder.deconv(torch.cat([h, outputs.pop()], dim=1))[..., 1:]  # the decoder sees the later frames
            h = decoder.activation(decoder.norm(h))
        return self.bound(self.last(torch.cat([h, outputs.pop()], dim=1))[..., 1:])[:, 0] * spectrum  # type: ignore[no-any-return]


def dccrn_output(ours: DCCRN, spectrum: Tensor) -> Tensor:
    """Return our estimate of ``spectrum (B, F, N)``, complex, without a bin of 0 Hz on either side."""
    real, imag = (F.pad(part, (0, 0, 1, 0)).unsqueeze(1) for part in (spectrum.real, spectrum.imag))
    (real, imag), _ = ours.spectrum(real, imag)
    return torch.complex(real, imag)[:, 1:]


def without_cancelled_biases(ours: DCCRN) -> None:
    """Set biases to zero that the normalisation cancels; asteroid has none."""
    with torch.no_grad():
        for block in (*ours.encoder, *list(ours.decoder)[:-1]):
            block.conv.layer.bias.zero_()


def dccrn_views(ours: DCCRN, public: PublicDCCRN) -> tuple[View, View]:
    """Return the views of both; ours must have complex LSTM layers."""

    def convolution(read: Read, layer: nn.Module, name: str, bias: bool = False) -> dict[str, Tensor]:
        weight = read(layer.weight)
        dim = 1 if isinstance(layer, nn.ConvTranspose2d) or "decoder" in name or "last" in name else 0
        real, imag = weight.chunk(2, dim=dim)
        tensors = {f"{name}.re": real, f"{name}.im": imag}
        if bias:
            tensors |= dict(zip((f"{name}.re bias", f"{name}.im bias"), read(layer.bias).chunk(2), strict=True))
        return tensors

    def parts(read: Read, block: nn.Module, norm: nn.Module, act: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = {f"{name}.slope": read(act.weight)}
        for key in ("weight", "bias"):
            real, imag = read(getattr(norm, key)).chunk(2)
            tensors |= {f"{name}.norm.re.{key}": real, f"{name}.norm.im.{key}": imag}
        return tensors | convolution(read, block.conv.layer, name)

    def our_view(read: Read) -> dict[str, Tensor]:
        tensors = {}
        for index, block in enumerate(ours.encoder):
            tensors |= parts(read, block, block.norm, block.activation, f"encoder.{index}")
        *others, last = ours.decoder
        for index, block in enumerate(others):
            tensors |= parts(read, block, block.after[0], block.after[1], f"decoder.{index}")
        tensors |= convolution(read, last.conv.layer, "last", bias=True)
        *lstms, dense = ours.bottleneck
        for index, lstm in enumerate(lstms):
            for part, kind in (("real", "re"), ("imag", "im")):
                cells = dict(getattr(lstm, part).named_parameters())
                tensors |= {f"lstm.{index}.{kind}.{n.split('.')[-1]}": read(p) for n, p in cells.items()}
        for part, kind in (("real", "re"), ("imag", "im")):
            tensors |= {f"dense.{kind}.{n}": read(p) for n, p in getattr(dense, part).named_parameters()}
        return tensors

    def of_public(read: Read, block: nn.Module, layer: nn.Module, name: str) -> dict[str, Tensor]:
        tensors = {f"{name}.slope": read(block.activation.re_module.weight)}
        for kind in ("re", "im"):
            tensors[f"{name}.{kind}"] = read(getattr(layer, f"{kind}_module").weight)
            norm = getattr(block.norm, f"{kind}_module")
            tensors |= {f"{name}.norm.{kind}.{key}": read(getattr(norm, key)) for key in ("weight", "bias")}
        return tensors

    def public_view(read: Read) -> dict[str, Tensor]:
        tensors = {}
        for index, block in enumerate(public.encoders):
            tensors |= of_public(read, block, block.conv, f"encoder.{index}")
        for index, block in enumerate(public.decoders):
            tensors |= of_public(read, block, block.deconv, f"decoder.{index}")
        for kind in ("re", "im"):
            last = getattr(public.last, f"{kind}_module")
            tensors |= {f"last.{kind}": read(last.weight), f"last.{kind} bias": read(last.bias)}
            for index, rnn in enumerate(public.rnn.rnn.rnns):
                cells = getattr(rnn, f"{kind}_module").rnn.named_parameters()
                tensors |= {f"lstm.{index}.{kind}.{n}": read(p) for n, p in cells}
            dense = getattr(public.rnn.linear, f"{kind}_module")
            tensors |= {f"dense.{kind}.{n}": read(p) for n, p in dense.named_parameters()}
        return tensors

    return our_view, public_view
