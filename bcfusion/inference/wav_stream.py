"""WAV in a pipe: its header is read and written without seeking, and its length need not be known."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from bcfusion.audio.formats import MOST_CHUNKS, RATES
from bcfusion.audio.pcm import GUID
from bcfusion.errors import AudioError
from bcfusion.inference.pcm import RAW_FORMATS, RawFormat

__all__ = ["WavStream", "opened_wav", "wav_header"]

_UNKNOWN, _LONG_UNKNOWN = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF  # as sizes: up to the end
_PLACEHOLDER = 0x7F000000  # sizes in 32 bits from here on need not be true
_MOST_CHANNELS = 1024  # as in files, which libsndfile reads
_LONGEST_FORMAT = 1 << 16  # bytes of its description
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # format tags
_FORMATS = {(_PCM, 16): "s16le", (_PCM, 24): "s24le", (_PCM, 32): "s32le", (_FLOAT, 32): "f32le"}


@dataclass(frozen=True)
class WavStream:
    """What the header of a WAV says.

    Attributes:
        how: its sample format.
        channels: their number.
        rate: in Hz.
        receive: returns the next bytes of its samples; none at the end.
        missing: returns how many of the bytes that the header promises were not received; 0 if it promises none.
    """

    how: RawFormat
    channels: int
    rate: int
    receive: Callable[[], bytes]
    missing: Callable[[], int]


class _Bytes:
    """Bytes that arrive in pieces of any size, taken in pieces of a wanted size."""

    def __init__(self, receive: Callable[[], bytes], name: str) -> None:
        self._receive, self._name = receive, name
        self._held = b""

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            AudioError: there are fewer.
        """
        while len(self._held) < count:
            data = self._receive()
            if not data:
                raise AudioError(f"{self._name} ends within the header of a WAV")
            self._held += data
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def skip(self, count: int) -> None:
        """Pass over bytes, without holding all of them."""
        while count:
            count -= len(self.take(min(count, 1 << 16)))

    def rest(self, count: int | None) -> tuple[Callable[[], bytes], Callable[[], int]]:
        """Return two functions: the following bytes as they arrive, up to ``count``; and how many of those are left."""
        left = count

        def receive() -> bytes:
            nonlocal left
            if left == 0:
                return b""
            data, self._held = self._held or self._receive(), b""
            if left is not None:
                data = data[:left]
                left -= len(data)
            return data

        return receive, lambda: left or 0


def opened_wav(receive: Callable[[], bytes], name: str) -> WavStream:
    """Read the header of a WAV or RF64, up to its samples.

    Args:
        receive: returns the next bytes, at least one; none at the end.
        name: of the source, for messages.

    Raises:
        AudioError: it is no WAV, or its sample format is not one of :data:`~bcfusion.inference.pcm.RAW_FORMATS`.
    """
    source = _Bytes(receive, name)
    start = source.take(12)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
        raise AudioError(f"{name} is no WAV: give --raw-format {', '.join(RAW_FORMATS)} for samples without a header")
    found: tuple[RawFormat, int, int] | None = None
    long_size = 0  # of the samples, where 32 bits do not suffice
    for _ in range(MOST_CHUNKS):
        kind, size = struct.unpack("<4sI", source.take(8))
        if kind == b"data":
            break
        if kind == b"fmt " and size < _LONGEST_FORMAT:
            found = _format(source.take(size), name)
        elif kind == b"ds64" and 16 <= size < 1 << 16:
            long_size = struct.unpack_from("<Q", source.take(size), 8)[0]
        else:
            source.skip(size)
        source.skip(size % 2)  # chunks begin at even positions
    else:
        raise AudioError(f"{name} is damaged: {MOST_CHUNKS} chunks come before its samples")
    if found is None:
        raise AudioError(f"{name} is no WAV: its samples come before their format")
    if start[:4] == b"RF64" and size == _UNKNOWN:
        size = long_size
    known = size not in (0, _UNKNOWN, _LONG_UNKNOWN)  # to the program that wrote it
    receive, left = source.rest(size if known else None)
    # a program that writes to a pipe may also promise the most that its reader can take: 0x7FFFF000, 0x7F000000, ...
    return WavStream(*found, receive, lambda: 0 if _PLACEHOLDER <= size <= _UNKNOWN else left())


def wav_header(how: RawFormat, rate: int) -> bytes:
    """Return the header of a mono WAV whose length is not known, as programs write it to a pipe.

    Args:
        how: its sample format.
        rate: in Hz.
    """
    tag = _FLOAT if how.is_float else _PCM
    fields = struct.pack("<HHIIHH", tag, 1, rate, rate * how.size, how.size, 8 * how.size)
    sizes = struct.pack("<I", _UNKNOWN)
    return b"RIFF" + sizes + b"WAVEfmt " + struct.pack("<I", len(fields)) + fields + b"data" + sizes


def _format(fields: bytes, name: str) -> tuple[RawFormat, int, int]:
    """Return sample format, channels and rate in Hz from the chunk ``fmt``."""
    if len(fields) < 16:
        raise AudioError(f"{name} is no WAV: the description of its format is too short")
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", fields[:16])
    if tag == _EXTENSIBLE and fields[26:40] == GUID:
        tag = struct.unpack("<H", fields[24:26])[0]
    if (tag, bits) not in _FORMATS or not 0 < channels <= _MOST_CHANNELS or not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"{name} is a WAV of format {tag} with {bits} bits and {channels} channels at {rate} Hz: a pipe takes "
            "integers of 16, 24 and 32 bits and floating-point numbers of 32 bits"
        )
    return RAW_FORMATS[_FORMATS[tag, bits]], channels, rate
