"""LSTM and GRU as operators of ONNX, for sequences of any length.

torch traces its own recurrent layers step by step, for the number of steps of the example. ONNX has an operator for a
whole layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["with_onnx_recurrence"]

# torch stacks the gates of an LSTM as input, forget, cell, output; ONNX as input, output, forget, cell. Those of a GRU
# are reset, update, new there, and update, reset, new in ONNX.
_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def with_onnx_recurrence(network: nn.Module) -> nn.Module:
    """Replace each LSTM and GRU of torch in a network by the operators of ONNX, in place; it can only be exported then.

    Returns:
        The network.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LSTM | nn.GRU) and not child.proj_size:
                setattr(module, name, OnnxRecurrence(child))
    return network


class OnnxRecurrence(nn.Module):
    """A recurrent layer of torch as one operator per layer, with its arguments and results.

    Args:
        layer: to be replaced.
    """

    def __init__(self, layer: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.kind = "LSTM" if isinstance(layer, nn.LSTM) else "GRU"
        self.hidden_size, self.num_layers, self.batch_first = layer.hidden_size, layer.num_layers, layer.batch_first
        self.directions = 2 if layer.bidirectional else 1
        for number in range(layer.num_layers):
            ends = [f"_l{number}", f"_l{number}_reverse"][: self.directions]
            parts = {part: [self._ordered(layer, part + end) for end in ends] for part in ("weight_ih", "weight_hh")}
            biases = [torch.cat([self._ordered(layer, f"bias_{at}{end}") for at in ("ih", "hh")]) for end in ends]
            self.register_buffer(f"input_{number}", torch.stack(parts["weight_ih"]))
            self.register_buffer(f"hidden_{number}", torch.stack(parts["weight_hh"]))
            self.register_buffer(f"bias_{number}", torch.stack(biases))

    def _ordered(self, layer: nn.LSTM | nn.GRU, name: str) -> Tensor:
        """Return a weight or bias with its gates in ONNX's order; zeros for a bias that the layer lacks."""
        order = _ORDER[self.kind]
        if not hasattr(layer, name):
            return torch.zeros(len(order) * layer.hidden_size)
        gates: list[Tensor] = list(getattr(layer, name).detach().chunk(len(order)))
        return torch.cat([gates[place] for place in order])

    def forward(
        self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """Map ``(B, N, input_size)`` if ``batch_first``, else ``(N, B, input_size)``, as the layer of torch does."""
        x = x.transpose(0, 1) if self.batch_first else x
        length, batch, _ = x.shape
        given = () if state is None else state if isinstance(state, tuple) else (state,)
        count = 2 if self.kind == "LSTM" else 1
        last: list[list[Tensor]] = [[] for _ in range(count)]
        attributes: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "direction": "bidirectional" if self.directions == 2 else "forward",
        }
        if self.kind == "GRU":
            attributes["linear_before_reset"] = 1
        final = (self.directions, batch, self.hidden_size)
        for number in range(self.num_layers):
            start = number * self.directions
            before = [each[start : start + self.directions] for each in given]
            weights = [getattr(self, f"{part}_{number}") for part in ("input", "hidden", "bias")]
            y, *after = torch.onnx.ops.symbolic_multi_out(
                self.kind,
                [x, *weights, *([None, *before] if before else [])],
                attributes,
                dtypes=[x.dtype] * (1 + count),
                shapes=[(length, self.directions, batch, self.hidden_size)] + [final] * count,
            )
            x = y.transpose(1, 2).flatten(2)
            for kept, each in zip(last, after, strict=True):
                kept.append(each)
        states = tuple(torch.cat(each) for each in last)
        x = x.transpose(0, 1) if self.batch_first else x
        return x, ((states[0], states[1]) if count == 2 else states[0])
