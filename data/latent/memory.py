"""Memory for batches that is reused as soon as no tensor refers to it."""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

_SMALL = 1 << 20  # bytes that the allocator hands out again by itself
_HUGE_PAGE = 1 << 21
KEPT_BYTES = 128 << 20  # most that is kept for later


class BatchMemory:
    """Hands out uninitialised memory, and takes it back when the last tensor on it is freed.

    A fresh block of 18 MB costs 4500 page faults, each of which zeroes a page: more than filling it. A tensor
    may be kept as long as one likes: its memory is free only when its storage is, views included. At most
    KEPT_BYTES wait to be used again. Not thread-safe, though tensors may be freed in any thread.
    """

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque()  # oldest first
        self._returned: deque[mmap.mmap] = deque()  # by whichever thread let go of a tensor

    def empty(self, size: int, *, pin: bool = False) -> Tensor:
        """Allocate (size,) uint8 on the CPU, pinned if `pin` (PyTorch itself reuses pinned memory)."""
        if pin or size < _SMALL:
            return torch.empty(size, dtype=torch.uint8, pin_memory=pin)
        block = self._take(size) or _new_block(size)
        view = np.frombuffer(block, np.uint8, size)
        # The storage holds the only reference to this array, and releases it when it is freed.
        weakref.finalize(view, self._returned.append, block).atexit = False
        return torch.from_numpy(view)

    def _take(self, size: int) -> mmap.mmap | None:
        """Take the smallest free block that holds `size` bytes and is not more than twice as long.

        None if none fits.
        """
        while self._returned:
            self._free.append(self._returned.popleft())
        fitting = [block for block in self._free if size <= len(block) < 2 * size + _HUGE_PAGE]
        best = min(fitting, key=len, default=None)
        if best is not None:
            self._free.remove(best)
        while sum(map(len, self._free)) > KEPT_BYTES:
            self._free.popleft()
        return best


def _new_block(size: int) -> mmap.mmap:
    """Allocate private zeroed memory, in huge pages where the system has them."""
    block = mmap.mmap(-1, -(-size // _HUGE_PAGE) * _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block
