"""The frames of an MP3, counted where no header states their number.

libmpg123 estimates the length of an MP3 without a Xing, Info or VBRI header from its first frames, and libsndfile reads
no further: of a file with a variable bit rate more than half may be lost. Frame headers state the size of each frame,
so that they can be counted without decoding. The decoder then gets a header frame with the right number.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bcfusion.audio.formats import UnreadableAudio
from bcfusion.audio.views import Layout, Piece, Source

__all__ = ["foreign_tags", "layout", "may_be"]

_RATES = (44100, 48000, 32000)
# kbit/s of Layer III by the code in the frame header: of MPEG-1, and of MPEG-2 and 2.5
_BITRATES = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BLOCK, _FIRST_BLOCK = 1 << 20, 1 << 10  # bytes read at once; few first, since gaps may follow each other closely
_ID3V1 = 128
_OTHER_KINDS = (b"fLaC", b"OggS", b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b"caff", b".snd")
_DECODER_DELAY = 529  # samples; of every Layer III decoder
_FRAMES_STATED, _BYTES_STATED, _CONTENTS_STATED, _QUALITY_STATED = 1, 2, 4, 8  # flags of a Xing header


class _Frame(NamedTuple):
    """What the four bytes of a frame's header say; ``kind`` is equal in all frames of a file."""

    kind: tuple[int, int]
    size: int
    samples: int
    rate: int
    side: int


@dataclass(frozen=True)
class _Stated:
    """A Xing, Info or VBRI header: where its two numbers are within its frame, and what they say."""

    frames_at: int
    frames: int
    bytes_at: int
    bytes: int
    padding_at: int


@dataclass
class _Walk:
    """Frames that were counted: their number, the parts of the file that hold them, and whether the last one is cut."""

    count: int
    parts: list[tuple[int, int]]
    cut: bool


def may_be(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is given to the decoder of MPEG audio."""
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


def foreign_tags(source: Source, head: bytes) -> int:
    """Return the bytes of ID3v2 tags in front of a file of another kind than MPEG; 0 if there are none."""
    if head[:3] != b"ID3":
        return 0
    position = _after_tags(source)
    return position if source.read(position, 4) in _OTHER_KINDS else 0


def layout(source: Source, head: bytes, path: str | os.PathLike[str]) -> Layout | None:
    """Return how a file is read; None if it holds no Layer III frames.

    Raises:
        UnreadableAudio: there are fewer frames than its header promises.
    """
    if not may_be(head):
        return None
    begin = _start(source)
    first = None if begin is None else _frame(source.read(begin, 4))
    if begin is None or first is None:
        return None
    header = source.read(begin, first.size)
    stated = _stated(header, first)
    end = _end_of_sound(source)
    if stated is not None and stated.bytes and abs(end - begin - stated.bytes) <= first.size:
        return Layout()
    walk = _walk(source, begin if stated is None else begin + first.size, end, first.kind)
    remark = f"{walk.count} frames were counted" + ("; its end is missing" if walk.cut else "")
    if stated is None:
        opening = _counted_header(header[:4], first, walk.count)
        return Layout(((opening, *walk.parts),), f"no header states its length: {remark}", walk.cut)
    if walk.count < stated.frames:
        raise UnreadableAudio(
            f"{path} is truncated: its header promises {stated.frames * first.samples} samples, "
            f"{walk.count * first.samples} are there",
            path,
        )
    if walk.count == stated.frames:
        return Layout()
    patched = bytearray(header)
    struct.pack_into(">I", patched, stated.frames_at, walk.count)
    if stated.bytes_at:
        struct.pack_into(">I", patched, stated.bytes_at, len(header) + sum(size for _, size in walk.parts))
    if stated.padding_at and len(patched) > stated.padding_at + 2:  # it lies at the end of the first part
        patched[stated.padding_at + 1] &= 0xF0
        patched[stated.padding_at + 2] = 0
    view: tuple[Piece, ...] = (bytes(patched), *walk.parts)
    return Layout((view,), f"its header states the length of a part: {remark}", walk.cut)


def _frame(header: bytes) -> _Frame | None:
    """Return what a header says; None if it is no header of Layer III, or gives no bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    long = version == 3
    hertz = _RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    size = (144 if long else 72) * _BITRATES[long][bitrate] * 1000 // hertz + (header[2] >> 1 & 1)
    mono = header[3] >> 6 == 3
    side = (17 if mono else 32) if long else (9 if mono else 17)
    return _Frame((version, rate), size, 1152 if long else 576, hertz, side)


def _start(source: Source) -> int | None:
    """Return where the first frame is: after tags, and followed by another one or by the end.

    None if the tags are those of a file of another kind, in whose samples two frames may be found by chance.
    """
    position = _after_tags(source)
    if source.read(position, 4) in _OTHER_KINDS:
        return None
    return _resync(source, position, source.size, None)


def _after_tags(source: Source) -> int:
    """Return where the tags at the start of a file end: ID3v2, one or several."""
    position = 0
    while (tag := source.read(position, 10))[:3] == b"ID3" and len(tag) == 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if tag[5] & 0x10 else 0)
    return position


def _resync(source: Source, position: int, end: int, kind: tuple[int, int] | None) -> int | None:
    """Return the next byte from which on there are two frames of one kind, or one that ends where the sound ends."""
    block = _FIRST_BLOCK
    while position < end:
        data = source.read(position, block)
        block = min(2 * block, _BLOCK)
        place = -1
        while (place := data.find(b"\xff", place + 1)) >= 0:
            frame = _frame(data[place : place + 4] if place + 4 <= len(data) else source.read(position + place, 4))
            if frame is None or (kind is not None and frame.kind != kind):
                continue
            after = position + place + frame.size
            following = _frame(source.read(after, 4))
            if after == end or (following is not None and following.kind == frame.kind):
                return position + place
        position += len(data)
    return None


def _walk(source: Source, begin: int, end: int, kind: tuple[int, int]) -> _Walk:
    """Count the whole frames; what lies between frames is passed over."""
    walk = _Walk(0, [], False)
    position: int | None = begin
    while position is not None and position < end:
        start = position
        for size in _sizes(source, position, kind):
            if position + size > end:
                walk.cut = True
                break
            position += size
            walk.count += 1
        if position > start:
            walk.parts.append((start, position - start))
        if walk.cut:
            break
        position = _resync(source, position, end, kind)
    return walk


def _sizes(source: Source, position: int, kind: tuple[int, int]) -> Iterator[int]:
    """Yield the sizes of the frames that follow each other without a gap."""
    data, offset, block = b"", position, _FIRST_BLOCK
    while True:
        if position + 4 > offset + len(data):
            data, offset = source.read(position, block), position
            block = min(2 * block, _BLOCK)
        place = position - offset
        frame = _frame(data[place : place + 4])
        if frame is None or frame.kind != kind:
            return
        yield frame.size
        position += frame.size


def _stated(header: bytes, frame: _Frame) -> _Stated | None:
    place = 4 + frame.side
    if header[place : place + 4] in (b"Xing", b"Info") and len(header) >= place + 8:
        (flags,) = struct.unpack_from(">I", header, place + 4)
        if not flags & _FRAMES_STATED:
            return None
        frames_at, following = place + 8, place + 12
        bytes_at = following if flags & _BYTES_STATED else 0
        following += 4 * bool(bytes_at) + 100 * bool(flags & _CONTENTS_STATED) + 4 * bool(flags & _QUALITY_STATED)
        padding_at = following + 21 if header[following : following + 4] in (b"LAME", b"Lavc", b"Lavf") else 0
    elif header[36:40] == b"VBRI":
        frames_at, bytes_at, padding_at = 50, 46, 0
    else:
        return None
    if len(header) < max(frames_at, bytes_at) + 4:  # the name alone, by chance
        return None
    (frames,) = struct.unpack_from(">I", header, frames_at)
    (size,) = struct.unpack_from(">I", header, bytes_at) if bytes_at else (0,)
    return _Stated(frames_at, frames, bytes_at, size, padding_at)


def _end_of_sound(source: Source) -> int:
    """Return where tags begin at the end of the file: ID3v1, and APE in front of it."""
    end = source.size
    if end >= _ID3V1 and source.read(end - _ID3V1, 3) == b"TAG":
        end -= _ID3V1
    footer = source.read(end - 32, 32) if end >= 32 else b""
    if footer[:8] == b"APETAGEX":
        size, flags = struct.unpack_from("<I", footer, 12)[0], struct.unpack_from("<I", footer, 20)[0]
        end -= min(end, size + (32 if flags >> 31 else 0))
    return end


def _counted_header(header: bytes, frame: _Frame, count: int) -> bytes:
    """Return two frames of the kind of ``header``: a Xing header that states a number of frames, and silence.

    With a Xing header libmpg123 drops the delay of its own decoder. The silence, of which the header lets it drop the
    rest, takes the place of what would be lost, so that the samples are those of the file without a header.
    """
    skipped = frame.samples - _DECODER_DELAY
    content = b"Xing" + struct.pack(">II", _FRAMES_STATED, count + 1)
    content += b"LAME".ljust(21, b"\0") + bytes([skipped >> 4, (skipped & 15) << 4, 0]) + bytes(12)
    return _silence(header, frame, content) + _silence(header, frame, b"")


def _silence(header: bytes, frame: _Frame, content: bytes) -> bytes:
    """Return the shortest frame of silence that holds ``content`` after its side information."""
    for code in range(1, 15):
        start = bytes([0xFF, header[1] | 1, code << 4 | header[2] & 0x0C, header[3]])
        opening = _frame(start)
        if opening is not None and opening.size >= 4 + frame.side + len(content):
            return (start + bytes(frame.side) + content).ljust(opening.size, b"\0")
    raise AssertionError("320 kbit/s hold a header")
