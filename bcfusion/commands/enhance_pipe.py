"""``bcfusion enhance MODEL - --output -``: raw PCM or WAV in and out, as it arrives. All messages go to the stderr."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

from bcfusion.commands import USER_ERROR
from bcfusion.commands.shared.restored import peak_warning
from bcfusion.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bcfusion.inference.peaks import Level, Limiter, Samples

__all__ = ["restore_pipe"]

MOST_BYTES = 1 << 16  # taken at once: what a pipe holds
NAME = "the standard input"


def restore_pipe(
    generator: nn.Module, channels: Sequence[int] | None, arguments: argparse.Namespace, sink: BinaryIO
) -> int:
    """Restore what arrives at the standard input, and return the exit status.

    A network that streams answers with every frame that is complete. Others wait for a chunk and for what they need of
    the signal after it.

    Args:
        generator: in eval mode.
        channels: those of the sensors, counted from 0; None if the input has no others.
        arguments: the parsed command line.
        sink: the standard output. What is printed must go elsewhere.

    Raises:
        AudioError: the terminal in place of a pipe, samples that are not finite, or fewer channels than are asked for.
    """
    from bcfusion.contracts import Generator
    from bcfusion.inference.chunks import enhanced_chunks, is_streamable, streamed_blocks
    from bcfusion.inference.pcm import RAW_FORMATS, Arriving, decoded, resampled_blocks
    from bcfusion.inference.peaks import Level, Limiter
    from bcfusion.inference.wav_stream import opened_wav, wav_header

    spec = cast("Generator", generator)
    source = sys.stdin.buffer
    if source.isatty() or sink.isatty():
        raise AudioError("raw PCM is read from a pipe or a file, and written to one, not from and to a terminal")
    if arguments.peak == "scale":
        raise AudioError("--peak scale needs the whole signal: give limit, clip or keep in a pipe")
    needed = max(channels) + 1 if channels else spec.in_channels
    receive, missing = _receiver(source), lambda: 0
    if arguments.raw_format == "wav":
        wav = opened_wav(receive, NAME)
        how, count, rate, receive, missing = wav.how, wav.channels, wav.rate, wav.receive, wav.missing
    else:
        how = RAW_FORMATS[arguments.raw_format or "s16le"]
        count, rate = arguments.raw_channels or needed, arguments.raw_rate or spec.sample_rate
    peak = arguments.peak or ("keep" if how.is_float else "limit")
    if peak == "keep" and not how.is_float:
        raise AudioError(f"--peak keep: {how.name} cannot hold more than full scale; give --raw-format f32le")
    if count < needed or (channels is None and count > needed):
        given = (
            f"--raw-channels {count}" if arguments.raw_channels else f"{NAME} has {count} channel{'s' * (count > 1)}"
        )
        if channels:
            raise AudioError(f"{given}, and no channel {needed}")
        more = "; --channels NAME=N,... chooses among more" if count > needed else ""
        raise AudioError(f"{given}: the network takes {needed} channel{'s' * (needed > 1)}{more}")
    begun = time.perf_counter()
    arrived = decoded(receive, how, count, channels, NAME, _remark)
    signal = resampled_blocks(arrived, rate, spec.sample_rate)
    if is_streamable(generator):
        output = streamed_blocks(generator, signal, arguments.precision)
    else:
        arriving = Arriving(signal, spec.in_channels)
        output = enhanced_chunks(generator, arriving.read, arriving.end, arguments.chunk, arguments.precision)
    level, limiter = Level(), Limiter(spec.sample_rate) if peak == "limit" else None
    samples = 0
    if arguments.raw_format == "wav":
        sink.write(wav_header(how, spec.sample_rate))
    for block in _protected(output, level, limiter, spec.sample_rate):
        samples += len(block)
        sink.write(how.encode(block))
        sink.flush()
    sink.flush()
    seconds = samples / spec.sample_rate
    took = time.perf_counter() - begun
    print(f"{seconds:.1f} s of audio in {took:.1f} s, at {spec.sample_rate} Hz", file=sys.stderr)
    if level.overs:
        gain = 1.0 if limiter is None else limiter.gain
        print(peak_warning(level.overs, level.peak, gain, peak, keeping="--raw-format f32le"), file=sys.stderr)
    if lost := missing() / (how.size * count * rate):
        print(f"{NAME} is truncated: its header promises {lost:.3f} s more; what came is restored", file=sys.stderr)
        return USER_ERROR
    return 0


def _remark(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _receiver(source: BinaryIO) -> Callable[[], bytes]:
    read = source.read1 if isinstance(source, io.BufferedReader | io.BytesIO) else source.read
    return lambda: read(MOST_BYTES)  # at once what there is


def _protected(blocks: Iterable[Tensor], level: Level, limiter: Limiter | None, rate: int) -> Iterator[Samples]:
    """Yield the samples ``(n,)`` of blocks ``(1, n)``, measured, and lowered where they exceed full scale."""
    import numpy as np

    position = 0
    for block in blocks:
        samples = cast("Samples", block[0].numpy())
        if not np.isfinite(samples).all():
            raise AudioError(f"the model gave NaN after {position / rate:.3f} s")
        position += len(samples)
        level.add(samples)
        yield samples if limiter is None else limiter.push(samples)
    if limiter is not None:
        yield limiter.finish()
