"""Units of work that any number of workers share through a folder; they may join, leave or be killed.

A worker claims a unit (`core.queue.leases`), checks that it was not finished before, does it, and goes on
until none is left; a unit whose worker shows no sign of life goes to the next. A unit that raises is tried
again after the others, by whoever comes to it, and after `attempts` times recorded as failed, with its
errors. So no worker ever waits for another in a collective, and one unit cannot hold up the rest.

Workers that are killed say little about the unit that they held. A unit that has lost more than `losses` of
them in a row is suspect: it is tried after all others, and given up once three of those workers had finished
other units before. A new start of the command forgets lost workers, a failure never.

Units are chosen by a listing of both folders that may be a minute old, so that a claim costs a few calls of
the file system, however many units there are.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from core.progress import counted, say
from core.queue.completion import Completion
from core.queue.config import QueueConfig
from core.queue.failures import Failure, Failures
from core.queue.full_disk import NO_ROOM
from core.queue.leases import Lease, Leases, LeaseState, Losses

PAUSE_S = 0.05  # the shortest wait for others, in seconds
LISTED_S = 60.0  # the age in seconds up to which units are chosen by a listing
MISSES = 8  # units in a row that others took or finished, after which the listing is too old
PROVEN = 3  # workers that had finished other units, of those lost at a suspect unit: it is given up


class WorkQueue:
    """The units of one job, as one of its workers sees them.

    folder: for leases and failures, the same for all workers.  list_done: the units that are finished now,
    wherever they were done.  is_done: the same of one unit, if there is a cheaper way.  fatal: errors that
    end the worker and are not counted against the unit.
    done: the units that are known to be finished, by the last listing and by this worker.
    """

    def __init__(
        self,
        folder: Path,
        units: Sequence[str],
        config: QueueConfig,
        *,
        list_done: Callable[[], Collection[str]],
        is_done: Callable[[str], bool] | None = None,
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        self.units, self.config, self.fatal = units, config, fatal
        self.list_done = list_done
        self.is_done = is_done or (lambda unit: unit in list_done())
        self.leases, self._failures = Leases(folder, timeout_s=config.timeout_s), Failures(folder)
        self.done: set[str] = set()
        self._random = random.Random(self.leases.token)  # where there are others, each has its own order
        self._candidates: list[tuple[str, int]] = []  # units, each with its newest lease; the next one last
        self._left: list[str] = []
        self._listed = -float("inf")
        self._suspects: set[str] = set()
        self._completion: Completion | None = None  # of the unit before

    def work(
        self,
        do: Callable[[str], Callable[[], None] | None],
        waiting: Callable[[list[LeaseState]], None] = lambda states: None,
        finished: Callable[[str], None] = lambda unit: None,
    ) -> None:
        """Do units until each is done or has failed; `waiting` is called while others hold all that is left.

        What `do` returns, if anything, is the rest of that unit's work: it runs on a thread beside the next
        unit's `do`, one at a time, and the unit's lease is held until it ends.  finished: told of each unit.
        Raises what `do` or the rest raises if it is of `fatal`, or says that nothing can be written any more.
        """
        since: float | None = None  # when this worker began to wait for the others
        try:
            while True:
                try:
                    lease = self._claim_next()
                except FileNotFoundError:
                    self._complete(finished)
                    if self.left():
                        raise
                    return  # another worker has completed the job and removed the folder
                if lease is not None:
                    self._attempt(lease, do, finished)
                elif self._completion is not None:
                    self._complete(finished)
                elif self._left:
                    waiting(self.leases.states())
                    since = time.monotonic() if since is None else since
                    time.sleep(self._pause_s(time.monotonic() - since))
                    continue
                else:
                    return
                since = None
        finally:
            self._complete(finished)

    def _pause_s(self, waited_s: float) -> float:
        """Return how long to wait before another look at what others do: longer, the longer they take.

        At a quarter of a heartbeat from the start, each of a short job's ends would come a second late.
        """
        return min(max(waited_s / 4, PAUSE_S), self.config.heartbeat_s / 4)

    def left(self) -> list[str]:
        """Return the units that are neither done nor given up; those that failed before come last."""
        self.done, failures = set(self.list_done()), {failure.unit: failure for failure in self.failures()}
        left = [u for u in self.units if u not in self.done and not (u in failures and failures[u].final)]
        return sorted(left, key=lambda unit: unit in failures)

    def failures(self) -> list[Failure]:
        """Return the units that failed at least once and are not done, in order."""
        return self._failures.all()

    def forget_failures(self) -> None:
        """Let units that were given up be tried again."""
        for failure in self.failures():
            self._failures.forget(failure.unit)

    def forget_losses(self) -> None:
        """Count lost workers anew, and retry units that were given up for them: the command was restarted."""
        lost = [failure for failure in self.failures() if failure.lost]
        for failure in lost:
            self._failures.forget(failure.unit)
        if lost or self.leases.newest():
            self.leases.forget_losses()

    def _claim_next(self) -> Lease | None:
        """Take a lease of a unit that is left; None where a listing made now shows none that is free."""
        is_new, misses = False, 0
        if time.monotonic() > self._listed + LISTED_S:
            is_new = self._list()
        while True:
            while self._candidates and (is_new or misses < MISSES):
                unit, newest = self._candidates.pop()
                if not self._is_done(unit) and (lease := self.leases.claim(unit, newest)) is not None:
                    return lease
                misses += 1
            if is_new:
                return None
            is_new = self._list()

    def _list(self) -> bool:
        """List the units left and order them: first those that no worker holds, then those that one does;
        failed units come after all of these, and suspect ones last."""
        self._listed = time.monotonic()
        self._left = left = self.left()
        newest = self.leases.newest()
        failed = {failure.unit for failure in self.failures()}
        suspects = {unit for unit in left if self._is_suspect(unit, newest.get(unit, -1))}
        if newest:  # others are at it
            self._random.shuffle(left)
        else:
            left.reverse()  # the next one comes last
        left.sort(key=lambda unit: (unit in suspects, unit in failed, unit in newest), reverse=True)
        self._candidates = [(unit, newest.get(unit, -1)) for unit in left]
        return True

    def _is_suspect(self, unit: str, newest: int) -> bool:
        """Return whether the unit has lost too many workers; reported when it is first seen."""
        if newest < self.config.losses:
            return False  # no more workers were lost than there are leases
        try:
            losses = self.leases.state(unit, newest).losses
        except FileNotFoundError:
            return False  # given back since
        if losses.workers <= self.config.losses:
            return False
        if unit not in self._suspects:
            self._suspects.add(unit)
            say(f"warning: unit {unit} is suspect and is tried last: it {describe_losses(losses)}")
        return True

    def _is_done(self, unit: str) -> bool:
        if unit not in self.done and self.is_done(unit):
            self.done.add(unit)
        return unit in self.done

    def _attempt(
        self,
        lease: Lease,
        do: Callable[[str], Callable[[], None] | None],
        finished: Callable[[str], None],
    ) -> None:
        unit, before, losses = lease.unit, self._failures.of(lease.unit), lease.losses
        with contextlib.ExitStack() as held:
            held.enter_context(lease.kept_alive(self.config.heartbeat_s))
            if self._is_done(unit) or (before is not None and before.final):
                return  # finished, or given up, since we looked
            if losses.workers > self.config.losses and losses.proven >= PROVEN:
                self._failures.record(Failure(unit, (describe_losses(losses),), final=True, lost=True))
                return
            rest = None
            with self._blaming(lease) as blamed:
                rest = do(unit)
            self._complete(finished)
            if rest is not None:
                self._completion = Completion(lease, held.pop_all(), rest)
            elif not blamed:
                self._finish(unit, finished)

    def _complete(self, finished: Callable[[str], None]) -> None:
        """Wait for the rest of the unit before, if there is one, and give it back."""
        if (completion := self._completion) is None:
            return
        self._completion = None
        try:
            with self._blaming(completion.lease) as blamed:
                completion.join()
            if not blamed:
                self._finish(completion.lease.unit, finished)
        finally:
            completion.close()

    @contextlib.contextmanager
    def _blaming(self, lease: Lease) -> Iterator[list[Exception]]:
        """Record a failure of the block against the unit, and yield a list that has it then.

        Raises what is of `fatal`, or says that nothing can be written any more.
        """
        blamed: list[Exception] = []
        try:
            yield blamed
        except (RuntimeError, OSError, MemoryError) as error:
            if isinstance(error, self.fatal) or (isinstance(error, OSError) and error.errno in NO_ROOM):
                raise
            blamed.append(error)
            if lease.held() and not self._is_done(lease.unit):  # else taken over: another worker's to judge
                self._failures.record(failure := self._failed(lease.unit, error))
                if not failure.final:
                    say(f"warning: unit {lease.unit} failed and is tried again: {failure.errors[-1]}")

    def _finish(self, unit: str, finished: Callable[[str], None]) -> None:
        self._failures.forget(unit)
        self.done.add(unit)
        self.leases.finished += 1
        finished(unit)

    def _failed(self, unit: str, error: Exception) -> Failure:
        before = self._failures.of(unit)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        errors = (*(before.errors if before else ()), f"{self.leases.owner}: {text}")
        return Failure(unit, errors, final=len(errors) >= self.config.attempts)


def describe_losses(losses: Losses) -> str:
    """Say how many workers a unit lost, after its name."""
    workers = counted(losses.workers, "worker")
    return f"lost {workers} in a row, {losses.proven} of which had finished other units"
