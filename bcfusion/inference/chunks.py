"""A generator over a signal of any length, chunk by chunk, in bounded memory.

The signal is cut into chunks of whole frames. Each is computed together with as much of its surroundings as the
network's receptive field demands, and the output of the surroundings is dropped: the chunks together equal one pass
over the whole signal. A network whose receptive field has no bound (recurrence) streams if it is causal, with the same
result. One that needs the whole file gets a second of surroundings, and neighbouring chunks are cross-faded: close to
one pass, but not equal to it. The length of the signal need not be known before its end.
"""

from __future__ import annotations

import collections.abc
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, cast

import torch
from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.inference.computing import computed
from bcfusion.nn.network import from_position, lookahead_of
from bcfusion.nn.streaming import StreamingModule
from bcfusion.probe import receptive_field
from bcfusion.run.bundle import bundle_of

__all__ = [
    "Joined",
    "chunk_samples",
    "enhanced_chunks",
    "how_joined",
    "is_streamable",
    "measured_once",
    "streamed_blocks",
]

Blocks = collections.abc.Generator[Tensor, None, None]

UNBOUNDED_CONTEXT_SECONDS = 1.0  # on either side, if the receptive field has no bound
CROSS_FADE_SECONDS = 0.25

#: how the output of a signal is put together: one pass; chunks or a stream that equal one pass; or chunks that do not
Joined = Literal["whole", "exact", "streamed", "cross-faded"]


_measured: ContextVar[dict[nn.Module, tuple[int, int] | None] | None] = ContextVar("_measured", default=None)


@contextmanager
def measured_once() -> Iterator[None]:
    """Measure the receptive field of a network without a bundle once, not for each signal.

    What is measured depends on the weights: leave the context before they change.
    """
    token = _measured.set({})
    try:
        yield
    finally:
        _measured.reset(token)


def enhanced_chunks(
    generator: nn.Module,
    read: Callable[[int, int], Tensor],
    total: int | Callable[[int], int],
    chunk_seconds: float,
    precision: str = "fp32",
) -> Blocks:
    """Yield the output ``(1, total)`` of a generator in eval mode, in consecutive blocks ``(1, n)`` on the CPU.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        read: returns the samples from ``start`` to ``stop`` of all sensors, ``(S, stop - start)``; neither argument
            ever decreases from call to call.
        total: number of samples of the signal; or, if it is not known yet, a function that takes a position and returns
            the smaller one of it and the number of samples, once so many samples or the end have arrived.
        chunk_seconds: length of a chunk, rounded to whole frames.
        precision: see :func:`bcfusion.inference.computing.computed`.
    """
    spec = cast("Generator", generator)
    end = total if callable(total) else lambda position: min(position, total)
    chunk = chunk_samples(spec, chunk_seconds)
    is_long = end(chunk + 1) > chunk
    field = _receptive_field(generator) if is_long else (0, 0)
    if field is None and is_streamable(generator):
        yield from streamed_blocks(generator, _in_blocks(read, end, chunk), precision)
        return
    left, right, fade = _surroundings(field, spec, chunk)
    tail: Tensor | None = None
    position = 0
    while (stop := end(position + chunk)) > position:
        reach = end(stop + fade)
        begin, last = max(0, position - left), end(reach + right)
        with from_position(generator, begin):
            estimate = computed(generator, read(begin, last)[None], precision)
        block = estimate[0, :, position - begin : reach - begin]
        if tail is not None and tail.shape[1] > 0:
            ramp = (torch.arange(tail.shape[1]) + 0.5) / tail.shape[1]
            block = torch.cat([torch.lerp(tail, block[:, : tail.shape[1]], ramp), block[:, tail.shape[1] :]], dim=1)
        yield block[:, : stop - position]
        tail = block[:, stop - position :]
        position = stop


def streamed_blocks(generator: nn.Module, blocks: Iterable[Tensor], precision: str = "fp32") -> Iterator[Tensor]:
    """Yield the output of a network that streams, as far as the blocks that have arrived allow.

    Args:
        generator: see :func:`is_streamable`.
        blocks: ``(S, n)``, consecutive, of any n.
        precision: see :func:`bcfusion.inference.computing.computed`.

    Yields:
        Blocks ``(1, n)`` on the CPU, together as long as the input and aligned with it: the look-ahead is cut off from
        the start, and zeros push the rest out at the end.
    """
    spec = cast("Generator", generator)
    late = lookahead_of(spec)
    waiting: Tensor | None = None  # on the device of the blocks
    taken, given, early = 0, 0, late  # samples; the last of what is still to be cut off
    with cast("StreamingModule", generator).streaming(1):
        for block in blocks:
            taken += block.shape[1]
            waiting = block if waiting is None else torch.cat([waiting, block], dim=1)
            whole = waiting.shape[1] // spec.hop * spec.hop
            if not whole:
                continue
            estimate = computed(generator, waiting[None, :, :whole], precision)[0]
            waiting = waiting[:, whole:].clone()  # not a view that keeps the block
            estimate, early = estimate[:, early:], max(0, early - whole)
            given += estimate.shape[1]
            if estimate.shape[1]:
                yield estimate
        if waiting is not None and given < taken:
            frames = torch.nn.functional.pad(waiting, (0, late + -(taken + late) % spec.hop))
            yield computed(generator, frames[None], precision)[0, :, early : early + taken - given]


def is_streamable(generator: nn.Module) -> bool:
    """Return whether a generator takes a signal as a stream: it is causal, and made of layers that keep a state."""
    spec = cast("Generator", generator)
    return isinstance(generator, StreamingModule) and generator.causal and spec.delay is not None


def chunk_samples(spec: Generator, chunk_seconds: float) -> int:
    """Return the length of a chunk, in samples: whole frames, at least one."""
    return max(1, round(chunk_seconds * spec.sample_rate / spec.hop)) * spec.hop


def how_joined(generator: nn.Module, total: int, chunk_seconds: float) -> Joined:
    """Return how :func:`enhanced_chunks` puts the output of ``total`` samples together."""
    if total <= chunk_samples(cast("Generator", generator), chunk_seconds):
        return "whole"
    if _receptive_field(generator) is not None:
        return "exact"
    return "streamed" if is_streamable(generator) else "cross-faded"


def _in_blocks(read: Callable[[int, int], Tensor], end: Callable[[int], int], chunk: int) -> Iterator[Tensor]:
    position = 0
    while (stop := end(position + chunk)) > position:
        yield read(position, stop)
        position = stop


def _receptive_field(generator: nn.Module) -> tuple[int, int] | None:
    if (bundle := bundle_of(generator)) is not None:
        return bundle.receptive_field
    if (known := _measured.get()) is None:
        return receptive_field(generator)
    if generator not in known:
        known[generator] = receptive_field(generator)
    return known[generator]


def _surroundings(field: tuple[int, int] | None, spec: Generator, chunk: int) -> tuple[int, int, int]:
    """Return how many samples to compute before and after a chunk and to cross-fade; all are whole frames."""

    def frames(samples: float) -> int:
        return math.ceil(samples / spec.hop) * spec.hop

    if field is not None:
        return frames(field[0]), frames(field[1]), 0
    around = frames(UNBOUNDED_CONTEXT_SECONDS * spec.sample_rate)
    return around, around, min(frames(CROSS_FADE_SECONDS * spec.sample_rate), chunk)
