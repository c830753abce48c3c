"""A queue of samples between two threads, of a fixed size, that neither of them ever waits for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bcfusion.inference.stepping import Frames

__all__ = ["Ring"]


class Ring:
    """Samples of several channels, first in, first out; one thread writes and one thread reads.

    It needs no lock: ``written`` is changed by the writing thread alone and ``taken`` by the reading one, after the
    samples that they stand for. All memory is allocated at the start, so that the callback of a sound card may use it.

    Args:
        capacity: samples that it holds at most.
        channels: number of channels.

    Attributes:
        written: samples that were ever written.
        taken: samples that were ever read or skipped.

    Example:
        >>> ring = Ring(4, 1)
        >>> ring.write(np.ones((6, 1), np.float32)), ring.held
        (4, 4)
        >>> ring.read(np.zeros((3, 2), np.float32)), ring.held
        (3, 1)
    """

    def __init__(self, capacity: int, channels: int) -> None:
        self._data = np.zeros((capacity, channels), dtype=np.float32)
        self.capacity = capacity
        self.written = self.taken = 0

    @property
    def held(self) -> int:
        """Samples that can be read."""
        return self.written - self.taken

    @property
    def room(self) -> int:
        """Samples that can be written."""
        return self.capacity - self.held

    def write(self, block: Frames, columns: Sequence[int] | None = None) -> int:
        """Append as much of a block as there is room for, and return how many samples that is.

        Args:
            block: ``(n, C)``.
            columns: channels of the block that are taken; None: all of them.
        """
        count = min(len(block), self.room)
        at = self.written % self.capacity
        first = min(count, self.capacity - at)
        if columns is None:
            self._data[at : at + first] = block[:first]
            self._data[: count - first] = block[first:count]
        else:
            for place, column in enumerate(columns):
                self._data[at : at + first, place] = block[:first, column]
                self._data[: count - first, place] = block[first:count, column]
        self.written += count
        return count

    def read(self, into: Frames) -> int:
        """Move the oldest samples to the start of ``into``, and return how many they are.

        Args:
            into: ``(n, C)``; a ring of one channel fills all columns.
        """
        count = min(len(into), self.held)
        at = self.taken % self.capacity
        first = min(count, self.capacity - at)
        into[:first] = self._data[at : at + first]
        into[first:count] = self._data[: count - first]
        self.taken += count
        return count

    def skip(self, count: int) -> int:
        """Discard the oldest ``count`` samples, or all if there are fewer, and return how many they are."""
        count = min(count, self.held)
        self.taken += count
        return count
