"""Write sound files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from bcfusion.audio.formats import one_line
from bcfusion.errors import AudioError
from bcfusion.files import appearing

__all__ = ["FORMATS", "sound_writer", "write"]

FORMATS = {".wav": "WAV", ".flac": "FLAC"}  #: that are written: suffix to libsndfile's name


def write(
    path: str | os.PathLike[str],
    samples: np.ndarray,
    sample_rate: int,
    subtype: str = "PCM_16",
) -> None:
    """Write a WAV or FLAC file; it appears whole or not at all.

    Args:
        path: ends in ``.wav`` or ``.flac``; missing folders are created.
        samples: ``(channels, time)`` or ``(time,)``, real; full scale is 1, integer formats clip what exceeds it.
        sample_rate: in Hz.
        subtype: libsndfile's name: ``PCM_16``, ``PCM_24``, or for WAV also ``FLOAT``.

    Raises:
        AudioError: another extension, a subtype that the format does not have, samples of a wrong shape or not finite,
            or a place that cannot be written to.
    """
    target = Path(path)
    file_format = FORMATS.get(target.suffix.lower())
    if file_format is None:
        raise AudioError(f"cannot write {target}: the name must end in {' or '.join(FORMATS)}")
    if not soundfile.check_format(file_format, subtype):
        raise AudioError(f"cannot write {target}: {file_format} has no subtype {subtype!r}; use PCM_16 or PCM_24")
    data = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if data.ndim != 2 or data.shape[0] == 0:
        raise AudioError(f"cannot write {target}: samples of shape {np.shape(samples)}, expected (channels, time)")
    if not np.isfinite(data).all():
        raise AudioError(f"cannot write {target}: the samples hold NaN or infinity")
    try:
        with (
            appearing(target) as part,
            sound_writer(part, sample_rate, data.shape[0], subtype, file_format) as sound,
        ):
            sound.write(data.T)
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"cannot write {target}: {one_line(error)}") from error


@contextmanager
def sound_writer(
    path: str | os.PathLike[str], sample_rate: int, channels: int, subtype: str, file_format: str
) -> Iterator[soundfile.SoundFile]:
    """Open a sound file for writing, with the system's own error if its disk does not take all of it.

    libsndfile calls every such error "System error", and ignores those of the last bytes, which it writes on closing.

    Args:
        path: the file, whose name need not be UTF-8; an existing one is replaced.
        sample_rate: in Hz.
        channels: number of channels.
        subtype: libsndfile's name of the sample format.
        file_format: libsndfile's name of the format.

    Raises:
        OSError: the file cannot be opened, or a part of it not be written.
        soundfile.LibsndfileError: the format cannot hold what it is given.
    """
    with open(path, "w+b", buffering=0) as file:
        sink = _Sink(file)
        try:
            with soundfile.SoundFile(sink, "w", sample_rate, channels, subtype, format=file_format) as sound:
                yield sound
        except Exception as error:
            if sink.error is not None:
                raise sink.error from error
            raise
        if sink.error is not None:
            raise sink.error


class _Sink:
    """What libsndfile writes to. Its calls cannot raise, so that an error is kept for later and nothing more written.

    Args:
        file: open for writing, without a buffer.

    Attributes:
        error: the first error.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        try:
            while left and self.error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self.error = error
        return len(data) - len(left)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
