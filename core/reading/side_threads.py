"""Threads beside the one that trains, in which torch computes by one thread each.

OpenMP gives every thread that computes a team of its own. As soon as the teams of a process have more members
than it may use processors, GNU's library no longer lets those that wait for one another spin, as they do for
some milliseconds: they sleep at the end of every operation. A step of a small network on two processors then
slept 1,600 times and took up to twice as long, once the thread that reads batches had a team
(docs/benchmarks.md, section "engine").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread, local

import torch

_here = local()
_lock = Lock()


def side_thread(work: Callable[..., None], *arguments: object, name: str) -> Thread:
    """Return a daemon thread, not started yet, that does `work` and in which torch computes by it alone.

    All other threads keep their number.
    """

    def run() -> None:
        _here.number = _set_here(1)
        work(*arguments)

    torch.get_num_threads()  # settles that of this thread, before that of the process is another for a moment
    return Thread(target=run, name=name, daemon=True)


@contextmanager
def all_threads() -> Iterator[None]:
    """Let torch compute by as many threads as elsewhere in the process, in a side thread too.

    For what training waits for, or what gives other bits by another number of threads.
    """
    number = getattr(_here, "number", None)
    if number is None:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        _set_here(1)


def number_of_threads() -> int:
    """Return by how many threads torch computes elsewhere in the process, asked in a side thread too."""
    return getattr(_here, "number", None) or torch.get_num_threads()


def _set_here(number: int) -> int:
    """Set the number of this thread alone; return the one before.

    torch keeps one number for threads to come beside each thread's own, and sets both. So a thread that does
    nothing else puts the former back.
    """
    with _lock:
        before = torch.get_num_threads()  # asked first: it also takes over the number of the process
        if number != before:
            torch.set_num_threads(number)
            other = Thread(target=torch.set_num_threads, args=(before,))
            other.start()
            other.join()
    return before
