"""A form that is received piece by piece: its files go to a folder, and nothing is believed that was not counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bcfusion.audio.formats import EXTENSIONS, FOREIGN

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["Form", "Refused", "receive_form"]

MOST_FIELDS = 8
LONGEST_FIELD = 1024  # bytes
PIECE = 4096  # bytes that are parsed at once: some content takes the parser 1 µs for each
LONGEST_NAME = 120  # characters of a file's name, as it is shown


class Refused(Exception):
    """A request that is not fulfilled.

    Args:
        status: of HTTP.
        error: a sentence that says what to do.
    """

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


@dataclass
class Form:
    """What was received.

    Attributes:
        values: the fields that are no files.
        files: name as it was sent, and where the content is.
    """

    values: dict[str, str] = field(default_factory=dict)
    files: list[tuple[str, Path]] = field(default_factory=list)


async def receive_form(kind: str, pieces: AsyncIterator[bytes], folder: Path, max_bytes: int, max_files: int) -> Form:
    """Receive a form ``multipart/form-data``.

    Args:
        kind: the header ``Content-Type``.
        pieces: the body.
        folder: where the files are written, under names of our own.
        max_bytes: of the whole body.
        max_files: that it may hold.

    Raises:
        Refused: it is too big, or no such form.
        OSError: the disk does not take it.
    """
    media, options = parse_options_header(kind)
    boundary = options.get(b"boundary")
    if media != b"multipart/form-data" or not boundary:
        raise Refused(422, "send a form: multipart/form-data with the fields model and file")
    receiver = _Receiver(folder, max_files)
    try:
        parser = MultipartParser(boundary, receiver.callbacks(), max_header_count=8, max_header_size=4096)
        received = 0
        async for piece in pieces:
            received += len(piece)
            if received > max_bytes:
                raise Refused(413, f"the upload is larger than {max_bytes / 1e6:g} MB: send a shorter recording")
            for start in range(0, len(piece), PIECE):
                parser.write(piece[start : start + PIECE])
                await asyncio.sleep(0)
        parser.finalize()
    except FormParserError as error:
        raise Refused(422, "the form is damaged: send it again") from error
    finally:
        receiver.close()
    if not receiver.ended:
        raise Refused(422, "the form ends too early: send it again")
    return receiver.form


class _Receiver:
    """What the parser calls. A piece of 64 kB goes to the disk's cache in less time than a thread takes to start."""

    def __init__(self, folder: Path, max_files: int) -> None:
        self.form = Form()
        self.ended = False
        self._folder, self._max_files = folder, max_files
        self._parts = 0
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value = bytearray()
        self._file: BinaryIO | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_FIELDS + self._max_files:
            raise Refused(422, "the form has too many parts: send model, strength and file")
        self._headers, self._header = {}, (bytearray(), bytearray())

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._value = bytearray()
        if b"filename" not in options:
            if not self._name:
                raise Refused(422, "a field of the form has no name: send model, strength and file")
            if self._name in self.form.values:
                raise Refused(422, f"the field {_shown(self._name)} is there twice: send it once")
            if len(self.form.values) >= MOST_FIELDS:
                raise Refused(422, "the form has too many fields: send model, strength and file")
            return
        if self._name != "file":
            raise Refused(422, "the files of the form must be named file")
        if len(self.form.files) >= self._max_files:
            raise Refused(422, f"the form has more than {self._max_files} files: send one for each sensor")
        shown = _shown(options[b"filename"].decode("utf-8", "replace"))
        suffix = Path(shown).suffix.lower()
        known = suffix if suffix in EXTENSIONS or suffix in FOREIGN else ""
        path = self._folder / f"upload-{len(self.form.files)}{known}"
        self.form.files.append((shown, path))
        self._file = path.open("xb")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])
            return
        self._value.extend(memoryview(data)[start:end])
        if len(self._value) > LONGEST_FIELD:
            raise Refused(422, f"the field {_shown(self._name)} is too long")

    def _part_end(self) -> None:
        if self._file is not None:
            self.close()
        else:
            self.form.values[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True


def _shown(name: str) -> str:
    """Return the name of a file as it may be shown: without folders and control characters, not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[-LONGEST_NAME:] or "recording"
