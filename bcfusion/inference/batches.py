"""Several short recordings in one pass, each with the result that it has alone.

Recordings of different length are filled up by zeros. A causal network does not see them. Another one does, at the end
of the shorter recordings, unless it would have filled them up to the same whole frames by itself: only such recordings
meet in a batch. What is no network of bcfusion gets recordings of equal length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion import audio
from bcfusion.contracts import Generator
from bcfusion.errors import AudioError, BcfusionError
from bcfusion.inference.blend import Blend
from bcfusion.inference.chunks import chunk_samples
from bcfusion.inference.computing import computed
from bcfusion.inference.enhance import Enhanced, Manner, check_possible, enhance_recording, written
from bcfusion.inference.inputs import Signal, opened
from bcfusion.nn.network import WaveformNetwork
from bcfusion.probe import evaluating

__all__ = ["batches_of", "compute_batch", "enhance_batch", "padded_length"]

LONGEST_RATIO = 1.5  # of the longest to the shortest recording of a batch: what is computed of zeros is wasted


def padded_length(generator: nn.Module, samples: int) -> int:
    """Return a length that recordings in a batch must have in common; 0 if it does not matter.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        samples: of a recording.
    """
    network = generator.generator if isinstance(generator, Blend) else generator
    if not isinstance(network, WaveformNetwork):
        return samples
    if network.causal:
        return 0
    return samples + network.lookahead + -(samples + network.lookahead) % network.hop


def batches_of(
    generator: nn.Module, recordings: Sequence[tuple[Path, ...]], size: int, chunk_seconds: float
) -> list[list[int]]:
    """Return which recordings are computed together, as positions, in the order of the first of each.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        recordings: the files of each; those that cannot be opened, or are longer than a chunk, stay alone.
        size: recordings in a batch, at most.
        chunk_seconds: length of a chunk.
    """
    spec = cast("Generator", generator)
    alone: list[list[int]] = []
    alike: dict[int, list[tuple[int, int]]] = {}  # length in common to (length, position)
    for position, paths in enumerate(recordings):
        samples = _length(paths, spec.sample_rate) if size > 1 else None
        if samples is None or samples > chunk_samples(spec, chunk_seconds):
            alone.append([position])
        else:
            alike.setdefault(padded_length(generator, samples), []).append((samples, position))
    together: list[list[int]] = []
    for members in alike.values():
        shortest = 0
        batch: list[int] = []
        for samples, position in sorted(members):
            if not batch or len(batch) == size or samples > LONGEST_RATIO * shortest:
                batch, shortest = [], samples
                together.append(batch)
            batch.append(position)
    return sorted([*alone, *(sorted(batch) for batch in together)])


def compute_batch(generator: nn.Module, signals: Sequence[Tensor], precision: str = "fp32") -> list[Tensor]:
    """Return the outputs ``(1, T)`` of signals ``(S, T)`` that :func:`padded_length` allows in one batch."""
    longest = max(signal.shape[1] for signal in signals)
    filled = [torch.nn.functional.pad(signal, (0, longest - signal.shape[1])) for signal in signals]
    estimates = computed(generator, torch.stack(filled), precision)
    return [estimate[:, : signal.shape[1]] for estimate, signal in zip(estimates, signals, strict=True)]


def enhance_batch(
    generator: nn.Module, jobs: Sequence[tuple[tuple[Path, ...], Path]], manner: Manner
) -> Iterator[Enhanced | BcfusionError | OSError]:
    """Restore short recordings in one pass, and yield for each, in their order, the result or why there is none.

    A recording that is given alone may have any length: it is restored from disk to disk.

    Args:
        generator: from :func:`bcfusion.run.bundle.load_generator`.
        jobs: the sources and the target of each; :func:`batches_of` says which may be given together.
        manner: how they are computed and written.
    """
    for result in _alone(generator, *jobs[0], manner) if len(jobs) == 1 else _together(generator, jobs, manner):
        if isinstance(result, torch.OutOfMemoryError):
            chunk = f"--chunk {manner.chunk_seconds:g} and --batch {len(jobs)}"
            error = AudioError(f"the GPU is out of memory with {chunk}; give less of either")
            error.__cause__ = result
            yield error
        else:
            yield result


_Result = Enhanced | BcfusionError | OSError | torch.OutOfMemoryError


def _alone(generator: nn.Module, paths: tuple[Path, ...], target: Path, manner: Manner) -> Iterator[_Result]:
    try:
        yield enhance_recording(generator, paths, target, manner)
    except (BcfusionError, OSError, torch.OutOfMemoryError) as error:
        yield error


def _together(generator: nn.Module, jobs: Sequence[tuple[tuple[Path, ...], Path]], manner: Manner) -> Iterator[_Result]:
    faults: dict[int, BcfusionError | OSError | torch.OutOfMemoryError] = {}
    signals: dict[int, tuple[Signal, Tensor]] = {}
    for position, (paths, target) in enumerate(jobs):
        try:
            check_possible(generator, target, manner)
            with ExitStack() as stack:
                signal = stack.enter_context(opened(generator, paths, manner.resample, manner.channels))
                signals[position] = (signal, signal.read(0, signal.total))
        except (BcfusionError, OSError) as error:
            faults[position] = error
    outputs: dict[int, Tensor] = {}
    if signals:
        try:
            with evaluating(generator):
                estimates = compute_batch(generator, [samples for _, samples in signals.values()], manner.precision)
            outputs = dict(zip(signals, estimates, strict=True))
        except torch.OutOfMemoryError as error:
            faults.update(dict.fromkeys(signals, error))
    for position, (_, target) in enumerate(jobs):
        if position in faults:
            yield faults[position]
            continue
        try:
            yield written(generator, signals[position][0], iter([outputs[position]]), target, manner)
        except (BcfusionError, OSError) as error:
            yield error


def _length(paths: Sequence[Path], rate: int) -> int | None:
    """Return the samples of a recording at a rate, by the headers of its files; None if one cannot be opened."""
    try:
        headers = [audio.info(path) for path in paths]
    except AudioError:
        return None
    return min(audio.RateChange(header.sample_rate, rate).length(header.frames) for header in headers)
