"""SEANet from the blocks of EnCodec: the same layers, widths and parameters as ours."""

from __future__ import annotations

from typing import Any

from parity import View, named
from torch import Tensor, nn

from bcfusion.generators.seanet import SEANet


class PublicSEANet(nn.Module):
    """Encoder and decoder of EnCodec without its LSTM, put together as SEANet: their skip connections are sums.

    The blocks have the widths of SEANet (``compress=1``), its dilations, and no biases, which SEANet has none of.

    Args:
        channels: after the first convolution.
        bottleneck: channels between encoder and decoder.
        strides: of the encoder, first to last.
        dilations: how many residual units a block has; their dilations are powers of three.
    """

    def __init__(self, channels: int, bottleneck: int, strides: tuple[int, ...], dilations: int) -> None:
        super().__init__()
        from encodec.modules.seanet import SEANetDecoder, SEANetEncoder

        shared: dict[str, Any] = {
            "dimension": bottleneck,
            "n_filters": channels,
            "n_residual_layers": dilations,
            "ratios": list(reversed(strides)),
            "dilation_base": 3,
            "pad_mode": "constant",
            "true_skip": True,
            "compress": 1,
            "lstm": 0,
        }
        encoder, decoder = SEANetEncoder(**shared).model, SEANetDecoder(**shared).model
        size = dilations + 2  # modules of a block: residual units, activation, convolution
        self.first, *rest = encoder
        self.encoder = nn.ModuleList(nn.Sequential(*rest[i : i + size]) for i in range(0, len(rest) - 2, size))
        self.reduce = nn.Sequential(*rest[-2:])
        self.expand, *rest = decoder
        self.decoder = nn.ModuleList(nn.Sequential(*rest[i : i + size]) for i in range(0, len(rest) - 2, size))
        self.last = nn.Sequential(*rest[-2:])
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                layer.bias = None

    def forward(self, inputs: Tensor) -> Tensor:
        h = self.first(inputs)
        skips = [h]
        for block in self.encoder:
            h = block(h)
            skips.append(h)
        h = self.expand(self.reduce(h))
        for block in self.decoder:
            h = block(h + skips.pop())
        return self.last(h + skips.pop()) + inputs  # type: ignore[no-any-return]


def seanet_views(ours: SEANet, public: PublicSEANet) -> tuple[View, View]:
    """Return the views of both."""
    units = len(ours.encoder[0].units)
    changes = [("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1")]
    changes += [(".conv.conv.", "."), (".convtr.convtr.", "."), ("block.1.", "dilated."), ("block.3.", "pointwise.")]
    changes += [("reduce.1", "reduce"), ("last.1", "last")]
    for level in range(len(ours.encoder)):
        changes += [(f"encoder.{level}.{n}.", f"encoder.{level}.units.{n}.") for n in range(units)]
        changes += [(f"encoder.{level}.{units + 1}.", f"encoder.{level}.down.")]
        changes += [(f"decoder.{level}.1.", f"decoder.{level}.up.")]
        changes += [(f"decoder.{level}.{n + 2}.", f"decoder.{level}.units.{n}.") for n in range(units)]
    return named(ours), named(public, *changes)
