"""The background thread that writes a save: every rank hashes and writes, then rank 0 publishes.

It cannot deadlock: these threads talk over a process group that nothing else uses; each save is begun on all
ranks, after the same step; at most one is under way, and a thread takes part in its collectives whether its
disk failed or not. So on that group all ranks make the same calls in the same order, whatever the main
threads do, and a dead or stopped peer is an error (`distributed/waiting.py`). They wait for one another's
disks as long as it takes: each watches its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from core.checkpoint.pace import Pace
from core.checkpoint.snapshot import Snapshot
from core.checkpoint.store import CheckpointStore
from core.checkpoint.writer import write_checkpoint
from core.distributed import ranks
from core.errors import WorkError
from core.faults import failpoints
from core.reading.side_threads import side_thread
from core.run.run_lock import Attempt

Job = tuple[CheckpointStore, Snapshot]


class SaveThread:
    """Writes one save at a time.

    spread: the part of the time between two saves that a write is spread over.  may_publish: raises WorkError
    unless this attempt still owns the run.  tidy: called on rank 0 with each checkpoint that was published,
    in a store.  timeout_s: after which a silent peer is an error.
    """

    def __init__(
        self,
        *,
        spread: float,
        may_publish: Callable[[], None],
        tidy: Callable[[CheckpointStore, Path], None],
        timeout_s: float,
    ) -> None:
        self._spread, self._may_publish, self._tidy = spread, may_publish, tidy
        self._group = ranks.side_group(timeout_s)
        self._pending: Future[str] | None = None  # the save begun last, until it is handed over
        self._under_way: Future[str] | None = None  # the same, kept
        self._pace: Pace | None = None
        self.longest_s = 0.0  # the longest save so far, without deliberate waits
        self._begun = time.monotonic()  # when the last save began, or the run

    def begin(self, jobs: Sequence[Job], attempt: Attempt, *, waited_for: bool) -> None:
        """Start to write; unless training waits for it, over a part of the time since the save before."""
        now, at = time.monotonic(), failpoints.current_step()
        seconds = self._spread * (now - self._begun)
        pace = Pace(sum(snapshot.bytes for _, snapshot in jobs), seconds, waited_for=waited_for)
        self._pace, self._begun = pace, now
        self._pending = self._under_way = _in_background(lambda: self._write(jobs, attempt, at, pace))

    def hand_over(self) -> Future[str] | None:
        """Hurry the save that was begun last and return it; None if none was left to hand over.

        Its result is the failure, the same on all ranks; '' for none.
        """
        pending, self._pending = self._pending, None
        if self._pace:
            self._pace.hurry()
        return pending

    def silence(self) -> float | None:
        """Return the seconds since the save under way last made progress here, also one that was handed over.

        0 while it waits for other ranks, None where nothing is under way.
        """
        is_under_way = self._under_way is not None and not self._under_way.done()
        return self._pace.silence() if is_under_way and self._pace else None

    def _write(self, jobs: Sequence[Job], attempt: Attempt, step: int | None, pace: Pace) -> str:
        """Write and publish, on the thread."""
        failpoints.pin_step(step)
        begun = time.monotonic()
        pace.yield_processor()
        for store, snapshot in jobs:
            path, check = store.new(snapshot.state["step"], attempt.name), self._may_publish
            try:
                write_checkpoint(
                    path, snapshot, number=attempt.number, may_commit=check, group=self._group, pace=pace
                )
            except WorkError as error:
                return str(error)
            if snapshot.rank == 0:
                self._tidy(store, path)
            # No rank begins the next save before this: the purge would take it for debris of a killed one.
            with pace.waiting_for_others():
                ranks.barrier(self._group)
        self.longest_s = max(self.longest_s, time.monotonic() - begun - pace.waited_s)
        return ""


def _in_background(work: Callable[[], str]) -> Future[str]:
    """Run `work` on a thread that the end of the process does not wait for."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    side_thread(run, name="checkpoint").start()
    return future
