"""Make items ahead of their use in a thread, with as little overhead as possible for the consumer.

A step of training pays for what it does between two batches. So the hand-over is two queues without locks of
Python's own, and the thread lets go of a batch that was used: to free its dozen tensors takes as long as all
the rest (25 of 90 microseconds; an executor with its futures took the other 50). And torch computes in the
thread by itself (`core/reading/side_threads.py`).
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from core.reading.side_threads import side_thread

T = TypeVar("T")


def read_ahead(make: Callable[[int], T], first: int, depth: int, stop: int | None = None) -> Iterator[T]:
    """Yield make(first), make(first + 1), ... up to `stop` (None: endless), `depth` made ahead by one thread.

    An error of `make` is raised where its result is due. Closing the iterator waits for the call under way.
    """
    numbers = itertools.count(first) if stop is None else iter(range(first, stop))
    wanted: SimpleQueue[tuple[int | None, list[Any]]] = SimpleQueue()  # a number, and what was used
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    thread = side_thread(_work, make, wanted, made, name="read-ahead")

    def close() -> None:
        with contextlib.suppress(Empty):
            while True:
                wanted.get_nowait()
        wanted.put((None, []))
        thread.join()

    thread.start()
    atexit.register(close)  # the interpreter must not end while a daemon computes
    try:
        waiting = 0
        for number in itertools.islice(numbers, depth):
            wanted.put((number, []))
            waiting += 1
        result = None
        while waiting:
            used = [result]  # alone refers to it in a moment, and is emptied by the thread
            result, error = made.get()
            following = next(numbers, None)
            waiting -= following is None
            wanted.put((following, used))
            if error is not None:
                raise error
            yield result
    finally:
        atexit.unregister(close)
        close()


def _work(
    make: Callable[[int], T],
    wanted: SimpleQueue[tuple[int | None, list[Any]]],
    made: SimpleQueue[tuple[Any, BaseException | None]],
) -> None:
    while True:
        number, used = wanted.get()
        used.clear()
        if number is None:
            return
        try:
            made.put((make(number), None))
        except BaseException as error:
            made.put((None, error))
