"""The pages of an Ogg file: its links, and whether its end is there.

A chained Ogg file is several whole streams, one after the other, as stations and recorders write them; libsndfile reads
only the first. A file whose end was cut off decodes without an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bcfusion.audio.views import Layout, Piece, Source

__all__ = ["layout"]

_TAIL = 1 << 17  # bytes; a page has at most 65,307
_HEADER = 27
_BEGINS, _ENDS = 2, 4  # flags of a page: the first, and the last, of its stream
END_MISSING = "its end is missing"


class _Page(NamedTuple):
    """One page: where it starts and ends in the file, its flags, and the number of its stream."""

    start: int
    end: int
    flags: int
    stream: bytes


def layout(source: Source, head: bytes) -> Layout | None:
    """Return how a file is read; None if it is no Ogg file.

    The last page of a whole file with one stream says that it is the last, so that only the end is looked at. Otherwise
    the headers of all pages are read.
    """
    if head[:4] != b"OggS":
        return None
    first = _page(source, 0)
    last, rest = _last(source)
    if first is None or last is None:
        return Layout(cut=True, remark=END_MISSING)
    if first.stream == last.stream and last.flags & _ENDS and not rest:
        return Layout()
    links: list[int] = []
    streams: list[set[bytes]] = []  # of each link: without the flag, streams side by side begin together
    ended: set[bytes] = set()
    beginning = False
    for page in _pages(source):
        begins = bool(page.flags & _BEGINS)
        if begins and not beginning:
            links.append(page.start)
            streams.append(set())
            ended = set()
        if begins:
            streams[-1].add(page.stream)
        if page.flags & _ENDS:
            ended.add(page.stream)
        beginning = begins
    cut = rest or not streams or not streams[-1] <= ended
    stops = [*links[1:], source.size]
    views: tuple[tuple[Piece, ...], ...] = tuple(
        ((start, stop - start),) for start, stop in zip(links, stops, strict=True)
    )
    chain = f"a chain of {len(links)} streams" if len(links) > 1 else ""
    remark = "; ".join(text for text in (chain, END_MISSING if cut else "") if text)
    return Layout(views if len(links) > 1 else (), remark, cut)


def _page(source: Source, start: int) -> _Page | None:
    """Return the page that starts at a byte, also if the file ends within it."""
    header = source.read(start, _HEADER + 255)
    if len(header) < _HEADER or header[:5] != b"OggS\0":
        return None
    segments = header[26]
    end = start + _HEADER + segments + sum(header[_HEADER : _HEADER + segments])
    return _Page(start, end, header[5], header[14:18])


def _last(source: Source) -> tuple[_Page | None, bool]:
    """Return the last whole page, and whether a part of another one follows."""
    begin = max(0, source.size - _TAIL)
    tail = source.read(begin, _TAIL)
    cut = any(tail.endswith(b"OggS"[:count]) for count in (1, 2, 3))
    place = len(tail)
    while (place := tail.rfind(b"OggS", 0, place)) >= 0:
        page = _page(source, begin + place)
        if page is not None and page.end <= source.size:
            return page, cut and page.end < source.size
        cut = True
    return None, cut


def _pages(source: Source) -> Iterator[_Page]:
    """Yield the whole pages in order; what is no page is passed over."""
    position = 0
    while position + _HEADER <= source.size:
        page = _page(source, position)
        if page is None:
            ahead = source.read(position + 1, _TAIL)
            found = ahead.find(b"OggS")
            position += 1 + (found if found >= 0 else max(1, len(ahead) - 3))
            continue
        if page.end > source.size:
            return
        yield page
        position = page.end
