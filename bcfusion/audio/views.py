"""The bytes of a sound file, wherever they are, and views of them that a decoder reads like a file of its own."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from bcfusion.system import pread, preadv

__all__ = ["Layout", "Piece", "Plain", "Source", "View"]

#: part of a view: bytes that replace some of the file's, or the offset and size of a part of the file
Piece = bytes | tuple[int, int]


_HEADER = 256  # bytes


@dataclass(frozen=True)
class Plain:
    """Where samples lie in a file, and how each is stored.

    Attributes:
        begin: first byte.
        frames: number of samples of each channel.
        channels: their number.
        sample_rate: in Hz.
        tag: of the format, 1 for integers and 3 for floating point.
        bits: of a sample.
        format: libsndfile's name of the container.
    """

    begin: int
    frames: int
    channels: int
    sample_rate: int
    tag: int
    bits: int
    format: str


@dataclass(frozen=True)
class Layout:
    """How the sound of a file is handed to the decoder.

    Attributes:
        links: views, one after the other in time; none: the file as it is.
        remark: what the file's header does not tell or tells wrongly, and what was done about it; empty if it is right.
        cut: whether sound is missing that the file once held.
        plain: how its samples are stored, if they can be read without a decoder.
    """

    links: tuple[tuple[Piece, ...], ...] = ()
    remark: str = ""
    cut: bool = False
    plain: Plain | None = None


class Source:
    """Random access to bytes in memory, or to a part of an open file.

    Args:
        content: the bytes, or a file descriptor.
        offset: first byte of the part of the file.
        size: number of bytes.
    """

    def __init__(self, content: bytes | int, offset: int, size: int) -> None:
        self._content = content
        self._offset = offset
        self._head = b""
        self.size = size

    def after(self, offset: int) -> Source:
        """Return the bytes from ``offset`` on as a source of its own."""
        return Source(self._content, self._offset + offset, max(0, self.size - offset)) if offset else self

    def head(self, count: int) -> bytes:
        """Return the first bytes, and keep as many as most headers have, so that these are read from the file once."""
        self._head = self.read(0, max(count, _HEADER))
        return self._head[:count]

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes from ``offset`` on: ``count`` of them, or as many as there are."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        if offset + count <= len(self._head):
            return self._head[offset : offset + count]
        if isinstance(self._content, bytes):
            return self._content[self._offset + offset : self._offset + offset + count]
        return pread(self._content, count, self._offset + offset)

    def file(self) -> Part | io.BytesIO:
        """Return all of it as a file of its own."""
        if isinstance(self._content, bytes):
            return io.BytesIO(self._content[self._offset : self._offset + self.size])
        return Part(self._content, self._offset, self.size)

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fill ``target`` with the bytes from ``offset`` on, as far as there are so many; return their number."""
        if isinstance(self._content, bytes) or offset + len(target) <= len(self._head):
            got = self.read(offset, len(target))
            target[: len(got)] = got
            return len(got)
        part = target[: max(0, self.size - offset)]
        return preadv(self._content, [part], self._offset + offset) if part else 0


class Part:
    """A part of an open file, from which libsndfile reads like from a file; called often, so it does little.

    Args:
        descriptor: of the file; stays open.
        offset: first byte of the part.
        size: number of bytes.
    """

    __slots__ = ("_descriptor", "_offset", "_position", "_size")

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor, self._offset, self._size = descriptor, offset, size
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there are bytes; return their number."""
        left = self._size - self._position
        if left < len(buffer):
            buffer = memoryview(buffer)[: max(0, left)]
        count = preadv(self._descriptor, (buffer,), self._offset + self._position)
        self._position += count
        return count


class View(io.RawIOBase):
    """Pieces of a source, joined; libsndfile reads through it, and only the bytes that it needs.

    Args:
        source: its file stays open as long as the view is used.
        pieces: in order.
    """

    def __init__(self, source: Source, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self._source = source
        self._pieces = pieces
        sizes = [len(piece) if isinstance(piece, bytes) else piece[1] for piece in pieces]
        self._ends = list(accumulate(sizes))
        self._starts = [end - size for end, size in zip(self._ends, sizes, strict=True)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = self._ends[-1] if self._ends else 0
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, across pieces, as far as there are bytes; return their number."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target) and (place := bisect_right(self._ends, self._position)) < len(self._pieces):
            piece, begin = self._pieces[place], self._position - self._starts[place]
            count = min(len(target) - done, self._ends[place] - self._position)
            if isinstance(piece, bytes):
                target[done : done + count] = piece[begin : begin + count]
            else:
                count = self._source.read_into(target[done : done + count], piece[0] + begin)
            if not count:
                break
            done += count
            self._position += count
        return done
