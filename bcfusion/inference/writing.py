"""Mono files that are written piece by piece, whole or not at all, with their peaks taken care of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
from torch import Tensor

from bcfusion.audio.formats import one_line
from bcfusion.audio.writing import sound_writer
from bcfusion.errors import AudioError
from bcfusion.files import appearing, in_use
from bcfusion.inference.containers import OutputFormat
from bcfusion.inference.peaks import PEAKS, Level, Limiter, Samples

__all__ = ["Written", "check_peak", "write_blocks"]

SPOOL_BYTES = 1 << 22  # kept in memory of a file that may have to be scaled; what exceeds them is on the disk
BLOCK = 1 << 18  # samples scaled at once


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        overs: number of samples of the signal that exceed full scale.
        peak: their largest magnitude, before anything was done to it; full scale is 1.
        gain: by what the file was multiplied (``scale``), or the smallest gain in it (``limit``).
    """

    overs: int
    peak: float
    gain: float = 1.0


def check_peak(peak: str | None, how: OutputFormat) -> str:
    """Return what is done to samples beyond full scale.

    Args:
        peak: one of :data:`~bcfusion.inference.peaks.PEAKS`; None for ``keep`` if the format can, else ``scale``.
        how: the format.

    Raises:
        AudioError: the format cannot keep them, or there is no such choice.
    """
    if peak is None:
        return "keep" if how.keeps_overs else "scale"
    if peak not in PEAKS:
        raise AudioError(f"peak {peak}: give one of {', '.join(PEAKS)}")
    if peak == "keep" and not how.keeps_overs:
        raise AudioError(f"--peak keep: {how.subtype} cannot hold more than full scale; give --subtype FLOAT")
    return peak


def write_blocks(
    blocks: Iterator[Tensor], target: Path, rate: int, total: int, how: OutputFormat, peak: str | None = None
) -> Written:
    """Write a mono file from blocks ``(1, n)`` as they come; it appears whole or not at all.

    Args:
        blocks: the signal.
        target: the file.
        rate: in Hz.
        total: number of samples of all blocks together.
        how: container and sample format.
        peak: see :func:`check_peak`. ``scale`` keeps the signal in a temporary file beside ``target`` that has no
            name, if it is longer than a minute.

    Raises:
        AudioError: a block holds samples that are not finite, or the file cannot be written.
    """
    peak, container = check_peak(peak, how), how.container_for(total)
    level = Level()

    def measured() -> Iterator[Samples]:
        position = 0
        for block in blocks:
            samples = cast("Samples", block[0].numpy())
            if not np.isfinite(samples).all():
                raise AudioError(f"{target} was not written: the model gave NaN after {position / rate:.3f} s")
            level.add(samples)
            position += len(samples)
            yield samples

    try:
        with (
            appearing(target) as part,
            in_use(part),
            sound_writer(part, rate, 1, how.subtype, container) as sound,
        ):
            gain = _WRITE[peak](measured(), level, rate, part.parent, sound.write)
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"cannot write {target}: {one_line(error)}") from error
    return Written(level.overs, level.peak, gain)


_Sink = Callable[[Samples], None]


def _as_they_are(samples: Iterator[Samples], level: Level, rate: int, folder: Path, write: _Sink) -> float:
    for block in samples:
        write(block)
    return 1.0


def _clipped(samples: Iterator[Samples], level: Level, rate: int, folder: Path, write: _Sink) -> float:
    for block in samples:
        write(block.clip(-1, 1))
    return 1.0


def _limited(samples: Iterator[Samples], level: Level, rate: int, folder: Path, write: _Sink) -> float:
    limiter = Limiter(rate)
    for block in samples:
        write(limiter.push(block))
    write(limiter.finish())
    return limiter.gain


def _scaled(samples: Iterator[Samples], level: Level, rate: int, folder: Path, write: _Sink) -> float:
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(folder)) as spool:
        for block in samples:
            spool.write(block.astype("<f4", copy=False).tobytes())
        gain = 1.0 if level.peak <= 1 else 1 / level.peak
        spool.seek(0)
        while data := spool.read(4 * BLOCK):
            write(cast("Samples", np.frombuffer(data, dtype="<f4").astype(np.float32) * np.float32(gain)).clip(-1, 1))
    return gain


_WRITE = {"keep": _as_they_are, "scale": _scaled, "limit": _limited, "clip": _clipped}
