"""Streaming: the same ``forward`` takes a whole file, or one chunk after the other.

A causal layer keeps what it needs of the past in a small dict of named tensors. A chunk REPLACES these tensors and
never writes into them, so that a state read by :meth:`StreamingModule.get_state` never changes, can be restored later,
and is the signature of an exported step ``(x, *state) -> (y, *state)``::

    with model.streaming(batch_size=1), torch.inference_mode():
        for chunk in chunks:  # (1, sensors, a multiple of model.hop)
            play(model(chunk))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import BcfusionError

#: layers that, in training mode, measure the chunk or draw random numbers for it
_ONLY_IN_EVALUATION = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.dropout._DropoutNd,
)


class StreamingError(BcfusionError):
    """A network cannot be streamed, or was streamed in an unsupported way."""


class StreamingModule(nn.Module):
    """A layer or a network that can run chunk by chunk.

    A layer with memory overrides :meth:`initial_state`, checks :attr:`is_streaming` in its ``forward`` and there reads
    and replaces its state by :meth:`recall` and :meth:`replace`, or by :meth:`prepend_past` and :meth:`add_overlap`,
    which do so for the two most frequent states. A network only has to inherit: streaming reaches every
    StreamingModule in it, through plain containers too.

    Attributes:
        causal: whether no output depends on an input past its own frame. Only causal modules stream.
        endless: whether an output depends on all input before it, however long ago.
    """

    causal: bool = True
    endless: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._state: dict[str, Tensor] | None = None  # None: whole files

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return the state before the first sample: that of zeros to the left of the file in whole-file mode.

        Args:
            batch_size: number of parallel streams.
            like: a parameter of the network, for device and dtype.
        """
        return {}

    @property
    def is_streaming(self) -> bool:
        """Whether ``forward`` takes chunks now."""
        return self._state is not None

    def recall(self, name: str) -> Tensor:
        """Return the tensor that this layer kept under ``name`` at the last chunk."""
        if self._state is None:
            raise StreamingError(f"{type(self).__name__} has a state only inside `with model.streaming(batch_size):`")
        return self._state[name]

    def replace(self, **tensors: Tensor) -> None:
        """Keep tensors for the next chunk, replacing those of the same names."""
        if self._state is None:
            raise StreamingError(f"{type(self).__name__} has a state only inside `with model.streaming(batch_size):`")
        self._state = {**self._state, **tensors}

    def require_frames(self, frames: int) -> None:
        """Refuse a chunk of no frames. A network answers one by itself: see ``WaveformNetwork.forward``.

        Raises:
            StreamingError: there are no frames in a stream.
        """
        if self.is_streaming and not frames:
            raise StreamingError(f"{type(self).__name__} takes chunks of at least one frame")

    def prepend_past(self, x: Tensor, length: int) -> Tensor:
        """Prepend the ``length`` inputs before ``x (..., T)``: zeros to a whole file, the state ``past`` to a chunk.

        Raises:
            StreamingError: a chunk of no frames.
        """
        self.require_frames(x.shape[-1])
        if not length:
            return x
        if not self.is_streaming:
            return F.pad(x, (length, 0))
        x = torch.cat([self.recall("past"), x], dim=-1)
        self.replace(past=x[..., x.shape[-1] - length :])
        return x

    def add_overlap(self, y: Tensor, length: int) -> Tensor:
        """Return the first ``length`` outputs; the rest of a chunk, the state ``overlap``, is added to the next one.

        Args:
            y: ``(..., length)``, or longer by the overlap.
            length: outputs that are complete after this chunk.
        """
        if not self._state or "overlap" not in self._state:
            return y[..., :length]
        late = self.recall("overlap")
        if late.shape[-1] == length:  # nothing else to add to: without a copy
            self.replace(overlap=y[..., length:])
            return y[..., :length] + late
        size = late.shape[-1]
        if size < length:  # only the head of the chunk changes
            self.replace(overlap=y[..., length:])
            return torch.cat([y[..., :size] + late, y[..., size:length]], dim=-1)
        y = y + F.pad(late, (0, length))
        self.replace(overlap=y[..., length:])
        return y[..., :length]

    @contextmanager
    def streaming(self, batch_size: int) -> Iterator[Self]:
        """Let ``forward`` take consecutive chunks of ``batch_size`` streams; the state is dropped at the end.

        Raises:
            StreamingError: a layer is not causal (it is named), streaming is on already, or there is a layer in
                training mode that behaves differently there (batch and instance normalisation, dropout).
        """
        for path, module in self.named_modules():
            if module.training and isinstance(module, _ONLY_IN_EVALUATION):
                raise StreamingError(
                    f"{type(module).__name__} at '{path}' is in training mode: call model.eval() first"
                )
        layers = list(self._streaming_modules())
        for path, layer in layers:
            where = f"{type(layer).__name__} at '{path}'" if path else type(layer).__name__
            if not layer.causal:
                raise StreamingError(f"{where} is not causal and cannot stream: build the network with causal=True")
            if layer.is_streaming:
                raise StreamingError(f"{where} is streaming already: leave that `with` block first")
        tensors = chain(self.parameters(), self.buffers())
        like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
        try:
            for _, layer in layers:
                layer._state = layer.initial_state(batch_size, like.detach())
            yield self
        finally:
            for _, layer in layers:
                layer._state = None

    def get_state(self) -> dict[str, Tensor]:
        """Return the whole state, flat: ``"path.of.layer.name"`` to tensor, in a fixed order. Nothing is copied.

        Raises:
            StreamingError: outside :meth:`streaming`.
        """
        state: dict[str, Tensor] = {}
        for path, layer in self._streaming_modules():
            if layer._state is None:
                raise StreamingError("there is a state only inside `with model.streaming(batch_size):`")
            state.update({f"{path}.{name}" if path else name: tensor for name, tensor in layer._state.items()})
        return state

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that :meth:`get_state` returned.

        Raises:
            StreamingError: outside :meth:`streaming`, or a tensor is missing, unknown or of another shape.
        """
        present = self.get_state()
        problems = [f"missing '{name}'" for name in present if name not in state]
        problems += [f"unknown '{name}'" for name in state if name not in present]
        problems += [
            f"'{name}' has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in present.items()
            if name in state and state[name].shape != tensor.shape
        ]
        if problems:
            raise StreamingError(f"this state belongs to another network or batch size: {'; '.join(problems[:3])}")
        for path, layer in self._streaming_modules():
            names = layer._state or {}
            layer._state = {name: state[f"{path}.{name}" if path else name].to(old) for name, old in names.items()}

    def _streaming_modules(self) -> Iterator[tuple[str, StreamingModule]]:
        for path, module in self.named_modules():
            if isinstance(module, StreamingModule):
                yield path, module
