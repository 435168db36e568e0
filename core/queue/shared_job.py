"""A job whose units any number of workers share through its output; one of them puts the result together.

Workers are ranks, tasks of an array, or the same command typed again anywhere; they meet in the output
folder alone and wait for one another in no collective. Any may join, leave or be killed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from core import environment
from core.distributed import ranks
from core.errors import PeerLost, RankFailed, UserError, WorkError
from core.faults.broken_device import DeviceError, naming_device
from core.progress import Progress, counted
from core.queue import full_disk
from core.queue.config import QueueConfig
from core.queue.dead_owners import expire_dead
from core.queue.failures import Failure
from core.queue.leases import Leases, LeaseState
from core.queue.work_queue import WorkQueue
from core.run.ending import Ending

LEASES = ".leases"  # inside the output, until the result is there
PUBLISH = "publish"  # the last unit of work
ROUNDS = 3  # of making what is missing when the parts are put together


class IncompleteParts(WorkError):
    """Parts are missing or damaged, so that the result cannot be put together."""


class SharedJob(ABC):
    """The units of a job as its workers ask for them.

    output: the folder.  sizes: how much of `noun` each unit counts for, in the order in which they are done.
    """

    output: Path
    sizes: Mapping[str, int]
    noun: str

    @abstractmethod
    def listed(self) -> set[str]:
        """Return the units whose parts are there, wherever they were made."""

    @abstractmethod
    def is_made(self, unit: str) -> bool:
        """Return whether the part of a unit is there."""

    @abstractmethod
    def is_finished(self) -> bool:
        """Return whether the result is published; parts may have gone then."""

    @abstractmethod
    def make(self, unit: str) -> Callable[[], None] | None:
        """Make a part; return what is left to do beside the next one, if anything.  Signals end it."""

    @abstractmethod
    def remove_unusable(self) -> None:
        """Remove what is no whole part of this job, with a word, so that it is made anew."""

    @abstractmethod
    def publish(self) -> None:
        """Put the result together; IncompleteParts where a part is missing or damaged."""

    @abstractmethod
    def clear(self) -> None:
        """Remove what only an unfinished result needs, and what killed workers left."""

    def shown(self, unit: str) -> str:
        """Return a unit as people call it."""
        return unit


def begin_anew(
    output: Path,
    queue: QueueConfig,
    claim: Callable[[], object],
    shown: Callable[[str], str] = str,
    *,
    is_alone: bool = False,
) -> None:
    """Have the first of the processes that were started together remove what is there, by `claim`.

    shown: what people call a unit.  is_alone: whether this process is the only one of them that does the job.
    UserError if another worker is at it.
    """

    def work() -> None:
        _require_alone(output / LEASES, queue, shown)
        claim()

    if is_alone or environment.place().size == 1:
        work()
        return
    world = ranks.start("cpu", folder=output)  # only to wait for one another
    try:
        ranks.on_first_rank(work)
    finally:
        ranks.stop(world)


def _require_alone(folder: Path, queue: QueueConfig, shown: Callable[[str], str]) -> None:
    if not folder.is_dir():
        return
    leases = Leases(folder, timeout_s=queue.timeout_s)
    expire_dead(leases)
    for state in leases.states():
        if not state.expired:
            raise UserError("overwrite", "true", f"false while {state.owner} is at {shown(state.unit)}")


def work(job: SharedJob, queue: QueueConfig) -> None:
    """Do what no other worker does until all parts are there, and publish unless another one does."""
    with (ending := Ending()).catching():
        try:
            _Worker(job, queue, ending).share()
        except (OSError, WorkError) as error:
            if not job.is_finished():  # else others have finished, and what we were at has gone with that
                if (without_room := full_disk.described(job.output, error)) is not None:
                    raise without_room from None
                raise
    job.clear()


class _Worker:
    """One of the processes that share a job."""

    def __init__(self, job: SharedJob, config: QueueConfig, ending: Ending) -> None:
        self.job, self.config, self.ending = job, config, ending
        self.queue = WorkQueue(
            job.output / LEASES,
            list(job.sizes),
            config,
            list_done=self.done,
            is_done=lambda unit: job.is_made(unit) or job.is_finished(),
            fatal=(DeviceError, RankFailed, PeerLost),
        )

    def share(self) -> None:
        """Make parts, publish, and make again what is missing then."""
        self._begin()
        for left in reversed(range(ROUNDS)):
            self._make_units()
            try:
                return self._publish()
            except IncompleteParts:
                if not left:
                    raise
                self.job.remove_unusable()

    def done(self) -> set[str]:
        """Return the units that are made; all of them once the result is published."""
        found = self.job.listed()
        # The parts go once the result is there, maybe while they were listed.
        return set(self.job.sizes) if self.job.is_finished() else found

    def _begin(self) -> None:
        """Forget lost workers and failures, since the command was started; look over parts if nobody else is
        at it, who did so."""
        expire_dead(self.queue.leases)
        self.queue.forget_losses()
        if not environment.restarts():
            self.queue.forget_failures()
        if all(state.expired for state in self.queue.leases.states()):
            self.job.remove_unusable()

    def _make_units(self) -> None:
        """Make units until each is done; WorkError where some failed again and again."""
        self.queue.left()
        self._seen = self.queue.done
        self._counted = self._size(self._seen)
        total = sum(self.job.sizes.values())
        self.progress = Progress(total, self.job.noun, done=self._counted)
        with self.progress, self.ending.holding_signals():
            self.queue.work(self._make, self._wait, self._count)
            self._catch_up()
        failures, done = self.queue.failures(), self.done()
        if failed := [failure for failure in failures if failure.final and failure.unit not in done]:
            raise self._given_up(failed)

    def _publish(self) -> None:
        """Have the result published by one worker; the others wait for it, or take over."""

        def publish(unit: str) -> None:
            with self.ending.allowing_signals():
                self.job.publish()

        queue = WorkQueue(
            self.job.output / LEASES,
            [PUBLISH],
            self.config,
            list_done=lambda: {PUBLISH} if self.job.is_finished() else set(),
            fatal=(RuntimeError, OSError, MemoryError),
        )
        with self.ending.holding_signals():
            queue.work(publish, self._let_go)

    def _make(self, unit: str) -> Callable[[], None] | None:
        self._catch_up()
        with self.ending.allowing_signals(), naming_device():
            return self.job.make(unit)

    def _wait(self, states: list[LeaseState]) -> None:
        """Say for whom; the time to be ended."""
        self._let_go(states)
        held = (f"{self.job.shown(s.unit)} ({s.owner}, alive {s.age_s:.0f} s ago)" for s in states[:4])
        self._catch_up(f"waiting for {', '.join(held)}")

    def _let_go(self, states: list[LeaseState]) -> None:
        """Let a signal end the wait, and wait for nobody who has died."""
        with self.ending.allowing_signals():
            pass
        expire_dead(self.queue.leases)

    def _catch_up(self, note: str = "") -> None:
        """Count what the others have done, if there was a new listing since."""
        if self._seen is not self.queue.done:
            self._seen = self.queue.done
            self._advance(max(0, self._size(self._seen) - self._counted), note)

    def _count(self, unit: str) -> None:
        """Count a unit of our own."""
        self._advance(self.job.sizes[unit])

    def _advance(self, count: int, note: str = "") -> None:
        self._counted += count
        self.progress.advance(count, note)

    def _size(self, units: Iterable[str]) -> int:
        return sum(self.job.sizes[unit] for unit in units)

    def _given_up(self, failures: list[Failure]) -> WorkError:
        named = "; ".join(f"{self.job.shown(failure.unit)}: {failure.errors[-1]}" for failure in failures)
        return WorkError(
            f"{self.job.output}: {len(failures)} of {counted(len(self.job.sizes), 'part')} failed and were "
            f"given up: {named} (nothing is published; the others are kept, and the same command tries these "
            "again)"
        )
