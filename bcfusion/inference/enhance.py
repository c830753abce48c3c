"""Restore signals and recordings of any length with a trained generator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.errors import AudioError
from bcfusion.inference.chunks import Joined, enhanced_chunks, how_joined
from bcfusion.inference.computing import check_precision
from bcfusion.inference.containers import OutputFormat, check_rate, format_of_name, output_format
from bcfusion.inference.inputs import Signal, misfits, opened
from bcfusion.inference.writing import check_peak, write_blocks
from bcfusion.probe import device_of, evaluating

__all__ = [
    "Enhanced",
    "Manner",
    "check_possible",
    "enhance_file",
    "enhance_recording",
    "enhance_signal",
    "misfits",
    "written",
]


@dataclass(frozen=True)
class Enhanced:
    """The result for one recording.

    Attributes:
        sources: the files it was read from.
        target: the file written.
        seconds: length of the audio.
        overs: number of samples of the network's output that exceed full scale; ``gain`` and ``manner.peak`` tell what
            was done about them.
        peak: the largest magnitude of the network's output; full scale is 1.
        cut: seconds by which the longest sensor exceeds the shortest, whose length the output has.
        remarks: what is special about the length of a source, with its path: a header that does not state it, or an end
            that is missing.
        rate: of the target, in Hz.
        gain: by what the whole file was multiplied (``scale``), or the smallest gain in it (``limit``).
        joined: how the output was put together: in one pass (``whole``), or as a ``streamed`` signal or in chunks that
            equal it (``exact``), or in chunks that were ``cross-faded``, which come close to it.
    """

    sources: tuple[Path, ...]
    target: Path
    seconds: float
    overs: int
    peak: float
    cut: float = 0.0
    remarks: tuple[str, ...] = ()
    rate: int = 0
    gain: float = 1.0
    joined: Joined = "whole"


@dataclass(frozen=True)
class Manner:
    """How recordings are computed and written.

    Attributes:
        chunk_seconds: how much is computed at once; memory grows with it, not with the length of the file.
        resample: whether recordings of another rate are converted; otherwise they are refused.
        container: libsndfile's name of the format; None for what the name of the target ends in.
        subtype: libsndfile's name of the sample format; None for the usual one of the container.
        peak: what is done to samples beyond full scale: ``keep`` them (FLOAT and DOUBLE only), ``scale`` the whole file
            down so that its peak is full scale, ``limit`` their surroundings by a smooth gain, or ``clip`` them, which
            distorts; None for ``keep`` where it is possible, else ``scale``.
        channels: of one file for all sensors, those of the sensors, counted from 0; None if it has no others.
        precision: ``fp32``, or ``bf16`` for mixed precision.
    """

    chunk_seconds: float = 10.0
    resample: bool = True
    container: str | None = None
    subtype: str | None = None
    peak: str | None = None
    channels: tuple[int, ...] | None = None
    precision: str = "fp32"

    def format_for(self, target: Path) -> OutputFormat:
        """Return container and sample format of a target; raises an :class:`~bcfusion.errors.AudioError` if none."""
        if self.container is None:
            return format_of_name(target, self.subtype)
        return output_format(self.container, self.subtype)


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
    subtype: str | None = None,
    peak: str | None = None,
    channels: Sequence[int] | None = None,
    precision: str = "fp32",
    container: str | None = None,
) -> Enhanced:
    """Restore one recording, block by block from disk to disk; the target appears whole or not at all.

    Args:
        generator: from :func:`bcfusion.run.bundle.load_generator`.
        source: one file with a channel for each sensor, or a mono file for each sensor, in their order.
        target: file to write, mono, at the generator's sample rate; an existing one is replaced.
        chunk_seconds: see :class:`Manner`; likewise all others.

    Raises:
        AudioError: a file is missing, unreadable, truncated, holds NaN, or has another number of channels, another rate
            (with ``resample`` off), or an end more than :data:`~bcfusion.contracts.SENSORS_END_WITHIN` from that of its
            companions; or the target cannot be written, or not so (if the disk is at fault, the cause is a
            :class:`~bcfusion.errors.WriteError`).
        BcfusionError: the device does not compute in that precision.
    """
    sources = (source,) if isinstance(source, (str, os.PathLike)) else tuple(source)
    picked = None if channels is None else tuple(channels)
    manner = Manner(chunk_seconds, resample, container, subtype, peak, picked, precision)
    return enhance_recording(generator, tuple(Path(name) for name in sources), Path(target), manner)


def enhance_recording(generator: nn.Module, sources: Sequence[Path], target: Path, manner: Manner) -> Enhanced:
    """Restore one recording as :func:`enhance_file` does, with what is wanted of it in one object.

    Raises:
        AudioError: see :func:`enhance_file`.
        BcfusionError: likewise.
    """
    check_possible(generator, target, manner)
    with opened(generator, sources, manner.resample, manner.channels) as signal, evaluating(generator):
        blocks = enhanced_chunks(generator, signal.read, signal.total, manner.chunk_seconds, manner.precision)
        with closing(blocks):  # a stream ends even if what it gives cannot be written
            return written(generator, signal, blocks, target, manner)


def check_possible(generator: nn.Module, target: Path, manner: Manner) -> None:
    """Refuse what cannot be computed or written, before anything is.

    Raises:
        AudioError: see :func:`enhance_file`.
        BcfusionError: likewise.
    """
    how = manner.format_for(target)
    check_rate(how, cast("Generator", generator).sample_rate)
    check_peak(manner.peak, how)
    check_precision(manner.precision, device_of(generator))


def written(generator: nn.Module, signal: Signal, blocks: Iterator[Tensor], target: Path, manner: Manner) -> Enhanced:
    """Write the output of a generator for a signal, blocks ``(1, n)``, and say what was written.

    Raises:
        AudioError: see :func:`enhance_file`.
    """
    rate = cast("Generator", generator).sample_rate
    done = write_blocks(blocks, target, rate, signal.total, manner.format_for(target), manner.peak)
    return Enhanced(
        sources=tuple(recording.path for recording in signal.recordings),
        target=target,
        seconds=signal.total / rate,
        overs=done.overs,
        peak=done.peak,
        cut=signal.cut,
        remarks=signal.remarks,
        rate=rate,
        gain=done.gain,
        joined=how_joined(generator, signal.total, manner.chunk_seconds),
    )
