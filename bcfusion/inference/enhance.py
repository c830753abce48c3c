"""A trained generator over signals and files of any length, in bounded memory.

The signal is cut into chunks that begin at whole frames. Each is computed together with as much of its surroundings as
the network's receptive field asks for, and the surroundings are thrown away: the chunks together equal one pass over
the whole signal. A network whose receptive field has no bound (recurrence) streams, if it is causal, with the same
result; one that hears the whole file gets a second of surroundings, and neighbouring chunks are cross-faded: close to
one pass, not equal to it.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from bcfusion import audio
from bcfusion.contracts import Generator
from bcfusion.errors import AudioError
from bcfusion.nn.network import WaveformNetwork, estimate_of
from bcfusion.probe import device_of, evaluating, receptive_field
from bcfusion.run.bundle import bundle_of

__all__ = ["Enhanced", "enhance_file", "enhance_signal"]

SUBTYPES = ("PCM_16", "PCM_24", "FLOAT")
FORMATS = {".wav": "WAV", ".flac": "FLAC"}
UNBOUNDED_CONTEXT_SECONDS = 1.0  # to either side, where the receptive field has no end
CROSS_FADE_SECONDS = 0.25
BYTES = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}
WAV_LIMIT = 4_294_900_000  # bytes that the 32-bit sizes of a plain WAV can hold


@dataclass(frozen=True)
class Enhanced:
    """What became of one recording.

    Attributes:
        sources: the files it was read from. target: the file written.
        seconds: of audio.
        overs: output samples beyond full scale, clipped by the PCM subtypes.
        peak: the largest magnitude of the output; full scale is 1.
    """

    sources: tuple[Path, ...]
    target: Path
    seconds: float
    overs: int
    peak: float


def enhance_signal(generator: nn.Module, inputs: Tensor, chunk_seconds: float = 10.0) -> Tensor:
    """Restore one signal.

    Args:
        generator: of :func:`bcfusion.run.bundle.load_generator`, or any that fulfils the contract (its receptive
            field is then measured first, where the signal is longer than a chunk).
        inputs: ``(S, T)`` at the generator's sample rate, any T of at least one sample.
        chunk_seconds: what is computed at once; memory grows with it.

    Returns:
        ``(1, T)`` on the device of ``inputs``.

    Raises:
        AudioError: another number of sensors, no samples, or samples that are not finite.
    """
    spec = cast("Generator", generator)
    if inputs.ndim != 2 or inputs.shape[0] != spec.in_channels or inputs.shape[1] == 0:
        raise AudioError(f"the signal has shape {tuple(inputs.shape)}, the model takes ({spec.in_channels}, T)")
    if not torch.isfinite(inputs).all():
        raise AudioError("the signal holds NaN or infinite samples")
    total = inputs.shape[1]
    with evaluating(generator):
        blocks = list(_blocks(generator, lambda start, stop: inputs[:, start:stop], total, chunk_seconds))
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
        generator: of :func:`bcfusion.run.bundle.load_generator`.
        source: one file with a channel for each sensor, or a mono file for each sensor, in their order.
        target: ``.wav`` or ``.flac`` to write, mono, at the generator's sample rate; replaced where it exists.
        chunk_seconds: what is computed at once; memory grows with it, not with the length of the file.
        resample: convert recordings of another rate; otherwise they are refused.
        subtype: ``PCM_16``, ``PCM_24`` (both clip at full scale, which is counted) or ``FLOAT`` (does not clip).

    Raises:
        AudioError: a file is missing, unreadable, truncated, holds NaN, has another number of channels, another rate
            (``resample`` off) or another length than its companion; or the target cannot be written.
    """
    spec = cast("Generator", generator)
    sources = (source,) if isinstance(source, (str, os.PathLike)) else tuple(source)
    paths, out = tuple(Path(name) for name in sources), Path(target)
    if out.suffix.lower() not in FORMATS or not soundfile.check_format(FORMATS[out.suffix.lower()], subtype):
        raise AudioError(f"cannot write {out} as {subtype}: .wav takes {', '.join(SUBTYPES)}; .flac PCM_16 and PCM_24")
    with ExitStack() as stack:
        readers = [stack.enter_context(_Reader(path, spec.sample_rate, resample)) for path in paths]
        _check_channels(generator, readers)
        total = min(reader.total for reader in readers)
        longest = max(readers, key=lambda reader: reader.total)
        if longest.total > total + 1:  # one sample may come of resampling
            shortest = min(readers, key=lambda reader: reader.total)
            raise AudioError(
                f"{longest.path} ({longest.total / spec.sample_rate:.3f} s) and {shortest.path} "
                f"({total / spec.sample_rate:.3f} s) differ in length: sensors must be recorded together"
            )

        def read(start: int, stop: int) -> Tensor:
            return torch.cat([reader.read(start, stop) for reader in readers])

        stack.enter_context(evaluating(generator))
        overs, peak = _write(_blocks(generator, read, total, chunk_seconds), out, spec.sample_rate, total, subtype)
    return Enhanced(paths, out, total / spec.sample_rate, overs, peak)


def _blocks(
    generator: nn.Module, read: Callable[[int, int], Tensor], total: int, chunk_seconds: float
) -> Iterator[Tensor]:
    """The output ``(1, total)`` in consecutive blocks; ``read(start, stop)``, ``(S, stop - start)``, only moves on."""
    spec = cast("Generator", generator)
    hop = spec.hop
    device = device_of(generator)
    chunk = max(1, round(chunk_seconds * spec.sample_rate / hop)) * hop
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
    """The blocks of a causal network, its state handed on; what it gives late is cut off at the head."""
    late = network.lookahead
    with torch.inference_mode(), network.streaming(1):
        for position in range(0, total + late, chunk):
            begin, end = min(position, total), min(position + chunk, total)
            heard = read(begin, end) if end > begin else torch.zeros(network.in_channels, 0)
            behind = min(position + chunk, total + late) - position - heard.shape[1]
            frames = torch.nn.functional.pad(heard, (0, behind + -(heard.shape[1] + behind) % network.hop))
            estimate = estimate_of(network(frames[None].to(device)))
            block = estimate[0, :, : min(position + chunk, total + late) - position].float().cpu()
            if position + block.shape[1] > late:
                yield block[:, max(0, late - position) :]


def _receptive_field(generator: nn.Module) -> tuple[int, int] | None:
    bundle = bundle_of(generator)
    return receptive_field(generator) if bundle is None else bundle.receptive_field


def _surroundings(field: tuple[int, int] | None, spec: Generator, chunk: int) -> tuple[int, int, int]:
    """Samples to compute before and after a chunk, and those over which neighbours are cross-faded; whole frames."""

    def frames(samples: float) -> int:
        return math.ceil(samples / spec.hop) * spec.hop

    if field is not None:
        return frames(field[0]), frames(field[1]), 0
    around = frames(UNBOUNDED_CONTEXT_SECONDS * spec.sample_rate)
    return around, around, min(frames(CROSS_FADE_SECONDS * spec.sample_rate), chunk)


def _check_channels(generator: nn.Module, readers: list[_Reader]) -> None:
    bundle = bundle_of(generator)
    count = cast("Generator", generator).in_channels
    sensors = f" ({', '.join(bundle.sensors)})" if bundle else ""
    if len(readers) not in (1, count):
        raise AudioError(
            f"{len(readers)} files for a model of {count} sensors{sensors}: give one for each, or one for all"
        )
    expected = count if len(readers) == 1 else 1
    for reader in readers:
        if reader.channels != expected:
            wanted = f"{expected} in one file{sensors}" if len(readers) == 1 else "a mono file for each sensor"
            plural = "s" if reader.channels > 1 else ""
            raise audio.AudioFormatError(
                f"{reader.path} has {reader.channels} channel{plural}, the model takes {wanted}"
            )


class _Reader:
    """One sound file at the generator's rate, decoded once from start to end, only a window of it held.

    It does not seek: seeks in MP3 are inexact, and the windows only move on.
    """

    def __init__(self, path: Path, sample_rate: int, resample: bool) -> None:
        header = audio.info(path)  # refuses what is missing, damaged, cut or empty
        self.path = path
        self.rate, self.channels = header.sample_rate, header.channels
        if self.rate != sample_rate and not resample:
            raise audio.AudioFormatError(
                f"{path} is sampled at {self.rate} Hz, the model works at {sample_rate} Hz, and resampling is off: "
                "convert the file, or leave out --no-resample (resample=False)"
            )
        self.change = audio.RateChange(self.rate, sample_rate)
        self.frames = header.frames
        self.total = self.change.length(self.frames)
        self._sound: soundfile.SoundFile | None = None
        self._begin = 0
        self._window = np.zeros((self.channels, 0), dtype=np.float32)

    def __enter__(self) -> _Reader:
        self._sound = soundfile.SoundFile(self.path)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._sound is not None:
            self._sound.close()

    def read(self, start: int, stop: int) -> Tensor:
        """Samples ``start`` to ``stop`` at the generator's rate, ``(channels, stop - start)``."""
        first, last, skip = self.change.window(start, stop, self.frames)
        window = torch.from_numpy(self._decode(first, last).copy())
        return audio.resample(window, self.rate, self.change.to_rate)[:, skip : skip + stop - start]

    def _decode(self, start: int, stop: int) -> np.ndarray:
        assert self._sound is not None
        held = self._begin + self._window.shape[1]
        if stop > held:
            fresh = self._decode_next(held, stop - held)
            self._window = np.concatenate([self._window[:, start - self._begin :], fresh], axis=1)
            self._begin = start
        return self._window[:, start - self._begin : stop - self._begin]

    def _decode_next(self, position: int, count: int) -> np.ndarray:
        assert self._sound is not None
        try:
            block = self._sound.read(count, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{self.path} is damaged after {position / self.rate:.3f} s: {error.error_string}"
            ) from error
        if len(block) < count:
            there = (position + len(block)) / self.rate
            raise AudioError(
                f"{self.path} is truncated: it promises {self.frames / self.rate:.3f} s and holds {there:.3f} s"
            )
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            raise AudioError(
                f"{self.path} holds NaN or infinite samples, the first at {(position + bad[0]) / self.rate:.3f} s"
            )
        return np.ascontiguousarray(block.T)


def _write(blocks: Iterator[Tensor], target: Path, rate: int, total: int, subtype: str) -> tuple[int, float]:
    """Write blocks ``(1, n)`` as they come; returns how many samples are beyond full scale, and the peak."""
    kind = FORMATS[target.suffix.lower()]
    if kind == "WAV" and total * BYTES[subtype] > WAV_LIMIT:
        kind = "RF64"
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    overs, peak, position = 0, 0.0, 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioError(f"cannot write {target}: {error.strerror}") from error
    try:
        with soundfile.SoundFile(temporary, "w", rate, 1, subtype=subtype, format=kind) as sound:
            for block in blocks:
                samples = block[0].numpy()
                if not np.isfinite(samples).all():
                    raise AudioError(f"{target} was not written: the model gave NaN after {position / rate:.3f} s")
                magnitude = np.abs(samples)
                overs += int((magnitude > 1).sum())
                peak = max(peak, float(magnitude.max()))
                sound.write(samples)  # soundfile has libsndfile clip for PCM; without that, overs would wrap
                position += len(samples)
        os.replace(temporary, target)
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"cannot write {target}: {getattr(error, 'error_string', None) or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return overs, peak
