"""Hand the pieces of a unit's result, as they are produced, to a thread that processes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Generic, TypeVar

WAITING = 2  # pieces for which the thread has no time yet; then who makes them waits

T = TypeVar("T")


class _Abandoned(Exception):
    """There will be no more pieces, and nothing is to be made of those that were."""


class HandingOver(Generic[T]):
    """A thread that runs `take` on an iterator over the pieces.

    What `take` raises is raised by the next `add`, or by `finish`. The thread ends by itself after that,
    `close` or `give_up`, whether anybody waits for it or not.
    """

    def __init__(self, name: str, take: Callable[[Iterator[T]], None]) -> None:
        self._pieces: Queue[tuple[T] | _Abandoned | None] = Queue(WAITING)
        self._has_ended = False  # the thread has seen the last of them
        self._pool, self._take = ThreadPoolExecutor(1, thread_name_prefix=name), take

    def start(self) -> None:
        """Start the thread, where `give_up` follows whatever is raised: a signal may be, here already."""
        self._taken = self._pool.submit(self._take, self._arriving())
        self._pool.submit(self._drain)

    def add(self, piece: T) -> None:
        """Hand over the next piece."""
        if self._taken.done():
            self.close()
            return self._taken.result()
        self._pieces.put((piece,))

    def close(self) -> None:
        """Say that no further piece comes."""
        self._pieces.put(None)

    def finish(self) -> None:
        """Wait, after `close`, until `take` has returned."""
        self._pool.shutdown()
        self._taken.result()

    def give_up(self) -> None:
        """Have the iterator raise, and wait until the thread has ended."""
        self._pieces.put(_Abandoned())
        self._pool.shutdown()

    def _arriving(self) -> Iterator[T]:
        while isinstance(piece := self._pieces.get(), tuple):
            yield piece[0]
        self._has_ended = True
        if piece is not None:
            raise piece

    def _drain(self) -> None:
        """Take what else comes where `take` ended before the pieces did, so that nobody waits for room."""
        while not self._has_ended and isinstance(self._pieces.get(), tuple):
            pass
