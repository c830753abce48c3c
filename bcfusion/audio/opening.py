"""Open a sound file wherever it lies: on disk, inside an uncompressed archive, or in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import soundfile

from bcfusion.audio import chunked, flac, mpeg, ogg
from bcfusion.audio.formats import UnreadableAudio, one_line
from bcfusion.audio.pcm import PlainSound
from bcfusion.audio.sound import Decoder, Sound
from bcfusion.audio.views import Layout, Piece, Source, View
from bcfusion.nearest import nearest_path
from bcfusion.system import BINARY

__all__ = ["EncodedAudio", "container", "encoded", "open_sound", "part"]

_PART = re.compile(r"(?P<archive>.+)::(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
_UNKNOWN_FRAMES = 1 << 40  # libsndfile gives a number near the type's largest if it knows no length
_HEAD = 64  # bytes that tell the container
_REMEMBERED = 4096
_FORK = "._"  # starts the name of a Macintosh resource fork beside a file
_known: dict[tuple[str, int, int, int], tuple[Layout, bool]] = {}


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
def open_sound(path: str | os.PathLike[str]) -> Iterator[Sound | PlainSound]:
    """Open a sound file, with its true length where its header does not state it.

    Raises:
        UnreadableAudio: the file is missing, unreadable, empty, of unknown length, or shorter than its header promises.
        AudioFormatError: it is a chain of streams that do not fit together.
    """
    name = os.fspath(path)
    inside = _PART.fullmatch(name)
    file = name if inside is None else inside["archive"]
    is_mpeg = False
    descriptor = -1
    sound: Sound | PlainSound | None = None
    try:
        try:
            if isinstance(path, EncodedAudio):
                source = Source(path.content, 0, len(path.content))
                key = None
            else:
                descriptor = os.open(file, os.O_RDONLY | BINARY)
                status = os.fstat(descriptor)
                offset, size = (0, status.st_size) if inside is None else (int(inside["offset"]), int(inside["size"]))
                source = Source(descriptor, offset, size)
                key = (file, offset, size, status.st_mtime_ns)
            layout, is_mpeg = _layout(source, path, key)
            if layout.plain is not None:
                sound = PlainSound(source, layout.plain)
            elif layout.links:
                openers = [partial(_open_view, source, pieces) for pieces in layout.links]
                sound = Sound(path, openers, layout, is_mpeg)
            elif inside is not None or descriptor < 0 or (is_mpeg and _has_fork(file)):
                sound = Sound(path, [lambda: Decoder(source.file())], layout, is_mpeg)
            elif is_mpeg:  # given a descriptor, libsndfile looks for a resource fork in the working directory
                sound = Sound(path, [partial(Decoder, os.fsencode(file))], layout, is_mpeg)
            else:
                sound = Sound(path, [partial(_open_descriptor, descriptor)], layout)
        except (OSError, soundfile.LibsndfileError) as error:
            reason = one_line(error)
            if reason.startswith("File does not exist"):  # libsndfile, of files that do
                reason = "its format is not known, or it ends before its samples begin"
            if is_mpeg and os.path.exists(_FORK):
                reason += f" (libsndfile takes {_FORK} in the working directory for a part of it: remove that file)"
            problem = f"cannot read {path}: {reason}"
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
    finally:
        if sound is not None:
            sound.close()
        if descriptor >= 0:
            os.close(descriptor)


def _has_fork(file: str) -> bool:
    """Return whether macOS left a resource fork on this drive, for which libsndfile takes an MP3 for another format.

    A view has no name that a fork could belong to.
    """
    folder, name = os.path.split(file)
    return os.path.exists(os.path.join(folder, _FORK + name))


def _open_view(source: Source, pieces: Sequence[Piece]) -> Decoder:
    return Decoder(View(source, pieces))


def _open_descriptor(descriptor: int) -> Decoder:
    os.lseek(descriptor, 0, os.SEEK_SET)  # the file begins for libsndfile where the descriptor is
    return Decoder(descriptor, closefd=False)


def _layout(source: Source, path: str | os.PathLike[str], key: tuple[str, int, int, int] | None) -> tuple[Layout, bool]:
    """Return how a file is read, and whether the decoder of MP3 reads it.

    Args:
        source: its bytes.
        path: for messages.
        key: identifies the bytes; what is found about them is remembered, since pages and frames take time to count.
    """
    if key is not None and key in _known:
        return _known[key]
    head = source.head(_HEAD)
    found = chunked.layout(source, head, path)
    if found is not None:  # quickly found again
        return found, False
    found = ogg.layout(source, head) or flac.layout(source, head)
    found = found or mpeg.layout(source, head, path)
    result = found or Layout(), mpeg.may_be(head)
    if key is not None and found is not None:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[key] = result
    return result
