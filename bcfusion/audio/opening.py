"""Open a sound file wherever it lies: on disk, inside an uncompressed archive, or in memory."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import soundfile

from bcfusion.audio.formats import UnreadableAudio, one_line
from bcfusion.nearest import nearest_path

__all__ = ["EncodedAudio", "container", "encoded", "open_sound", "part"]

_PART = re.compile(r"(?P<archive>.+)::(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
# A WAV or FLAC that was written to a pipe cannot know its length: writers leave 0 or a number near the type's largest.
_UNKNOWN_WAV_BYTES = 0x7FFF0000
_UNKNOWN_FRAMES = 1 << 40


class EncodedAudio(str):
    """The path of a sound file whose bytes are in memory, as they arrived from a stream; messages use the path.

    Args:
        path: where it came from.
        content: the file's bytes, WAV, FLAC or Ogg.
    """

    content: bytes

    def __new__(cls, path: str, content: bytes) -> EncodedAudio:
        encoded = super().__new__(cls, path)
        encoded.content = content
        return encoded

    def __reduce__(self) -> tuple[type[EncodedAudio], tuple[str, bytes]]:
        return EncodedAudio, (str(self), self.content)


def part(archive: str | os.PathLike[str], offset: int, size: int) -> str:
    """Return the path of a sound file inside an uncompressed archive: ``size`` bytes that start at byte ``offset``."""
    return f"{os.fspath(archive)}::{offset}+{size}"


def container(path: str | os.PathLike[str]) -> str:
    """Return the file that is opened for ``path``: the archive of a :func:`part`, otherwise ``path`` itself."""
    inside = _PART.fullmatch(os.fspath(path))
    return os.fspath(path) if inside is None else inside["archive"]


def encoded(path: str | os.PathLike[str]) -> bytes:
    """Return the undecoded bytes of a sound file, wherever it is.

    Raises:
        UnreadableAudio: the file is missing or unreadable.
    """
    if isinstance(path, EncodedAudio):
        return path.content
    inside = _PART.fullmatch(os.fspath(path))
    try:
        if inside is None:
            return Path(path).read_bytes()
        with open(inside["archive"], "rb") as archive:
            archive.seek(int(inside["offset"]))
            return archive.read(int(inside["size"]))
    except OSError as error:
        raise UnreadableAudio(f"cannot read {path}: {one_line(error)}", path) from error


@contextmanager
def open_sound(path: str | os.PathLike[str]) -> Iterator[soundfile.SoundFile]:
    """Open a sound file with libsndfile.

    Raises:
        UnreadableAudio: the file is missing, unreadable, empty, of unknown length, or a WAV that is shorter than its
            header promises.
    """
    name = os.fspath(path)
    inside = _PART.fullmatch(name)
    file = name if inside is None else inside["archive"]
    with ExitStack() as stack:
        try:
            source: bytes | BinaryIO | _ArchivePart = os.fsencode(file)  # a name need not be UTF-8
            if isinstance(path, EncodedAudio):
                source = io.BytesIO(path.content)
            elif inside is not None:
                archive = stack.enter_context(open(file, "rb", buffering=0))
                source = _ArchivePart(archive, int(inside["offset"]), int(inside["size"]))
            sound = stack.enter_context(soundfile.SoundFile(source))
            if sound.format in ("WAV", "WAVEX", "RF64"):
                raw = stack.enter_context(open(source, "rb")) if isinstance(source, bytes) else source
                position = raw.tell()
                _refuse_truncated_wav(raw, path)
                raw.seek(position)  # libsndfile assumes that the position has not changed
        except (OSError, soundfile.LibsndfileError) as error:
            problem = f"cannot read {path}: {one_line(error)}"
            if not isinstance(path, EncodedAudio) and not os.path.isfile(file):
                is_folder = os.path.isdir(file)
                problem = f"{file} " + (
                    "is a folder, not a sound file" if is_folder else f"does not exist{nearest_path(file)}"
                )
            raise UnreadableAudio(problem, name) from error
        if not 0 < sound.frames < _UNKNOWN_FRAMES:
            problem = "holds no samples" if sound.frames <= 0 else "does not state its length: encode it again"
            raise UnreadableAudio(f"{path} {problem}", name)
        yield sound


class _ArchivePart(io.RawIOBase):
    """A part of an open file as a file of its own; libsndfile reads through it, and only the bytes that it needs.

    Args:
        archive: open for reading in binary mode.
        offset: first byte of the part.
        size: its number of bytes.
    """

    def __init__(self, archive: io.FileIO, offset: int, size: int) -> None:
        super().__init__()
        self._descriptor = archive.fileno()
        self._offset = offset
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        got = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._offset + self._position)
        self._position += got
        return got


def _refuse_truncated_wav(raw: BinaryIO | _ArchivePart, path: str | os.PathLike[str]) -> None:
    """Compare the data chunk with the file's size: libsndfile silently plays what is left of a truncated WAV."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    head = raw.read(12) or b""
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return
    long_size, block = 0, 1
    while len(header := raw.read(8) or b"") == 8:
        name, length = struct.unpack("<4sI", header)
        begin = raw.tell()
        if name == b"data":
            if head[:4] == b"RF64" and length == 0xFFFFFFFF:
                length = long_size
            elif length >= _UNKNOWN_WAV_BYTES and size < _UNKNOWN_WAV_BYTES:
                return
            if begin + length > size:
                there = (size - begin) // block
                raise UnreadableAudio(
                    f"{path} is truncated: its header promises {length // block} samples, {there} are there", path
                )
            return
        body = (raw.read(min(length, 32)) or b"") if name in (b"fmt ", b"ds64") else b""
        if name == b"fmt " and len(body) >= 14:
            block = max(1, struct.unpack_from("<H", body, 12)[0])
        elif name == b"ds64" and len(body) >= 16:
            long_size = struct.unpack_from("<Q", body, 8)[0]
        raw.seek(begin + length + length % 2)
    raise UnreadableAudio(f"{path} is truncated: it ends before its samples begin", path)
