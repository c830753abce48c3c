"""A sound file that is open: its true length, and samples from any place of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import soundfile

from bcfusion.audio.formats import AudioFormatError
from bcfusion.audio.messages import without_decoder_messages
from bcfusion.audio.views import Layout

__all__ = ["Decoder", "Sound"]

_BLOCK = 1 << 16  # samples decoded at once on the way to a place that the decoder cannot jump to


class Sound:
    """Sound that is read from one stream, or from several that follow each other.

    Args:
        path: for messages.
        openers: of the streams; each call opens one anew.
        layout: what was found about the file.
        quiet: whether the decoder's own messages are caught.

    Attributes:
        frames: number of samples per channel.
        sample_rate: in Hz.
        channels: number of channels.
        subtype: libsndfile's name of the sample format.
        remark: what the file's header does not tell, and what was done about it; empty if it is right.
        cut: whether sound is missing that the file once held.

    Raises:
        AudioFormatError: the streams differ in sample rate or number of channels.
        soundfile.LibsndfileError: a stream cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        openers: Sequence[Callable[[], Decoder]],
        layout: Layout,
        quiet: bool = False,
    ) -> None:
        self._path = path
        self._quiet = quiet
        self._jumped = False
        self._streams: list[_Stream] = []
        try:
            with self._silence(report=True):
                for opener in openers:
                    self._streams.append(_Stream(opener))
        except BaseException:
            self.close()
            raise
        first = self._streams[0].file
        self.sample_rate, self.channels = first.samplerate, first.channels
        self.subtype = self._streams[0].subtype
        self.frames = sum(stream.frames for stream in self._streams)
        self.cut = layout.cut
        self.remark = layout.remark
        if layout.cut and self.sample_rate:
            self.remark += f", {self.frames / self.sample_rate:.3f} s can be read"
        others = {(stream.file.samplerate, stream.file.channels) for stream in self._streams}
        if len(others) > 1:
            self.close()
            kinds = " and ".join(f"{rate} Hz with {channels} channel(s)" for rate, channels in sorted(others))
            raise AudioFormatError(f"{path} is a chain of {len(openers)} streams of {kinds}: split it into files")

    @property
    def format(self) -> str:
        """libsndfile's name of the container."""
        name: str = self._streams[0].file.format
        return name

    def close(self) -> None:
        """Close the streams; the file that they read stays open."""
        for stream in self._streams:
            stream.file.close()

    def read(self, start: int, frames: int) -> np.ndarray:
        """Return samples ``(n, channels)`` float32 from ``start`` on: ``frames`` of them, or as many as can be decoded.

        Reading on from where the last call stopped does not jump.

        Raises:
            soundfile.LibsndfileError: the file is damaged there.
        """
        parts: list[np.ndarray] = []
        begin = 0  # of the stream
        jumped = False
        for stream in self._streams:
            first, last = max(start, begin), min(start + frames, begin + stream.frames)
            if first < last or (not parts and stream is self._streams[-1]):
                jumped = jumped or first - begin != stream.position
                with self._silence(report=not jumped):
                    part = stream.read(first - begin, max(0, last - first))
                parts.append(part)
                if len(part) < last - first:
                    break
            begin += stream.frames
        self._jumped = self._jumped or jumped
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _silence(self, report: bool) -> AbstractContextManager[None]:
        """Catch the decoder's messages; once it has jumped it complains about what it passed over: no damage."""
        if not self._quiet:
            return nullcontext()
        return without_decoder_messages(self._path, report and not self._jumped)


class Decoder(soundfile.SoundFile):
    """A sound file that is read on from where it is.

    soundfile ends each read of a seekable file with a jump to the place where the decoder already is, after which an
    MP3 lacks the bits that lie before it: a click. It makes none in a file that is not seekable.
    """

    def seekable(self) -> bool:
        """Return that it is not; :meth:`seek` jumps if :attr:`can_jump`."""
        return False

    @property
    def can_jump(self) -> bool:
        """Whether libsndfile can seek in it."""
        return bool(super().seekable())


class _Stream:
    """One stream, and the place of its decoder.

    Jumps are exact only in formats whose frames stand alone. In an MP3 the bits of a frame may lie in frames before it:
    half a second before the place is decoded first. In Vorbis libsndfile arrives up to a block too late: it is decoded
    from the start, a thousand times faster than it plays.
    """

    def __init__(self, opener: Callable[[], Decoder]) -> None:
        self._opener = opener
        self.file = opener()
        self.frames: int = self.file.frames
        self.subtype: str = self.file.subtype  # asked for once: each time libsndfile looks through its formats
        self.position = 0

    def read(self, start: int, frames: int) -> np.ndarray:
        if start != self.position:
            self._go_to(start)
        data: np.ndarray = self.file.read(frames, dtype="float32", always_2d=True)
        self.position += len(data)
        return data

    def _go_to(self, start: int) -> None:
        can_jump = self.file.can_jump and self.subtype != "VORBIS"
        before = self.file.samplerate // 2 if self.subtype == "MPEG_LAYER_III" else 0
        if can_jump and not self.position <= start <= self.position + before:
            self.position = max(0, start - before)
            self.file.seek(self.position)
        elif start < self.position:
            self.file.close()
            self.file = self._opener()
            self.position = 0
        while self.position < start:
            passed = len(self.file.read(min(_BLOCK, start - self.position), dtype="float32", always_2d=True))
            if not passed:
                return
            self.position += passed
