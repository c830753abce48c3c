"""A generator over a signal of any length, chunk by chunk, in bounded memory.

The signal is cut into chunks of whole frames. Each is computed together with as much of its surroundings as the
network's receptive field demands, and the output of the surroundings is dropped: the chunks together equal one pass
over the whole signal. A network whose receptive field has no bound (recurrence) streams if it is causal, with the same
result. One that needs the whole file gets a second of surroundings, and neighbouring chunks are cross-faded: close to
one pass, but not equal to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.nn.network import WaveformNetwork, estimate_of
from bcfusion.probe import device_of, receptive_field
from bcfusion.run.bundle import bundle_of

__all__ = ["enhanced_chunks"]

UNBOUNDED_CONTEXT_SECONDS = 1.0  # on either side, if the receptive field has no bound
CROSS_FADE_SECONDS = 0.25


def enhanced_chunks(
    generator: nn.Module, read: Callable[[int, int], Tensor], total: int, chunk_seconds: float
) -> Iterator[Tensor]:
    """Yield the output ``(1, total)`` of a generator in eval mode, in consecutive blocks ``(1, n)`` on the CPU.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        read: returns the samples from ``start`` to ``stop`` of all sensors, ``(S, stop - start)``; neither argument
            ever decreases from call to call.
        total: number of samples of the signal.
        chunk_seconds: length of a chunk, rounded to whole frames.
    """
    spec = cast("Generator", generator)
    device = device_of(generator)
    chunk = max(1, round(chunk_seconds * spec.sample_rate / spec.hop)) * spec.hop
    field = _receptive_field(generator) if total > chunk else (0, 0)
    if field is None and isinstance(generator, WaveformNetwork) and generator.causal:
        yield from _streamed(generator, read, total, chunk, device)
        return
    left, right, fade = _surroundings(field, spec, chunk)
    tail: Tensor | None = None
    position = 0
    while position < total:
        stop = min(position + chunk, total)
        reach = min(stop + fade, total)
        begin, end = max(0, position - left), min(total, reach + right)
        with torch.inference_mode():
            estimate = estimate_of(generator(read(begin, end)[None].to(device)))
        if estimate.shape != (1, 1, end - begin):
            raise ValueError(f"{type(generator).__name__} made {tuple(estimate.shape)} of {end - begin} samples")
        block = estimate[0, :, position - begin : reach - begin].float().cpu()
        if tail is not None and tail.shape[1] > 0:
            ramp = (torch.arange(tail.shape[1]) + 0.5) / tail.shape[1]
            block = torch.cat([torch.lerp(tail, block[:, : tail.shape[1]], ramp), block[:, tail.shape[1] :]], dim=1)
        yield block[:, : stop - position]
        tail = block[:, stop - position :]
        position = stop


def _streamed(
    network: WaveformNetwork, read: Callable[[int, int], Tensor], total: int, chunk: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield the blocks of a causal network that keeps its state; its look-ahead is cut off from the start."""
    late = network.lookahead
    with torch.inference_mode(), network.streaming(1):
        for position in range(0, total + late, chunk):
            begin, end = min(position, total), min(position + chunk, total)
            signal = read(begin, end) if end > begin else torch.zeros(network.in_channels, 0)
            flush = min(position + chunk, total + late) - position - signal.shape[1]  # zeros that push the rest out
            frames = torch.nn.functional.pad(signal, (0, flush + -(signal.shape[1] + flush) % network.hop))
            estimate = estimate_of(network(frames[None].to(device)))
            block = estimate[0, :, : min(position + chunk, total + late) - position].float().cpu()
            if position + block.shape[1] > late:
                yield block[:, max(0, late - position) :]


def _receptive_field(generator: nn.Module) -> tuple[int, int] | None:
    bundle = bundle_of(generator)
    return receptive_field(generator) if bundle is None else bundle.receptive_field


def _surroundings(field: tuple[int, int] | None, spec: Generator, chunk: int) -> tuple[int, int, int]:
    """Return how many samples to compute before and after a chunk and to cross-fade; all are whole frames."""

    def frames(samples: float) -> int:
        return math.ceil(samples / spec.hop) * spec.hop

    if field is not None:
        return frames(field[0]), frames(field[1]), 0
    around = frames(UNBOUNDED_CONTEXT_SECONDS * spec.sample_rate)
    return around, around, min(frames(CROSS_FADE_SECONDS * spec.sample_rate), chunk)
