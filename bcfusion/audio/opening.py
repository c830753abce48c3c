"""Open a sound file wherever it lies: on disk, inside an uncompressed archive, or in memory."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import soundfile

from bcfusion.audio import chunked, flac, mpeg, ogg
from bcfusion.audio.formats import RATES, UnreadableAudio, one_line
from bcfusion.audio.pcm import PlainSound
from bcfusion.audio.sound import Decoder, Sound
from bcfusion.audio.views import Layout, Piece, Source, View
from bcfusion.nearest import nearest_path
from bcfusion.system import BINARY, NO_WAIT

__all__ = ["EncodedAudio", "container", "encoded", "open_sound", "part"]

_PART = re.compile(r"(?P<archive>.+)::(?P<offset>[0-9]{1,18})\+(?P<size>[0-9]{1,18})", re.DOTALL)
_UNKNOWN_FRAMES = 1 << 40  # libsndfile gives a number near the type's largest if it knows no length
_HEAD = 64  # bytes that tell the container
_REMEMBERED = 4096
_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
_FORK = "._"  # starts the name of a Macintosh resource fork beside a file
_known: dict[tuple[str, int, int, int], _Found] = {}


class _Found(NamedTuple):
    """How a file is read, whether the decoder of MP3 reads it, and the bytes of tags in front of it."""

    layout: Layout
    is_mpeg: bool = False
    tags: int = 0


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
    file = os.fspath(path) if inside is None else inside["archive"]
    try:
        with open(_opened(file, path)[0], "rb") as opened:
            if inside is None:
                return opened.read()
            opened.seek(int(inside["offset"]))
            return opened.read(int(inside["size"]))
    except OSError as error:
        raise UnreadableAudio(_why(error, file, path), path) from error


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
                descriptor, status = _opened(file, path)
                offset, size = (0, status.st_size) if inside is None else (int(inside["offset"]), int(inside["size"]))
                source = Source(descriptor, offset, size)
                key = (file, offset, size, status.st_mtime_ns)
            layout, is_mpeg, tags = _layout(source, path, key)
            source = source.after(tags)
            if layout.plain is not None:
                sound = PlainSound(source, layout.plain)
            elif layout.links:
                openers = [partial(_open_view, source, pieces) for pieces in layout.links]
                sound = Sound(path, openers, layout, is_mpeg)
            elif inside is not None or descriptor < 0 or tags or (is_mpeg and _has_fork(file)):
                sound = Sound(path, [lambda: Decoder(source.file())], layout, is_mpeg)
            elif is_mpeg:  # given a descriptor, libsndfile looks for a resource fork in the working directory
                sound = Sound(path, [partial(Decoder, os.fsencode(file))], layout, is_mpeg)
            else:
                sound = Sound(path, [partial(_open_descriptor, descriptor)], layout)
        except (OSError, soundfile.LibsndfileError) as error:
            problem = _why(error, "" if isinstance(path, EncodedAudio) else file, path)
            if is_mpeg and os.path.exists(_FORK):
                problem += f" (libsndfile takes {_FORK} in the working directory for a part of it: remove that file)"
            raise UnreadableAudio(problem, name) from error
        if not RATES[0] <= sound.sample_rate <= RATES[1]:
            raise UnreadableAudio(
                f"{path} states a sample rate of {sound.sample_rate} Hz, which is none of sound", name
            )
        if not 0 < sound.frames < _UNKNOWN_FRAMES:
            problem = "holds no samples" if sound.frames <= 0 else "does not state its length: encode it again"
            raise UnreadableAudio(f"{path} {problem}", name)
        yield sound
    finally:
        if sound is not None:
            sound.close()
        if descriptor >= 0:
            os.close(descriptor)


def _opened(file: str, path: str | os.PathLike[str]) -> tuple[int, os.stat_result]:
    """Return a descriptor of a regular file, and its state; opening anything else never waits, and is an error.

    Raises:
        OSError: it cannot be opened.
        UnreadableAudio: it is a folder, a pipe, a socket or a device, or no file can have that name.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | BINARY | NO_WAIT)  # a pipe would wait for somebody who writes
    except ValueError as error:  # a zero, or half of a surrogate pair
        raise UnreadableAudio(f"cannot read {path}: no file has that name", path) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnreadableAudio(f"{file} {_no_file(status.st_mode)}", path)
    return descriptor, status


def _no_file(mode: int) -> str:
    return f"is a {_KINDS.get(stat.S_IFMT(mode), 'device')}, not a sound file"


def _why(error: Exception, file: str, path: str | os.PathLike[str]) -> str:
    """Return why a sound cannot be opened.

    Args:
        error: of the system or of libsndfile.
        file: that was opened; empty if it is in memory.
        path: as it was given.
    """
    reason = one_line(error)
    if reason.startswith("File does not exist"):  # libsndfile, of files that do
        reason = "its format is not known, or it ends before its samples begin"
    elif "SF_INFO struct incomplete" in reason:
        reason = "its header states a sample rate of 0 Hz or an impossible one, or no channels"
    if isinstance(error, OSError) and file:
        try:
            mode = os.stat(file).st_mode
        except FileNotFoundError:
            if os.path.islink(file):
                return f"{file} is a link to {os.readlink(file)}, which does not exist"
            return f"{file} does not exist{nearest_path(file)}"
        except OSError as other:
            reason = one_line(other)
        else:
            if not stat.S_ISREG(mode):
                return f"{file} {_no_file(mode)}"
    return f"cannot read {path}: {reason}"


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


def _layout(source: Source, path: str | os.PathLike[str], key: tuple[str, int, int, int] | None) -> _Found:
    """Return how a file is read.

    Args:
        source: its bytes.
        path: for messages.
        key: identifies the bytes; what is found about them is remembered, since pages and frames take time to count.
    """
    if key is not None and key in _known:
        return _known[key]
    head = source.head(_HEAD)
    tags = mpeg.foreign_tags(source, head)
    if tags:  # libsndfile passes over them, and then jumps to wrong places
        source = source.after(tags)
        head = source.head(_HEAD)
    found = chunked.layout(source, head, path)
    if found is not None:  # quickly found again
        return _Found(found, tags=tags)
    found = ogg.layout(source, head) or flac.layout(source, head, path)
    found = found or mpeg.layout(source, head, path)
    result = _Found(found or Layout(), mpeg.may_be(head), tags)
    if key is not None and (found is not None or tags):
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[key] = result
    return result
