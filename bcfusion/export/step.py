"""A network as a pure function of tensors, which is what a graph can hold."""

from __future__ import annotations

import copy
import math
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.errors import ConfigError, ExportError
from bcfusion.export.metadata import PACKED, StateTensor
from bcfusion.inference.blend import Blend
from bcfusion.nn.conv import remove_weight_norm
from bcfusion.nn.network import WaveformNetwork, estimate_of, usual_frame
from bcfusion.nn.streaming import StreamingModule

__all__ = ["StreamingStep", "WholeFile", "WholeFrames", "frame_of", "ready"]


@runtime_checkable
class Mergeable(Protocol):
    """A module that can make one layer of several."""

    def merge_layers(self) -> None:
        """Do so in place, once and for all; the module computes the same, but for rounding."""
        ...


def ready(generator: nn.Module) -> nn.Module:
    """Return a copy of a network for export: on the CPU, in float32 and eval mode, without weight norm.

    Modules of ours that have a method ``merge_layers`` make one layer of several, which computes the same.
    """
    own = remove_weight_norm(copy.deepcopy(generator).cpu().float()).eval()
    for module in list(own.modules()):
        if isinstance(module, Mergeable):
            module.merge_layers()
    return own


def frame_of(generator: nn.Module, frame: int | None) -> int:
    """Return the samples of a step; for None see :func:`bcfusion.nn.network.usual_frame`.

    Raises:
        ConfigError: ``frame`` is no multiple of the hop.
        ExportError: the network is not causal.
    """
    spec = cast("Generator", generator)
    if not spec.causal or not isinstance(generator, StreamingModule):
        name = type(generator).__name__
        raise ExportError(f"{name} is not causal and cannot stream: export it as a graph for whole files (--whole)")
    size = usual_frame(spec) if frame is None else frame
    if size < 1 or size % spec.hop:
        raise ConfigError([f"a frame of {size} samples is not a multiple of the network's hop, {spec.hop} samples"])
    return size


class StreamingStep(nn.Module):
    """One step of a stream: ``(x, *state) -> (y, *next state)``, all float32.

    ``x`` is ``(1, S, frame)``, ``y`` is ``(1, 1, frame)``. The state is that of :meth:`StreamingModule.get_state`, in
    its order. It starts from zeros: a tensor of the network that starts from something else is stored as the difference
    to it.

    Args:
        generator: a causal network, see :func:`ready`.
        packed: whether the whole state is one vector ``(1, N)``.

    Attributes:
        states: the inputs after ``x``.

    Raises:
        StreamingError: a layer is not causal; it is named.
    """

    def __init__(self, generator: nn.Module, packed: bool = False) -> None:
        super().__init__()
        self.generator = cast("StreamingModule", generator)
        with torch.no_grad(), self.generator.streaming(1):
            start = self.generator.get_state()
        self.names = list(start)
        self.tensors = tuple(StateTensor(name, tuple(tensor.shape)) for name, tensor in start.items())
        self.sizes = [math.prod(tensor.shape) for tensor in self.tensors]
        self.packed = packed and bool(start)
        self.states = (StateTensor(PACKED, (1, sum(self.sizes))),) if self.packed else self.tensors
        self.offsets = {name: tensor.clone().float() for name, tensor in start.items() if bool(tensor.any())}

    def zeros(self) -> tuple[Tensor, ...]:
        """Return the state before the first step."""
        return tuple(torch.zeros(state.shape) for state in self.states)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        if self.packed:
            parts = state[0][0].split(self.sizes)
            state = tuple(part.reshape(tensor.shape) for part, tensor in zip(parts, self.tensors, strict=True))
        with self.generator.streaming(1):
            before = dict(zip(self.names, state, strict=True))
            self.generator.set_state({name: self._shifted(name, tensor, 1) for name, tensor in before.items()})
            y = estimate_of(self.generator(x))
            after = [self._shifted(name, tensor.float(), -1) for name, tensor in self.generator.get_state().items()]
        if self.packed:
            after = [torch.cat([tensor.flatten() for tensor in after]).unsqueeze(0)]
        return y, *after

    def _shifted(self, name: str, tensor: Tensor, sign: int) -> Tensor:
        return tensor + sign * self.offsets[name] if name in self.offsets else tensor


class WholeFile(nn.Module):
    """A network that returns the waveform alone: ``(1, S, T)`` to ``(1, 1, T)``.

    Args:
        generator: see :func:`ready`.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        return estimate_of(self.generator(x))


class WholeFrames(nn.Module):
    """The body of a network: whole frames ``(1, S, n, hop)`` to a waveform ``(1, 1, n hop)``, late by ``lookahead``.

    Sizes are multiples of the number of frames, which a graph of any length has to know: of a length T that is padded
    to whole frames it could not prove that they fit.

    Args:
        generator: see :func:`ready`; a :class:`~bcfusion.nn.network.WaveformNetwork`, or a blend of one.

    Attributes:
        hop: of the network.
        lookahead: likewise, whether it is causal or not.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        inner = generator.generator if isinstance(generator, Blend) else generator
        assert isinstance(inner, WaveformNetwork)
        self.generator, self.blend = inner, generator if isinstance(generator, Blend) else None
        self.hop, self.lookahead = inner.hop, inner.lookahead

    @staticmethod
    def suits(generator: nn.Module) -> bool:
        """Return whether a network has a body."""
        return isinstance(generator.generator if isinstance(generator, Blend) else generator, WaveformNetwork)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.flatten(2)
        y = estimate_of(self.generator.run(x))
        if self.blend is None:
            return y
        sensor = x[:, self.blend.skip_channel : self.blend.skip_channel + 1]
        late = F.pad(sensor, (self.lookahead, 0))[..., : x.shape[-1]]
        return self.blend.share * late + (1 - self.blend.share) * y
