"""Share work that waits for system calls and NumPy, not for Python, among threads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from core.reading.side_threads import number_of_threads

T = TypeVar("T")
MOST_THREADS = 4  # more are no faster where the memory is the limit


def shared(pieces: Sequence[T], work: Callable[[T], None]) -> None:
    """Do `work` on all pieces, in order and by this thread alone where torch has one thread in this process.

    Else each thread takes an equal stretch of them, this one the first. The first error is raised when all
    have ended.
    """
    threads = min(MOST_THREADS, number_of_threads(), len(pieces))
    if threads <= 1:
        _all(pieces, work)
        return
    bounds = [len(pieces) * k // threads for k in range(threads + 1)]
    stretches = [pieces[bounds[k] : bounds[k + 1]] for k in range(threads)]
    waiting = [_pool(os.getpid()).submit(_all, stretch, work) for stretch in stretches[1:]]
    try:
        _all(stretches[0], work)
    finally:
        errors = [future.exception() for future in waiting]
    for error in errors:
        if error is not None:
            raise error


def _all(pieces: Sequence[T], work: Callable[[T], None]) -> None:
    for piece in pieces:
        work(piece)


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of this process: a fork has none of those of its parent."""
    return ThreadPoolExecutor(MOST_THREADS - 1, thread_name_prefix="read")
