"""Write in the background without slowing what goes on beside it."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import IO

SYNC_BYTES = 1 << 26  # what may wait for the disk at once
LEAST_BYTES_PER_S = 2.5e7  # slower gains little, and until the write ends a kill costs more
YIELD = 5  # of 19: a third of another thread's share, and not starved where others never rest


class Pace:
    """Spreads a write evenly over some time, for the thread that makes one.

    total: bytes.  seconds: until they should be out; `hurry` ends the waiting.  waited_s: until now. Beside
    the even rate, two things keep the write out of the way: at most SYNC_BYTES are dirty, so that the disk
    never has a burst to take in which others wait; and the threads that write and hash yield the processor to
    all others (Linux).
    """

    def __init__(self, total: int, seconds: float) -> None:
        self.seconds = min(seconds, total / LEAST_BYTES_PER_S)
        self._total, self._done, self._unsynced = max(1, total), 0, 0
        self._begun: float | None = None
        self._hurried = threading.Event()
        self.waited_s = 0.0

    def yield_processor(self) -> None:
        """Lower this thread's priority, for good; called by each thread of the write."""
        if sys.platform == "linux":  # elsewhere priorities are of whole processes
            os.nice(YIELD)

    def wrote(self, file: IO[bytes], size: int) -> None:
        """Called after each piece of `file`: send it to the disk, and wait until the next one is due."""
        if self._begun is None:
            self._begun = time.monotonic()
        self._done += size
        self._unsynced += size
        if self._hurried.is_set():
            return
        if self._unsynced >= SYNC_BYTES:
            file.flush()
            os.fdatasync(file.fileno())
            self._unsynced = 0
        due = self._begun + self.seconds * self._done / self._total
        before = time.monotonic()
        self._hurried.wait(max(0.0, due - before))
        self.waited_s += time.monotonic() - before

    def hurry(self) -> None:
        """Somebody waits for this write: no more waiting, from any thread."""
        self._hurried.set()
