"""Samples of an ordinary WAV file, read without libsndfile: opening it there takes longer than reading a crop."""

from __future__ import annotations

import struct

import numpy as np

from bcfusion.audio.formats import RATES
from bcfusion.audio.views import Plain, Source

__all__ = ["GUID", "PlainSound", "plain"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
#: by format tag and bits: libsndfile's name, how a sample is stored, and the factor to [-1, 1]
_KINDS: dict[tuple[int, int], tuple[str, str, float]] = {
    (_PCM, 16): ("PCM_16", "<i2", 2.0**-15),
    (_PCM, 24): ("PCM_24", "<i4", 2.0**-31),  # as the upper bytes of 32 bits
    (_PCM, 32): ("PCM_32", "<i4", 2.0**-31),
    (_FLOAT, 32): ("FLOAT", "<f4", 1.0),
}
GUID = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")  #: of an extensible format, after its tag
_MOST_CHANNELS = 64


def plain(form: bytes, begin: int, size: int) -> Plain | None:
    """Return how the samples of a RIFF file are stored; None if libsndfile has to read it.

    Args:
        form: the whole chunk ``fmt``.
        begin: first byte of the samples.
        size: bytes of the samples.
    """
    if len(form) < 24 or form[:4] != b"fmt ":
        return None
    tag, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", form, 8)
    name = "WAV"
    if tag == _EXTENSIBLE and len(form) >= 48:
        valid, _, tag = struct.unpack_from("<HIH", form, 26)
        if valid != bits or form[34:48] != GUID:
            return None
        name = "WAVEX"
    usual = 0 < channels <= _MOST_CHANNELS and RATES[0] <= rate <= RATES[1] and block == channels * (bits // 8)
    if (tag, bits) not in _KINDS or not usual or size < block:
        return None
    return Plain(begin, size // block, channels, rate, tag, bits, name)


class PlainSound:
    """An open WAV file; it has the attributes of :class:`~bcfusion.audio.sound.Sound`.

    Args:
        source: the file.
        stored: how.
    """

    remark = ""
    cut = False

    def __init__(self, source: Source, stored: Plain) -> None:
        self._source, self._stored = source, stored
        self.frames, self.channels, self.sample_rate = stored.frames, stored.channels, stored.sample_rate
        self.format = stored.format
        self.subtype, self._type, self._factor = _KINDS[stored.tag, stored.bits]

    def close(self) -> None:
        """Do nothing: who opened the file closes it."""

    def read(self, start: int, frames: int) -> np.ndarray:
        """Return samples ``(n, channels)`` float32, as libsndfile does: ``frames`` of them, or as many as there are."""
        stored = self._stored
        width = stored.bits // 8
        block = width * stored.channels
        content = self._source.read(stored.begin + start * block, max(0, min(frames, stored.frames - start)) * block)
        count = len(content) // block
        if stored.bits == 24:
            filled = np.zeros((count * stored.channels, 4), np.uint8)
            filled[:, 1:] = np.frombuffer(content, np.uint8, count * block).reshape(-1, 3)
            values = filled.view(self._type)[:, 0]
        else:
            values = np.frombuffer(content, self._type, count * stored.channels)
        samples = values.astype(np.float32)
        if self._factor != 1.0:
            samples *= np.float32(self._factor)  # a power of two: exact
        return samples.reshape(-1, stored.channels)
