"""Restore signals and recordings of any length with a trained generator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion import audio
from bcfusion.contracts import SENSORS_END_WITHIN, Generator
from bcfusion.errors import AudioError
from bcfusion.inference.chunks import enhanced_chunks
from bcfusion.inference.recordings import Recording, check_writable, format_of, other_rate, write_blocks
from bcfusion.probe import evaluating
from bcfusion.run.bundle import bundle_of

__all__ = ["Enhanced", "enhance_file", "enhance_signal", "misfits"]


@dataclass(frozen=True)
class Enhanced:
    """The result for one recording.

    Attributes:
        sources: the files it was read from.
        target: the file written.
        seconds: length of the audio.
        overs: number of output samples that exceed full scale; the PCM subtypes clip them.
        peak: the largest magnitude of the output; full scale is 1.
        cut: seconds by which the longest sensor exceeds the shortest, whose length the output has.
        remarks: what is special about the length of a source, with its path: a header that does not state it, or an end
            that is missing.
    """

    sources: tuple[Path, ...]
    target: Path
    seconds: float
    overs: int
    peak: float
    cut: float = 0.0
    remarks: tuple[str, ...] = ()


def enhance_signal(generator: nn.Module, inputs: Tensor, chunk_seconds: float = 10.0) -> Tensor:
    """Restore one signal; see :mod:`bcfusion.inference.chunks` for how the chunks are joined.

    Args:
        generator: from :func:`bcfusion.run.bundle.load_generator`, or any that fulfils
            :class:`bcfusion.contracts.Generator` (its receptive field is then measured first if the signal is longer
            than a chunk).
        inputs: ``(S, T)`` at the generator's sample rate, T at least 1.
        chunk_seconds: how much is computed at once; memory grows with it.

    Returns:
        ``(1, T)`` on the device of ``inputs``.

    Raises:
        AudioError: another number of sensors, no samples, or samples that are not finite.

    Example:
        >>> import torch
        >>> from bcfusion.generators.seanet import SEANet
        >>> from bcfusion.inference.enhance import enhance_signal
        >>> generator = SEANet(channels=2, strides=[2, 4], dilations=[1], bottleneck_channels=4).eval()
        >>> signal = 0.1 * torch.randn(1, 20_000)  # one sensor
        >>> enhanced = enhance_signal(generator, signal, chunk_seconds=0.5)
        >>> torch.allclose(enhanced, generator(signal[None])[0], atol=1e-5)  # in chunks as in one pass
        True
    """
    spec = cast("Generator", generator)
    if inputs.ndim != 2 or inputs.shape[0] != spec.in_channels or inputs.shape[1] == 0:
        raise AudioError(f"the signal has shape {tuple(inputs.shape)}, the model takes ({spec.in_channels}, T)")
    if not torch.isfinite(inputs).all():
        raise AudioError("the signal holds NaN or infinite samples")
    total = inputs.shape[1]
    with evaluating(generator):
        blocks = list(enhanced_chunks(generator, lambda start, stop: inputs[:, start:stop], total, chunk_seconds))
    return torch.cat(blocks, dim=1).to(inputs.device)


def enhance_file(
    generator: nn.Module,
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    *,
    chunk_seconds: float = 10.0,
    resample: bool = True,
    subtype: str = "PCM_16",
) -> Enhanced:
    """Restore one recording, block by block from disk to disk; the target appears whole or not at all.

    Args:
        generator: from :func:`bcfusion.run.bundle.load_generator`.
        source: one file with a channel for each sensor, or a mono file for each sensor, in their order.
        target: ``.wav`` or ``.flac`` file to write, mono, at the generator's sample rate; an existing one is replaced.
        chunk_seconds: how much is computed at once; memory grows with it, not with the length of the file.
        resample: whether recordings of another rate are converted; otherwise they are refused.
        subtype: ``PCM_16``, ``PCM_24`` (both clip at full scale; clipped samples are counted) or ``FLOAT`` (does not
            clip).

    Raises:
        AudioError: a file is missing, unreadable, truncated, holds NaN, or has another number of channels, another rate
            (with ``resample`` off), or an end more than :data:`~bcfusion.contracts.SENSORS_END_WITHIN` from that of its
            companions; or the target cannot be written (its cause is then a :class:`~bcfusion.errors.WriteError`).
    """
    spec = cast("Generator", generator)
    sources = (source,) if isinstance(source, (str, os.PathLike)) else tuple(source)
    paths, out = tuple(Path(name) for name in sources), Path(target)
    check_writable(out, subtype)
    with ExitStack() as stack:
        recordings = [stack.enter_context(Recording(path, spec.sample_rate, resample)) for path in paths]
        _check_channels(generator, recordings)
        shortest = min(recordings, key=lambda recording: recording.total)
        longest = max(recordings, key=lambda recording: recording.total)
        total = shortest.total
        cut = (longest.total - total) / spec.sample_rate
        if cut > SENSORS_END_WITHIN:
            raise AudioError(
                f"{longest.path} ({longest.total / spec.sample_rate:.3f} s) and {shortest.path} "
                f"({total / spec.sample_rate:.3f} s) differ in length by more than {SENSORS_END_WITHIN:g} s: "
                "sensors must be recorded together"
            )

        def read(start: int, stop: int) -> Tensor:
            return torch.cat([recording.read(start, stop) for recording in recordings])

        stack.enter_context(evaluating(generator))
        blocks = enhanced_chunks(generator, read, total, chunk_seconds)
        overs, peak = write_blocks(blocks, out, spec.sample_rate, total, subtype)
    remarks = tuple(f"{recording.path}: {recording.remark}" for recording in recordings if recording.remark)
    return Enhanced(paths, out, total / spec.sample_rate, overs, peak, cut, remarks)


def misfits(
    generator: nn.Module, recordings: Sequence[tuple[Path, ...]], resample: bool = True
) -> dict[tuple[Path, ...], tuple[Path, str]]:
    """Return the recordings whose channels or sample rate a generator does not take, by their headers alone.

    Args:
        generator: as for :func:`enhance_file`.
        recordings: the sources of each.
        resample: whether recordings of another rate are converted.

    Returns:
        Sources to the file that is wrong, and what is wrong with it, as the end of a sentence. Files that cannot be
        opened are not among them: :func:`enhance_file` reports why.
    """
    rate = cast("Generator", generator).sample_rate
    faults: dict[tuple[Path, ...], tuple[Path, str]] = {}
    for sources in recordings:
        formats = [found for found in map(format_of, sources) if found is not None]
        if len(formats) < len(sources):
            continue
        if fault := _wrong_channels(generator, [channels for channels, _ in formats]):
            faults[sources] = (sources[fault[0]], fault[1])
        elif not resample and (others := [place for place, (_, own) in enumerate(formats) if own != rate]):
            faults[sources] = (sources[others[0]], other_rate(formats[others[0]][1], rate))
    return faults


def _check_channels(generator: nn.Module, recordings: list[Recording]) -> None:
    fault = _wrong_channels(generator, [recording.channels for recording in recordings])
    if fault is not None:
        raise audio.AudioFormatError(f"{recordings[fault[0]].path} {fault[1]}")


def _wrong_channels(generator: nn.Module, channels: Sequence[int]) -> tuple[int, str] | None:
    """Return which of the sources has a wrong number of channels, and what is wrong with it; None if all are right."""
    bundle = bundle_of(generator)
    count = cast("Generator", generator).in_channels
    sensors = f" ({', '.join(bundle.sensors)})" if bundle else ""
    if len(channels) not in (1, count):
        files = f"{len(channels)} files for a model of {count} sensors{sensors}"
        raise AudioError(f"{files}: give one for each, or one for all")
    expected = count if len(channels) == 1 else 1
    wrong = next((place for place, own in enumerate(channels) if own != expected), None)
    if wrong is None:
        return None
    plural = "s" if channels[wrong] > 1 else ""
    wanted = f"{expected} in one file{sensors}" if len(channels) == 1 else "a mono file for each sensor"
    separate = ", or --sensor NAME=FOLDER for each" if len(channels) == 1 and count > 1 else ""
    return wrong, f"has {channels[wrong]} channel{plural}, the model takes {wanted}{separate}"
