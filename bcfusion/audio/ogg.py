"""The pages of an Ogg file: its links, and whether its end is there.

A chained Ogg file is several whole streams, one after the other, as stations and recorders write them; libsndfile reads
only the first. A file whose end was cut off decodes without an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bcfusion.audio.views import Layout, Piece, Source

__all__ = ["layout"]

_AHEAD = 1 << 17  # bytes searched at once for the next page; one has at most 65,307
_HEADER = 27
_START = b"OggS\0"
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

    The headers of all pages are read: the last page alone does not tell a chain from a stream, since links that were
    copied one after the other may have the same number.
    """
    if head[:4] != b"OggS":
        return None
    links: list[int] = []
    streams: list[set[bytes]] = []  # of each link: without the flag, streams side by side begin together
    ended: set[bytes] = set()
    beginning = within = False  # within: an earlier link has no end
    end = 0
    for page in _pages(source):
        end = page.end
        begins = bool(page.flags & _BEGINS)
        if begins and not beginning:
            within = within or (bool(streams) and not streams[-1] <= ended)
            links.append(page.start)
            streams.append(set())
            ended = set()
        if begins:
            streams[-1].add(page.stream)
        if page.flags & _ENDS:
            ended.add(page.stream)
        beginning = begins
    rest = source.read(end, 4)
    cut = bool(rest and b"OggS".startswith(rest)) or not streams or not streams[-1] <= ended
    stops = [*links[1:], source.size][: len(links)]  # none if the file ends within its first page
    views: tuple[tuple[Piece, ...], ...] = tuple(
        ((start, stop - start),) for start, stop in zip(links, stops, strict=True)
    )
    chain = f"a chain of {len(links)} streams" if len(links) > 1 else ""
    inner = "the end of a stream within it is missing" if within else ""
    remark = "; ".join(text for text in (chain, inner, END_MISSING if cut else "") if text)
    return Layout(views if len(links) > 1 else (), remark, cut or within)


def _page(source: Source, start: int) -> _Page | None:
    """Return the page that starts at a byte, also if the file ends within it."""
    header = source.read(start, _HEADER + 255)
    if len(header) < _HEADER or header[:5] != _START:
        return None
    segments = header[26]
    end = start + _HEADER + segments + sum(header[_HEADER : _HEADER + segments])
    return _Page(start, end, header[5], header[14:18])


def _pages(source: Source) -> Iterator[_Page]:
    """Yield the whole pages in order; what is no page is passed over.

    Behind a page that was cut, the next one starts within the bytes that its header counts.
    """
    position = searched = 0
    held, begin = b"", 0  # bytes that are searched, and where they begin
    while position + _HEADER <= source.size:
        page = _page(source, position)
        if page is None:
            if not begin <= searched + 1 <= begin + len(held) - len(_START):
                begin = searched + 1
                held = source.read(begin, _AHEAD)
            found = held.find(_START, searched + 1 - begin)
            searched = begin + found if found >= 0 else max(searched + 1, begin + len(held) - len(_START) + 1)
            position = searched
            continue
        if page.end > source.size:
            return
        yield page
        position, searched = page.end, page.start
