"""Recurrent layers over time, which pass their state from chunk to chunk."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.nn.cpu import eager, product, without_onednn
from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import at_least, one_of, require

Cell = Literal["gru", "lstm"]

#: recurrent weights of a layer from which the memory's speed decides, and frames of a short chunk
_MANY, _FEW = 2**20, 32


class _Recurrent(StreamingModule):
    """Common part of LSTM and GRU: ``(B streams, N, input_size) -> (B streams, N, directions hidden_size)``."""

    endless = True
    cell: type[nn.LSTM] | type[nn.GRU]
    state_names: tuple[str, ...]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        causal: bool = True,
        dropout: float = 0.0,
        streams: int = 1,
    ) -> None:
        require(
            self,
            at_least(1, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, streams=streams),
            (
                not (causal and bidirectional),
                "causal=True is impossible, its backward direction starts at the end of the file: set "
                "bidirectional=False",
            ),
        )
        super().__init__()
        self.causal = not bidirectional
        self.streams = streams
        self.num_layers, self.hidden_size = num_layers, hidden_size
        self.output_size = hidden_size * (2 if bidirectional else 1)
        # torch's own layer warns about dropout without a next layer
        between = dropout if num_layers > 1 else 0.0
        self.layers = self.cell(
            input_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, dropout=between
        )

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return tensors ``(B, num_layers, streams, hidden_size)``, one per state of the cell."""
        if not self.causal:
            return {}
        shape = (batch_size, self.num_layers, self.streams, self.hidden_size)
        return {name: like.new_zeros(shape) for name in self.state_names}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B streams, N, input_size)``, the streams of an item being neighbours, to ``(B streams, N,
        output_size)``."""
        if not self.is_streaming:
            output: Tensor = self.layers(x)[0]
            return output
        self.require_frames(x.shape[1])
        before = tuple(self.recall(name).transpose(0, 1).flatten(1, 2).contiguous() for name in self.state_names)
        if self._reads_much(x):
            output, after = self._step_by_step(x, before)
            split = {
                name: state.transpose(0, 1).unsqueeze(2) for name, state in zip(self.state_names, after, strict=True)
            }
            self.replace(**split)
            return output
        # oneDNN prepares its weights at every call, which takes several times as long as a few steps do
        few = x.shape[0] * x.shape[1] < 16 and x.device.type == "cpu" and not torch.compiler.is_exporting()
        with without_onednn() if few else nullcontext():
            output, after = self.layers(x, before if len(before) > 1 else before[0])
        states = after if len(before) > 1 else (after,)
        split = {
            name: state.reshape(self.num_layers, -1, self.streams, self.hidden_size).transpose(0, 1)
            for name, state in zip(self.state_names, states, strict=True)
        }
        self.replace(**split)
        return output

    def _reads_much(self, x: Tensor) -> bool:
        """Return whether this layer computes a chunk itself, see :class:`LSTM`."""
        return False

    def _step_by_step(self, x: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        raise NotImplementedError(f"{type(self).__name__} has no steps of its own")


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), by :class:`torch.nn.LSTM`.

    A short chunk of one stream with millions of weights is computed here, step by step: torch's layer takes three times
    as long on a CPU, whose memory it reads more than once for each step.

    Args:
        input_size: as in :class:`torch.nn.LSTM`, like the arguments not listed here.
        dropout: between layers, if there are several.
        causal: refuses a bidirectional layer, which sees the end of the file first.
        streams: sequences per item, for layers that run along time in every band; the batch is then ``B streams``.

    Raises:
        ConfigError: sizes below one; ``causal=True`` with ``bidirectional=True``.
    """

    cell = nn.LSTM
    state_names = ("hidden", "memory")

    def _reads_much(self, x: Tensor) -> bool:
        if not eager(x) or x.shape[0] > 1 or x.shape[1] > _FEW or torch.is_grad_enabled():
            return False
        drops = self.layers.training and self.layers.dropout > 0
        return 4 * self.hidden_size**2 >= _MANY and not drops

    def _step_by_step(self, x: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Map ``(1, N, input_size)`` and the states ``(num_layers, 1, hidden_size)`` to the output and later states."""
        hidden, memory = [], []
        for layer, (h, c) in enumerate(zip(*before, strict=True)):
            inputs, recurrent, *biases = (
                getattr(self.layers, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            gates = product(x[0], inputs) + (biases[0] + biases[1])
            outputs = []
            for own in gates.split(1):
                entered, kept, new, shown = (own + product(h, recurrent)).chunk(4, dim=1)
                c = kept.sigmoid() * c + entered.sigmoid() * new.tanh()
                h = shown.sigmoid() * c.tanh()
                outputs.append(h)
            x = torch.cat(outputs).unsqueeze(0)
            hidden.append(h)
            memory.append(c)
        return x, (torch.stack(hidden), torch.stack(memory))


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014), by :class:`torch.nn.GRU`; arguments as in :class:`LSTM`."""

    cell = nn.GRU
    state_names = ("hidden",)


class Bidirectional(nn.Module):
    """Layers that run in both directions, ``(B, N, input_size) -> (B, N, 2 hidden_size)``, each within its own item.

    The parameters are those of torch's bidirectional layers, but the backward direction starts at an item's last frame
    instead of that of the batch: what an item gives does not depend on the padding behind it.

    Args:
        cell: ``gru`` or ``lstm``.
        input_size: of the first layer.
        hidden_size: of each direction of each layer.
        num_layers: number of layers.
        dropout: between layers.

    Attributes:
        output_size: 2 hidden_size.

    Raises:
        ConfigError: another cell, or sizes below one.
    """

    def __init__(
        self, cell: Cell, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0
    ) -> None:
        require(
            self,
            one_of(get_args(Cell), cell=cell),
            at_least(1, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers),
        )
        super().__init__()
        kind = nn.GRU if cell == "gru" else nn.LSTM
        self.output_size = 2 * hidden_size
        sizes = [input_size] + (num_layers - 1) * [self.output_size]
        self.forwards = nn.ModuleList(kind(size, hidden_size, batch_first=True) for size in sizes)
        self.backwards = nn.ModuleList(kind(size, hidden_size, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Map ``(B, N, input_size)``, of which each item's first ``frames (B,)`` are its own, to ``(B, N,
        output_size)``."""
        position = torch.arange(x.shape[1], device=x.device)
        # each item's frames in reverse, what is behind them in its place
        order = torch.where(position < frames[:, None], frames[:, None] - 1 - position, position)[..., None]
        for number, (ahead, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            x = self.dropout(x) if number else x
            late = back(x.gather(1, order.expand_as(x)))[0]
            x = torch.cat([ahead(x)[0], late.gather(1, order.expand_as(late))], dim=-1)
        return x


def along_time(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer of ``(batch, N, channels)`` along the frames of ``x (B, C, K, N)``, each of the K bands separately.

    Returns:
        ``(B, C', K, N)``. The layer is built with ``streams=K``.
    """
    batch, _, bands, _ = x.shape
    sequences = x.permute(0, 2, 3, 1).flatten(0, 1)  # (B K, N, C)
    y: Tensor = layer(sequences)
    return y.reshape(batch, bands, *y.shape[1:]).permute(0, 3, 1, 2)


def along_bands(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer of ``(batch, K, channels)`` along the bands of ``x (B, C, K, N)``, each of the N frames separately.

    The layer needs no state: a :class:`torch.nn.LSTM` is causal here, in whichever direction it runs through the bands.

    Returns:
        ``(B, C', K, N)``.
    """
    batch, _, _, frames = x.shape
    sequences = x.permute(0, 3, 2, 1).flatten(0, 1)  # (B N, K, C)
    y = layer(sequences)
    y = y if isinstance(y, torch.Tensor) else y[0]
    return y.reshape(batch, frames, *y.shape[1:]).permute(0, 3, 2, 1)


def pointwise(linear: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer over the channels of ``(B, C, K, N)``, each band and frame separately."""
    y: Tensor = linear(x.movedim(1, -1)).movedim(-1, 1)
    return y
