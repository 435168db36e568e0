"""The rest of a unit's work on a thread, beside the work on the next unit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from core.queue.leases import Lease


class Completion:
    """Runs `rest` on a thread of its own, from the moment it is made.

    lease: of the unit, which stays ours until `close`.  held: what keeps it alive.
    """

    def __init__(self, lease: Lease, held: ExitStack, rest: Callable[[], None]) -> None:
        self.lease, self._held = lease, held
        self._pool = ThreadPoolExecutor(1, f"rest of {lease.unit}")
        self._rest = self._pool.submit(rest)

    def join(self) -> None:
        """Wait for the rest; raise what it raised."""
        self._rest.result()

    def close(self) -> None:
        """Wait for the rest, then give the lease back."""
        self._pool.shutdown()
        self._held.close()
