"""Memory for batches that is used again and again, by the process that trains and by those that read for it."""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

__all__ = ["BatchMemory"]

#: of each reader: the batch that is trained on, the one that Lightning asks for ahead, and two more on the way
BLOCKS = 4
_PAGE = mmap.PAGESIZE
_present: weakref.WeakValueDictionary[int, BatchMemory] = weakref.WeakValueDictionary()


class BatchMemory:
    """Blocks of memory, each for one batch, and free again once nothing refers to the batch that is in it.

    New memory for every batch costs the kernel more time than most files take to decode. The blocks lie in memory that
    processes share if they are forked after this object was made: a reader fills a block and sends its number. If no
    block is free, or the reader was not forked, the batch takes new memory, and all else is the same.

    Args:
        size: bytes of a batch, at most. Memory that is never written to is never taken.
        readers: processes that read; 0: the one that trains.
    """

    def __init__(self, size: int, readers: int = 0) -> None:
        self._size = -(-size // _PAGE) * _PAGE
        self._blocks = max(1, readers) * BLOCKS
        self._process = os.getpid()
        try:
            self._map = mmap.mmap(-1, self._blocks * self._size + _PAGE)  # the last page: which blocks are in use
        except (OSError, OverflowError):
            self._map, self._blocks = mmap.mmap(-1, _PAGE), 0
        if self._blocks > _PAGE:
            self._blocks = 0
        _present[id(self)] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return itself in the process that made it; in a process that was not forked, memory without blocks."""
        return _found, (id(self),)

    def take(self, size: int) -> int | None:
        """Return a free block for ``size`` bytes, of those of this reader, which is in use from now on; None: none."""
        reader = get_worker_info()
        begin = 0 if reader is None else BLOCKS * reader.id
        if size <= self._size:
            for block in range(begin, min(begin + BLOCKS, self._blocks)):
                if not self._map[self._flag(block)]:
                    self._map[self._flag(block)] = 1
                    return block
        return None

    def free(self, block: int) -> None:
        """Let a block be used again."""
        self._map[self._flag(block)] = 0

    def samples(self, block: int, count: int, lent: bool) -> Tensor:
        """Return the first ``count`` float32 samples of a block.

        Args:
            block: of :meth:`take`, perhaps in another process.
            count: number of samples.
            lent: whether the block is free again as soon as nothing refers to the result.
        """
        array: np.ndarray = np.frombuffer(self._map, np.float32, count, block * self._size)
        if lent:
            # a process that is forked later inherits the tensor, but has no say about the block
            weakref.finalize(array, _freed, self._map, self._flag(block), os.getpid()).atexit = False
        return torch.from_numpy(array)

    def _flag(self, block: int) -> int:
        return len(self._map) - _PAGE + block


def _freed(memory: mmap.mmap, flag: int, process: int) -> None:
    if os.getpid() == process:
        memory[flag] = 0


def _found(key: int) -> BatchMemory:
    memory = _present.get(key)
    if memory is None:
        memory = BatchMemory(0)
        memory._blocks = 0
    return memory
