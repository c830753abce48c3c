"""The sound chunk of WAV, RF64, W64, AIFF, CAF and AU files, compared with the file's size.

libsndfile plays what is left of a truncated file without a word, and takes the length of a header that was never
finalised (0) for an empty file. A recorder that crashed, or a program that wrote to a pipe, leaves such headers and all
its sound.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace

from bcfusion.audio.formats import MOST_CHUNKS, UnreadableAudio
from bcfusion.audio.pcm import plain
from bcfusion.audio.views import Layout, Piece, Source

__all__ = ["layout"]

_W64_RIFF = bytes.fromhex("72696666 2e91 cf11 a5d6 28db04c10000")
#: sizes in 32 bits from here on mean "unknown" in a smaller file: programs write 0x7F000000, 0x7FFFF000 or all ones
_UNKNOWN = 0x7F000000
_LARGEST_WAV = 0xFFFFFFFF
_LARGEST_LONG = 1 << 63  # the same for sizes in 64 bits
_PLAIN = (1, 3, 6, 7, 0xFFFE)  # format tags of WAV in which a block is a sample of each channel


@dataclass(frozen=True)
class _Kind:
    """How the chunks of a container are written: byte order and width of sizes, what they include, their alignment."""

    first: int
    name: int
    size: str
    header_counts: bool
    align: int
    sound: bytes


_RIFF = _Kind(12, 4, "<I", False, 2, b"data")
_RIFX = _Kind(12, 4, ">I", False, 2, b"data")
_AIFF = _Kind(12, 4, ">I", False, 2, b"SSND")
_W64 = _Kind(40, 16, "<Q", True, 8, b"data")
_CAF = _Kind(8, 4, ">q", False, 1, b"data")


@dataclass(frozen=True)
class _Chunk:
    """The sound chunk: where its size field and its body are, what the size says, and the bytes of a ``unit``."""

    field: int
    begin: int
    size: int
    block: int = 1
    unit: str = "bytes of sound"


def layout(source: Source, head: bytes, path: str | os.PathLike[str]) -> Layout | None:
    """Return how a file is read; None if it is none of these containers.

    Args:
        source: the file.
        head: its first bytes, at least 40 if there are so many.
        path: for messages.

    Raises:
        UnreadableAudio: the file is shorter than its header promises.
    """
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _wav(source, head, path)
    if head[:4] == b"RIFX" and head[8:12] == b"WAVE":
        return _other(source, _RIFX, path, unfinished=(0,))
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _other(source, _AIFF, path, unfinished=(0, 8))
    if head[:16] == _W64_RIFF:
        return _other(source, _W64, path, unfinished=(0, 24))
    if head[:4] == b"caff":
        return _other(source, _CAF, path, unfinished=(0, 4))
    if head[:4] == b".snd" and len(head) >= 24:
        begin, size = struct.unpack_from(">II", head, 4)
        return _compared(source, ">I", _Chunk(8, begin, size), path, size in (0, 0xFFFFFFFF), 0)
    return None


def _wav(source: Source, head: bytes, path: str | os.PathLike[str]) -> Layout:
    found, long_size, form = _find(source, _RIFF, path)
    size = found.size
    rest = source.size - found.begin
    if head[:4] == b"RF64" and size == 0xFFFFFFFF:
        size = long_size
        unfinished = size in (0, 0xFFFFFFFFFFFFFFFF)
    else:
        unfinished = size >= _UNKNOWN and size > rest
    unfinished = unfinished or (size == 0 and not _are_chunks(source, _RIFF, found.begin))
    if not unfinished or rest < found.block:
        layout = _compared(source, "<I", found if size == found.size else replace(found, size=size), path, False, 0)
        return Layout(plain=plain(form, found.begin, size)) if head[:4] == b"RIFF" else layout
    length = rest // found.block * found.block
    if head[:4] == b"RIFF" and source.size <= _LARGEST_WAV:
        pieces: tuple[Piece, ...] = (
            b"RIFF" + struct.pack("<I", source.size - 8),
            (8, found.field - 8),
            struct.pack("<I", length),
            (found.begin, length),
        )
    else:
        sizes = struct.pack("<IQQQI", 28, length + len(form) + 60, length, length // found.block, 0)
        start = b"RF64\xff\xff\xff\xffWAVEds64" + sizes + form + b"data\xff\xff\xff\xff"
        pieces = (start, (found.begin, length))
    return Layout((pieces,), _remark(length // found.block, found.unit))


def _other(source: Source, kind: _Kind, path: str | os.PathLike[str], unfinished: tuple[int, ...]) -> Layout:
    found, _, _ = _find(source, kind, path)
    rest = source.size - found.begin
    unknown = found.size in (*unfinished, -1)
    if kind is not _CAF:
        unknown = unknown or rest < found.size >= (_LARGEST_LONG if kind is _W64 else _UNKNOWN)
    # an empty file: its last chunk ends where the file ends, or chunks follow it
    last = found.begin + max(unfinished) - (max(unfinished) if kind.header_counts else 0)
    unknown = unknown and last < source.size and not _are_chunks(source, kind, last)
    own = found.begin - found.field + kind.name if kind.header_counts else 0
    return _compared(source, kind.size, found, path, unknown, own)


def _compared(
    source: Source, size: str, found: _Chunk, path: str | os.PathLike[str], unknown: bool, own: int
) -> Layout:
    """Compare the promised size, of which ``own`` bytes are the chunk's header, with what is there."""
    rest = source.size - found.begin
    if unknown and rest > 0:
        width = struct.calcsize(size)
        after = found.field + width
        largest = 256**width // 2 - 1 if size[1] == "q" else 256**width - 1
        stated = struct.pack(size, min(rest + own, largest))
        pieces: tuple[Piece, ...] = ((0, found.field), stated, (after, source.size - after))
        return Layout((pieces,), _remark(rest // found.block, found.unit))
    if found.size - own > rest:
        raise UnreadableAudio(
            f"{path} is truncated: its header promises {(found.size - own) // found.block} {found.unit}, "
            f"{max(rest, 0) // found.block} are there",
            path,
        )
    return Layout()


def _remark(count: int, unit: str) -> str:
    return f"its header states no length: read to the end of the file, {count} {unit}"


def _find(source: Source, kind: _Kind, path: str | os.PathLike[str]) -> tuple[_Chunk, int, bytes]:
    """Return the sound chunk, the length in a chunk ``ds64``, and the whole chunk ``fmt``."""
    width = struct.calcsize(kind.size)
    position, long_size, form = kind.first, 0, b""
    block, unit = 1, "bytes of sound"
    for _ in range(MOST_CHUNKS):
        if len(header := source.read(position, kind.name + width)) < kind.name + width:
            break
        name = header[:4]
        (size,) = struct.unpack_from(kind.size, header, kind.name)
        begin = position + kind.name + width
        if name == kind.sound:
            return _Chunk(begin - width, begin, size, block, unit), long_size, form
        body = source.read(begin, 32) if name in (b"fmt ", b"ds64") else b""
        if name == b"fmt " and len(body) >= 14:
            tag, aligned = struct.unpack_from(f"{kind.size[0]}H10xH", body)
            block, unit = (aligned, "samples" if tag in _PLAIN else "blocks") if aligned else (1, unit)
            form = source.read(position, kind.name + width + size) if size < 1000 else b""
        elif name == b"ds64" and len(body) >= 16:
            long_size = struct.unpack_from("<Q", body, 8)[0]
        length = size - (kind.name + width if kind.header_counts else 0)
        if length < 0:
            break
        position = begin + length + -length % kind.align
    else:
        raise UnreadableAudio(f"{path} is damaged: {MOST_CHUNKS} chunks come before its samples", path)
    raise UnreadableAudio(f"{path} is truncated: it ends before its samples begin", path)


def _are_chunks(source: Source, kind: _Kind, position: int) -> bool:
    """Return whether what follows an empty chunk is further chunks, the last of which ends where the file ends."""
    width = kind.name + struct.calcsize(kind.size)
    header = b""
    for _ in range(MOST_CHUNKS):
        if len(header := source.read(position, width)) < width:
            break
        if not all(0x20 <= byte < 0x7F for byte in header[:4]):
            return False
        (size,) = struct.unpack_from(kind.size, header, kind.name)
        size = max(0, size - (width if kind.header_counts else 0))
        position += width + size + -size % kind.align
    return not header and position - source.size < kind.align
