"""The length of a FLAC that was written to a pipe, whose header cannot state it: from its last frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from bcfusion.audio.formats import UnreadableAudio
from bcfusion.audio.views import Layout, Source

__all__ = ["layout"]

_STREAMINFO = 8  # where the body of the first block starts, after "fLaC" and the block's own header
_TOTAL = _STREAMINFO + 13  # where the byte starts that holds the upper 4 of the 36 bits of the length
_LARGEST_FRAME = 1 << 24
_LARGEST_BLOCK, _SMALLEST_FRAME = 65535, 8  # samples, and bytes: header, a constant in each channel, checksum
_FIRST_LOOK = 1 << 16
# number of samples of a frame, by the code in its header; 6 and 7: written in the header itself
_BLOCKS = {
    1: 192,
    **{code: 576 << (code - 2) for code in range(2, 6)},
    **{code: 256 << (code - 8) for code in range(8, 16)},
}


class _Frame(NamedTuple):
    """A frame: where it starts in the file, its first sample, and their number."""

    start: int
    first: int
    samples: int


def layout(source: Source, head: bytes, path: str | os.PathLike[str]) -> Layout | None:
    """Return how a file is read; None if it is no FLAC, or one that states its length.

    Raises:
        UnreadableAudio: it states more samples than its bytes can hold.
    """
    if head[:4] != b"fLaC" or len(head) < _STREAMINFO + 18 or head[4] & 0x7F:
        return None
    if stated := int.from_bytes(head[_TOTAL : _TOTAL + 5], "big") & (1 << 36) - 1:
        if stated > _LARGEST_BLOCK * (source.size // _SMALLEST_FRAME + 1):
            raise UnreadableAudio(
                f"{path} is truncated or damaged: its header promises {stated} samples, more than {source.size} bytes "
                "can hold",
                path,
            )
        return None
    total, cut = _total(source, head)
    if not total:
        return None
    written = bytes([head[_TOTAL] & 0xF0 | total >> 32]) + (total & 0xFFFFFFFF).to_bytes(4, "big")
    after = _TOTAL + 5
    pieces = ((0, _TOTAL), written, (after, source.size - after))
    remark = f"its header states no length: its frames hold {total} samples"
    return Layout((pieces,), remark + ("; its end is missing" if cut else ""), cut)


def _total(source: Source, head: bytes) -> tuple[int, bool]:
    """Return the samples up to the end of the last whole frame, and whether a part of another one follows."""
    within = False
    for frame in _frames_from_the_end(source, head):
        if _crc16(source.read(frame.start, _LARGEST_FRAME)) == 0:  # over a whole frame, its own checksum included
            return frame.first + frame.samples, False
        if within:
            return frame.first + frame.samples, True
        within = True  # the file ends within the last frame: the one before it is whole
    return 0, True


def _frames_from_the_end(source: Source, head: bytes) -> Iterator[_Frame]:
    """Yield the frames whose headers are valid, the last one first."""
    size = int.from_bytes(head[_STREAMINFO : _STREAMINFO + 2], "big")
    look = _FIRST_LOOK
    stop = source.size
    while True:
        begin = max(_STREAMINFO, source.size - look)
        data = source.read(begin, source.size - begin)
        place = stop - begin
        while (place := data.rfind(b"\xff", 0, place)) >= 0:
            frame = _frame(data[place : place + 20], begin + place, size)
            if frame is not None:
                stop = begin + place
                yield frame
        if begin == _STREAMINFO or look >= 4 * _LARGEST_FRAME:
            return
        look *= 4


def _frame(header: bytes, start: int, smallest: int) -> _Frame | None:
    """Return the frame that a header starts, if it is valid: its last byte is a checksum of the others."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    block, rate = header[2] >> 4, header[2] & 15
    if block == 0 or rate == 15 or header[3] >> 4 > 10:
        return None
    ones = 8 - (~header[4] & 0xFF).bit_length()  # as in UTF-8: as many leading ones as there are bytes
    extra = max(0, ones - 1)
    if ones in (1, 8) or len(header) < 5 + extra + 5:
        return None
    number = header[4] if extra == 0 else header[4] & (0x3F >> extra)
    for byte in header[5 : 5 + extra]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    end = 5 + extra
    if block in (6, 7):
        samples = int.from_bytes(header[end : end + block - 5], "big") + 1
        end += block - 5
    else:
        samples = _BLOCKS[block]
    end += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if end >= len(header) or _crc8(header[:end]) != header[end]:
        return None
    return _Frame(start, number if header[1] & 1 else number * smallest, samples)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1 ^ (0x8005 if value & 0x8000 else 0)) & 0xFFFF
        table.append(value)
    return table


_CRC16 = _table()


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _CRC16[value >> 8 ^ byte]
    return value
