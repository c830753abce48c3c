"""Read headers and samples of sound files, whole or in part, at their own sample rate or at another one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import soundfile

from bcfusion.audio.formats import AudioFormatError, UnreadableAudio, one_line, require_finite
from bcfusion.audio.opening import open_sound
from bcfusion.audio.pcm import PlainSound
from bcfusion.audio.resampling import RateChange, resample
from bcfusion.audio.sound import Sound

__all__ = ["AudioInfo", "info", "read", "read_span"]


@dataclass(frozen=True)
class AudioInfo:
    """The header of a sound file.

    Attributes:
        path: as it was given.
        frames: samples per channel.
        sample_rate: in Hz.
        channels: number of channels.
        subtype: libsndfile's name of the sample format, such as ``PCM_16``; not compared.
        format: libsndfile's name of the container, such as ``FLAC``; not compared.
        remark: what the file's own header does not tell about its length, and what was done about it; empty if it is
            right. Not compared.
        cut: whether the end of the file is missing, so that ``frames`` is what is left. Not compared.
    """

    path: str
    frames: int
    sample_rate: int
    channels: int
    subtype: str = field(default="PCM_16", compare=False)
    format: str = field(default="WAV", compare=False)
    remark: str = field(default="", compare=False)
    cut: bool = field(default=False, compare=False)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def info(path: str | os.PathLike[str]) -> AudioInfo:
    """Read the header of a sound file, and find its true length where the header does not state it.

    The only place that knows how long a file is. Headers that were never finalised (WAV and its relatives, FLAC from a
    pipe), MP3 without a header, and chained Ogg are read whole; ``remark`` then says so. An Ogg file that was cut off
    is read as far as it goes, with ``cut``.

    Raises:
        UnreadableAudio: the file is missing, unreadable, empty, or shorter than its header promises. A truncated FLAC
            is noticed only by :func:`read`, at the missing part.
        AudioFormatError: it is a chain of streams of different sample rates or numbers of channels.
    """
    with open_sound(path) as sound:
        return AudioInfo(
            os.fspath(path),
            sound.frames,
            sound.sample_rate,
            sound.channels,
            sound.subtype,
            sound.format,
            sound.remark,
            sound.cut,
        )


def read(path: str | os.PathLike[str], start: int = 0, frames: int | None = None) -> tuple[np.ndarray, int]:
    """Read a part of a sound file, without decoding the rest.

    Args:
        path: the file.
        start: first sample, at the rate of the file.
        frames: number of samples; None reads to the end.

    Returns:
        ``(channels, frames)`` float32, and the sample rate of the file.

    Raises:
        UnreadableAudio: the file is missing, unreadable, truncated, too short, or holds NaN or infinity.
    """
    with open_sound(path) as sound:
        frames = sound.frames - start if frames is None else frames
        return _read_frames(sound, path, start, frames), sound.sample_rate


def read_span(
    path: str | os.PathLike[str],
    start: int,
    length: int,
    sample_rate: int,
    may_resample: bool = True,
    slack: int = 0,
) -> np.ndarray:
    """Read samples ``start`` to ``start + length`` of what the whole file would be at ``sample_rate``.

    If the file has another rate, only the span and the filter's margin around it are decoded and resampled; the result
    equals the same cut of the whole resampled file (see :class:`~bcfusion.audio.resampling.RateChange`).

    Args:
        path: the file.
        start: first sample, at ``sample_rate``; may be negative.
        length: number of samples, at ``sample_rate``.
        sample_rate: in Hz.
        may_resample: False refuses a file of another rate.
        slack: how many of the samples may lie before the start or after the end of the file; they are zero.

    Returns:
        ``(channels, length)`` float32.

    Raises:
        AudioFormatError: the file has another rate and ``may_resample`` is False.
        UnreadableAudio: as for :func:`read`; or more than ``slack`` samples are outside of the file.
    """
    with open_sound(path) as sound:
        rate = sound.sample_rate
        if rate != sample_rate and not may_resample:
            raise AudioFormatError(
                f"{path} is sampled at {rate} Hz, the task at {sample_rate} Hz, and resampling is off: "
                "set data.resample=true or convert the file"
            )
        change = RateChange(rate, sample_rate)
        available = change.length(sound.frames)
        low, high = max(start, 0), min(start + length, available)
        if low - start > slack or start + length - high > slack or high <= low:
            raise UnreadableAudio(
                f"{path} holds {available / sample_rate:.3f} s, but {start / sample_rate:.3f} s to "
                f"{(start + length) / sample_rate:.3f} s were requested: it was cut, or the corpus describes another "
                "file",
                path,
            )
        first, last, skip = change.window(low, high, sound.frames)
        samples = _read_frames(sound, path, first, last - first)
    if rate != sample_rate:
        import torch

        samples = resample(torch.from_numpy(samples), rate, sample_rate).numpy()[:, skip : skip + high - low]
    if (low, high) == (start, start + length):
        return samples
    return np.pad(samples, ((0, 0), (low - start, start + length - high)))


def _read_frames(sound: Sound | PlainSound, path: str | os.PathLike[str], start: int, frames: int) -> np.ndarray:
    if start < 0 or frames < 0 or start + frames > sound.frames:
        raise UnreadableAudio(f"{path} has {sound.frames} samples; {start} to {start + frames} were requested", path)
    try:
        data = sound.read(start, frames)
    except soundfile.LibsndfileError as error:
        raise UnreadableAudio(
            f"{path} is truncated or damaged: its header promises {sound.frames} samples, "
            f"{start} to {start + frames} cannot be decoded ({one_line(error)})",
            path,
        ) from error
    except MemoryError as error:
        raise UnreadableAudio(
            f"{path} is damaged or too long to be read at once: its header promises {sound.frames} samples", path
        ) from error
    if len(data) < frames:
        raise UnreadableAudio(
            f"{path} is truncated: its header promises {sound.frames} samples, {start + len(data)} are there", path
        )
    samples = np.ascontiguousarray(data.T)
    require_finite(samples, path)
    return samples
