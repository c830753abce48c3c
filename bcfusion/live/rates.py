"""A sound card at another sample rate than the network: resampling on the way in and on the way out."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import soxr

from bcfusion.inference.stepping import Frames

__all__ = ["StreamResampler", "least_reserve"]

_BLOCKS = 200  # of a rehearsal, before the pattern is one that repeats
_MOST_BLOCKS = 20_000  # of a rehearsal: a second of computing


class StreamResampler:
    """Blocks of one sample rate become blocks of another, late by a constant number of samples.

    It is soxr's converter for variable rates: in a stream it holds 5 to 15 ms, the one for fixed rates up to 58 ms.

    Args:
        from_rate: in Hz.
        to_rate: in Hz.
        channels: number of channels.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self._channels = channels
        self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ", vr=True)

    def __call__(self, block: Frames) -> Frames:
        """Convert ``(n, C)`` to ``(m, C)``; m varies, and is 0 at the start."""
        converted = self._stream.resample_chunk(np.ascontiguousarray(block if self._channels > 1 else block[:, 0]))
        return cast("Frames", converted.reshape(-1, self._channels))


def least_reserve(frame: int, rate: int, device_rate: int, block: int) -> int:
    """Return how many samples have to wait for the sound card at the start, so that it is never short of any.

    It is found by a rehearsal with a network that takes no time at all.

    Args:
        frame: samples that the network takes at once.
        rate: of the network, in Hz.
        device_rate: in Hz.
        block: samples that the sound card takes at once.

    Returns:
        Samples at ``device_rate``; ``frame`` if the rates are equal and a block is a frame.

    Example:
        >>> least_reserve(256, 16000, 16000, 256), least_reserve(256, 16000, 16000, 96)
        (256, 320)
        >>> 300 < least_reserve(256, 16000, 48000, 768) / 3 < 1100
        True
    """
    if rate == device_rate:
        spans = range(block, block * (frame + 1), block)
        return max(span - (span - block) // frame * frame for span in spans)
    inward, outward = StreamResampler(device_rate, rate, 1), StreamResampler(rate, device_rate, 1)
    period = device_rate * frame // math.gcd(block * rate, device_rate * frame)  # blocks after which all repeats
    silence = np.zeros((max(block, frame), 1), dtype=np.float32)
    pending = made = reserve = 0
    for number in range(1, min(_BLOCKS + period, _MOST_BLOCKS) + 1):
        reserve = max(reserve, number * block - made)
        pending += len(inward(silence[:block]))
        while pending >= frame:
            made += len(outward(silence[:frame]))
            pending -= frame
    return reserve
