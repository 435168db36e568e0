"""End all ranks that compute samples together when one of them fails.

A rank that fails inside a network leaves the others in a collective that it will never enter, and it could
not try again without them. So it records its failure in the store at which the ranks met, and no rank
continues. On CPUs its end breaks the connections of the others, which raises there. On GPUs, or where a
connection was not made yet, a collective may wait on; hence a thread of every rank watches the store, and
ends a process that has not left the collective by itself. A rank that is killed records nothing; it is
noticed by its missing signs of life (`core/distributed/waiting.py`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from core.distributed.waiting import Silence
from core.errors import PEER_LOST, PeerLost, RankFailed, UserError, WorkError
from core.run import ends
from core.run.last_line import tell

KEY = "longtake/sample/failed"
LOOK_S = 1.0  # between two looks at the store
GRACE_S = 5.0  # for a process to leave a collective by itself
LOST_S = 120.0  # without a sign of life: a rank that computes gives one every 5 s
ADVICE = "a smaller batch, more ranks or, in another output, sampler.guide.together=false take less"
_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory")  # torch's allocator on a CPU


class FailureWatch:
    """A watch by which ranks that compute together end together; this one is `rank` of `size`.

    store: where the ranks met.  silence: of the others.  end: ends the process with a status.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        silence: Silence | None = None,
        end: Callable[[int], object] = os._exit,
        grace_s: float = GRACE_S,
    ) -> None:
        self._store, self._rank, self._size, self._end, self._grace_s = store, rank, size, end, grace_s
        self._silence, self._inside = silence, 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="failure watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching the other ranks."""
        self._closed.set()
        self._thread.join()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Compute with the others within the block.

        RankFailed where this rank fails there, PeerLost where another one has. A signal passes, noted.
        """
        self._require_others()
        with self.leaving():
            try:
                yield
            except BaseException as error:
                self._end_together(error)
                raise

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Let the others know of an error of the block, which nobody else may wait in."""
        try:
            yield
        except BaseException as error:
            self._noted(error)
            raise

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """Be ended within the block, where it takes long after a rank has failed."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def _end_together(self, error: BaseException) -> None:
        """Note an error of shared work and raise what it is to this rank; a signal is only noted."""
        if isinstance(error, RankFailed | PeerLost):
            raise error
        rank, text = self._noted(error)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            return
        if rank != self._rank or ends.kind_of(error) == "peer":
            raise PeerLost(text) from error
        if not _is_of_memory(error) and ends.kind_of(error) == "error":
            sys.excepthook(*sys.exc_info())  # a bug, of which more than a line is to be seen
        raise RankFailed(text) from error

    def _require_others(self) -> None:
        failed = self._failure()
        if failed is not None and failed[0] != self._rank:
            raise PeerLost(failed[1])

    def _failure(self) -> tuple[int, str] | None:
        """Return the rank that failed first and what it said; None where none has."""
        try:
            said = self._store.get(KEY).decode() if self._store.check([KEY]) else ""
        except RuntimeError:  # the host of the store has died
            return -1, "the rank that hosts their store has ended"
        rank, _, text = said.partition(" ")
        return (int(rank), text) if said else None

    def _noted(self, error: BaseException) -> tuple[int, str]:
        """Say that this rank has failed; return the rank that did so first, and its words."""
        own = f"{self._rank} {self._described(error)}"
        try:
            said = self._store.compare_set(KEY, "", own).decode()  # what was there, else what is now
        except RuntimeError:
            said = own
        rank, _, text = said.partition(" ")
        return int(rank), text

    def _described(self, error: BaseException) -> str:
        which = f"rank {self._rank} of the {self._size} that share the tokens of every sample"
        reason = " ".join((str(error).splitlines() or [""])[0].split())
        if isinstance(error, SystemExit | KeyboardInterrupt):
            return f"{which} was asked to end"
        if ends.kind_of(error) == "peer":
            return reason or type(error).__name__
        if _is_of_memory(error):
            return f"memory ran out on {which}: {reason} ({ADVICE})"
        is_said = isinstance(error, UserError | WorkError)
        return f"{which} failed: {reason if is_said else f'{type(error).__name__}: {reason}'}"

    def _lost(self) -> str:
        """Say which rank has been silent for too long; "" for none."""
        if self._silence is not None:
            try:
                self._silence.require_signs()
            except PeerLost as error:
                return str(error)
        return ""

    def _watch(self) -> None:
        """End this process where a rank has failed and this one does not leave its collective."""
        since: float | None = None
        while not self._closed.wait(min(LOOK_S, self._grace_s / 4)):
            failed, lost = self._failure(), self._lost()
            if not self._inside or (failed is None and not lost):
                since = None
                continue
            failed = failed or (-1, lost)
            since = time.monotonic() if since is None else since
            if time.monotonic() - since >= self._grace_s:
                is_own = failed[0] == self._rank
                line = failed[1] if is_own else f"ended because another rank has: {failed[1]}"
                tell(f"longtake sample: {line}", failed=True)
                self._end(1 if is_own else PEER_LOST)
                return


def _is_of_memory(error: BaseException) -> bool:
    no_room = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(no_room) or ends.kind_of(error) == "memory"
