"""Units of work that any number of workers share through a folder; they may join, leave or be killed.

A worker claims a unit (`core.queue.leases`), looks whether it was finished meanwhile, does it, and goes on
until
none is left; a unit whose worker shows no sign of life goes to the next. A unit that raises is tried again
after the others, by whoever comes to it, and after `attempts` times recorded as failed, with its errors.
So no worker ever waits for another in a collective, and one unit cannot hold up the rest.
"""

from __future__ import annotations

import contextlib
import errno
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.config.settings import setting
from core.errors import UserError
from core.files import published, write_json
from core.queue.leases import Lease, Leases, LeaseState

FAILURE_SUFFIX = ".failure.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # no unit is to blame


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """How workers share the units."""

    timeout_s: float = setting(
        60.0, "a unit whose worker shows no sign of life for so long is taken over", unit="s", low=0.1
    )
    heartbeat_s: float = setting(10.0, "time between two signs of life", unit="s", low=0.01)
    attempts: int = setting(3, "a unit that failed, or lost its worker, so often is given up", low=1)

    def __post_init__(self) -> None:
        if self.heartbeat_s > self.timeout_s / 2:
            raise UserError("heartbeat_s", self.heartbeat_s, f"at most half of timeout_s={self.timeout_s}")


@dataclass(frozen=True)
class Failure:
    """What went wrong with a unit, attempt by attempt; `final` when it is not to be tried again."""

    unit: str
    errors: tuple[str, ...]
    final: bool


class WorkQueue:
    """The units of one job, as one of its workers sees them.

    folder: for leases and failures, the same for all workers.  list_done: the units that are finished now,
    wherever they were done.  fatal: errors that end the worker and are not counted against the unit.
    """

    def __init__(
        self,
        folder: Path,
        units: Sequence[str],
        config: QueueConfig,
        *,
        list_done: Callable[[], Collection[str]],
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        self.units, self.config, self.fatal = units, config, fatal
        self.list_done = list_done
        self.leases = Leases(folder, timeout_s=config.timeout_s)

    def work(
        self, do: Callable[[str], None], waiting: Callable[[list[LeaseState]], None] = lambda states: None
    ) -> None:
        """Do units until each is done or has failed; `waiting` is called while others hold all that is left.

        Raises what `do` raises if it is of `fatal`, or says that nothing can be written any more.
        """
        while left := self.left():
            try:
                lease = self._claim_any(left)
            except FileNotFoundError:
                if self.left():
                    raise
                return  # somebody has completed the job and removed the folder
            if lease is None:
                waiting(self.leases.states())
                time.sleep(self.config.heartbeat_s / 4)
                continue
            with lease.kept_alive(self.config.heartbeat_s):
                self._attempt(lease, do)

    def left(self) -> list[str]:
        """The units that are neither done nor given up; those that failed before come last."""
        done, failures = self.list_done(), {failure.unit: failure for failure in self.failures()}
        left = [u for u in self.units if u not in done and not (u in failures and failures[u].final)]
        return sorted(left, key=lambda unit: unit in failures)

    def failures(self) -> list[Failure]:
        """Units that failed at least once and are not done, in order."""
        found = []
        for path in published(self.leases.folder, f"*{FAILURE_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # done meanwhile
                found.append(self._failure(path))
        return found

    def forget_failures(self) -> None:
        """Let units that were given up be tried again."""
        for failure in self.failures():
            self._failure_path(failure.unit).unlink(missing_ok=True)

    def _claim_any(self, left: Sequence[str]) -> Lease | None:
        """A lease of one of `left`; every worker begins to look at a place of its own."""
        start = int(self.leases.token, 16) % len(left)
        rotated = [*left[start:], *left[:start]]
        tried = {failure.unit for failure in self.failures()}
        for unit in sorted(rotated, key=lambda unit: unit in tried):
            if (lease := self.leases.claim(unit)) is not None:
                return lease
        return None

    def _attempt(self, lease: Lease, do: Callable[[str], None]) -> None:
        unit = lease.unit
        if unit not in self.left():
            return  # finished, or given up, since we looked
        if lease.generation >= self.config.attempts:
            lost = f"{lease.generation} workers in a row were lost while they were at it"
            self._record(Failure(unit, (lost,), final=True))
            return
        try:
            do(unit)
        except (RuntimeError, OSError, MemoryError) as error:
            if isinstance(error, self.fatal) or (isinstance(error, OSError) and error.errno in _NO_ROOM):
                raise
            if lease.held() and unit in self.left():  # else it was taken over: not ours to judge
                self._record(self._failed(unit, error))
        else:
            self._failure_path(unit).unlink(missing_ok=True)

    def _failed(self, unit: str, error: Exception) -> Failure:
        path = self._failure_path(unit)
        before = self._failure(path).errors if path.exists() else ()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        errors = (*before, f"{self.leases.owner}: {text}")
        return Failure(unit, errors, final=len(errors) >= self.config.attempts)

    def _record(self, failure: Failure) -> None:
        content = {"errors": list(failure.errors), "final": failure.final}
        write_json(self._failure_path(failure.unit), content)

    def _failure_path(self, unit: str) -> Path:
        return self.leases.folder / f"{unit}{FAILURE_SUFFIX}"

    def _failure(self, path: Path) -> Failure:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Failure(path.name.removesuffix(FAILURE_SUFFIX), tuple(content["errors"]), content["final"])
