"""Sound files that are read piece by piece, so that memory does not grow with their length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.audio.formats import one_line
from bcfusion.audio.opening import open_sound
from bcfusion.audio.pcm import PlainSound
from bcfusion.audio.sound import Sound
from bcfusion.errors import AudioError

__all__ = ["Recording", "format_of", "other_rate"]


class Recording:
    """A sound file at another sample rate, decoded once from start to end, of which only a window is held.

    The windows only move forward. Use it as a context manager.

    Args:
        path: the file.
        sample_rate: rate of what :meth:`read` returns, in Hz.
        resample: whether a file of another rate is converted; otherwise it is refused.
        picked: the channels that :meth:`read` returns, counted from 0, in that order; None for all.

    Attributes:
        path: the file.
        channels: number of its channels, whether picked or not.
        total: number of samples at ``sample_rate``.
        remark: what the file's header does not tell about its length, or that its end is missing; usually empty.

    Raises:
        AudioError: the file is missing, damaged, truncated or empty, or has another rate and ``resample`` is off.
    """

    def __init__(self, path: Path, sample_rate: int, resample: bool, picked: Sequence[int] | None = None) -> None:
        header = audio.info(path)
        self.path = path
        self.rate, self.channels = header.sample_rate, header.channels
        self._picked = list(range(self.channels) if picked is None else picked)
        if self.rate != sample_rate and not resample:
            raise audio.AudioFormatError(f"{path} {other_rate(self.rate, sample_rate)}")
        self.change = audio.RateChange(self.rate, sample_rate)
        self.frames = header.frames
        self.remark = header.remark
        self.total = self.change.length(self.frames)
        self._opened = ExitStack()
        self._sound: Sound | PlainSound | None = None
        self._begin = 0
        self._window = np.zeros((len(self._picked), 0), dtype=np.float32)

    def __enter__(self) -> Recording:
        self._sound = self._opened.enter_context(open_sound(self.path))
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def read(self, start: int, stop: int) -> Tensor:
        """Return the samples from ``start`` to ``stop``, ``(channels, stop - start)``; neither may ever decrease.

        Raises:
            AudioError: the file is damaged, truncated, or holds samples that are not finite.
        """
        first, last, skip = self.change.window(start, stop, self.frames)
        window = torch.from_numpy(self._decode(first, last).copy())
        return audio.resample(window, self.rate, self.change.to_rate)[:, skip : skip + stop - start]

    def _decode(self, start: int, stop: int) -> np.ndarray:
        held = self._begin + self._window.shape[1]
        if stop > held:
            fresh = self._decode_next(held, stop - held)
            self._window = np.concatenate([self._window[:, start - self._begin :], fresh], axis=1)
            self._begin = start
        return self._window[:, start - self._begin : stop - self._begin]

    def _decode_next(self, position: int, count: int) -> np.ndarray:
        assert self._sound is not None
        try:
            block = self._sound.read(position, count)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{self.path} is damaged after {position / self.rate:.3f} s: {one_line(error)}") from error
        if len(block) < count:
            end = (position + len(block)) / self.rate
            raise AudioError(
                f"{self.path} is truncated: its header promises {self.frames / self.rate:.3f} s, it holds {end:.3f} s"
            )
        block = block[:, self._picked]
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            raise AudioError(
                f"{self.path} holds NaN or infinite samples, the first at {(position + bad[0]) / self.rate:.3f} s"
            )
        return np.ascontiguousarray(block.T)


def other_rate(rate: int, wanted: int) -> str:
    """Return what is wrong with a recording of another sample rate, in Hz, if it is not converted."""
    return (
        f"is sampled at {rate} Hz, the model works at {wanted} Hz, and resampling is off: "
        "convert the file, or leave out --no-resample (resample=False)"
    )


def format_of(path: Path) -> tuple[int, int] | None:
    """Return number of channels and sample rate in Hz of a sound file; None if it cannot be opened."""
    try:
        found = audio.info(path)
    except AudioError:
        return None
    return found.channels, found.sample_rate
