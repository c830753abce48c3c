"""A clock in the place of a sound card: a signal at real-time pace, none of which gets lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from bcfusion.inference.stepping import Frames
from bcfusion.live.engine import Engine

__all__ = ["paced", "unpaced"]

Read = Callable[[int, int], Frames]  #: samples ``(S, n)`` from start to stop

_NAP = 2e-3  # seconds until room is looked for again


def paced(
    engine: Engine,
    read: Read,
    total: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frames]:
    """Give a signal to a running engine as fast as it would be heard, and yield the output.

    The engine must be lossless and work at the rate of its network. A frame that is not ready in time counts as an
    underrun; it is waited for, so that the output is whole.

    Args:
        engine: inside of its ``with`` block.
        read: samples of the signal.
        total: its length in samples.
        clock: seconds, from any point on.
        sleep: waits so many of them.

    Yields:
        Consecutive parts ``(n,)`` of the output, in all ``total`` samples, aligned with the signal.
    """
    count, lookahead = engine.block, engine.stepper.lookahead
    end = -(-(total + lookahead) // count) * count  # whole frames, and zeros that push the rest out
    late = engine.reserve + lookahead
    left, position = total, 0
    played = np.zeros((count, 1), dtype=np.float32)
    nothing = np.zeros((0, len(engine.stepper.sensors)), dtype=np.float32)
    begun = clock()
    for tick in range(1, 2**62):
        heard = _frame(read, position, total, count).T if position < end else nothing
        sleep(max(0.0, begun + tick * count / engine.rate - clock()))
        while engine.room < len(heard):
            engine.check()
            sleep(_NAP)
        position += len(heard)
        found = engine.exchange(heard, played[: min(count, late + left)])
        engine.check()
        part = played[min(late, found) : found, 0]
        late -= min(late, found)
        left -= len(part)
        if len(part):
            yield part.copy()
        if not left:
            return


def unpaced(engine: Engine, read: Read, total: int) -> Iterator[Frames]:
    """Compute a signal as fast as possible, without the engine's thread; see :func:`paced`."""
    engine.stepper.reset()
    count, late, left = engine.stepper.frame, engine.stepper.lookahead, total
    for position in range(0, total + engine.stepper.lookahead, count):
        output = engine.process(_frame(read, position, total, count))
        part = output[late : late + left]
        late -= min(late, len(output))
        left -= len(part)
        if len(part):
            yield part


def _frame(read: Read, position: int, total: int, count: int) -> Frames:
    """Return ``(S, count)`` from ``position`` on, with zeros after the end."""
    begin, end = min(position, total), min(position + count, total)
    frame = read(begin, end)
    return np.ascontiguousarray(np.pad(frame, ((0, 0), (0, count - (end - begin)))))
