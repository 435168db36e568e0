"""How the writing of a save goes on: at a pace that slows nothing beside it, and with signs of life."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

SYNC_BYTES = 1 << 26  # what may wait for the disk at once
HURRIED_SYNC_BYTES = 1 << 30  # the same where somebody waits: more, so that hashing and the disk overlap
LEAST_BYTES_PER_S = 2.5e7  # slower gains little, and until the write ends a kill costs more
YIELD = 5  # of 19: a third of another thread's share, and not starved where others never rest


class Pace:
    """Spreads a write evenly over some time, for the thread that makes one.

    total: bytes.  seconds: until they should be out; `hurry` ends the waiting.  waited_s: until now. Beside
    the even rate, two things keep the write out of the way: at most SYNC_BYTES are dirty, so that the disk
    never has a burst to take in which others wait; and the threads that write and hash yield the processor to
    all others (Linux).

    Every piece that is written is a sign of life, which the watchdog asks for (`silence`). Therefore a write
    that is not spread is sent to the disk in pieces as well: its end alone could take hours.
    """

    def __init__(self, total: int, seconds: float, *, waited_for: bool = False) -> None:
        """waited_for: from the start on, so that nothing is spread and nothing yields."""
        self.seconds = min(seconds, total / LEAST_BYTES_PER_S)
        self._total, self._done, self._unsynced = max(1, total), 0, 0
        self._begun: float | None = None
        self._hurried = threading.Event()
        self.waited_s = 0.0
        self._moved, self._waits_for_others = time.monotonic(), False
        self._yields = not waited_for
        if waited_for:
            self._hurried.set()

    def yield_processor(self) -> None:
        """Lower this thread's priority, for good; called by each thread of the write."""
        if self._yields and sys.platform == "linux":  # elsewhere priorities are of whole processes
            os.nice(YIELD)

    def wrote(self, file: IO[bytes], size: int) -> None:
        """Called after each piece of `file`: send it to the disk, and wait until the next one is due."""
        if self._begun is None:
            self._begun = time.monotonic()
        self._done += size
        self._unsynced += size
        if self._unsynced >= (HURRIED_SYNC_BYTES if self._hurried.is_set() else SYNC_BYTES):
            file.flush()
            os.fdatasync(file.fileno())
            self._unsynced = 0
        self.moved()
        if self._hurried.is_set():
            return
        due = self._begun + self.seconds * self._done / self._total
        before = time.monotonic()
        self._hurried.wait(max(0.0, due - before))
        self.waited_s += time.monotonic() - before
        self.moved()

    def moved(self) -> None:
        """Give a sign of life."""
        self._moved = time.monotonic()

    @contextlib.contextmanager
    def waiting_for_others(self) -> Iterator[None]:
        """Within the block it is for other ranks to give signs of life."""
        self._waits_for_others = True
        try:
            yield
        finally:
            self.moved()
            self._waits_for_others = False

    def silence(self) -> float:
        """Return the seconds since this rank's part last went on; 0 while it waits for the others'."""
        return 0.0 if self._waits_for_others else time.monotonic() - self._moved

    def hurry(self) -> None:
        """Somebody waits for this write: no more waiting, from any thread."""
        self._hurried.set()
