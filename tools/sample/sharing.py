"""How the workers of a sampling job share it: each takes ranges of samples until none is left; one publishes.

Workers are ranks, tasks of an array, or the same command typed again anywhere; they meet in the output
folder alone and wait for one another in no collective. Any may join, leave or be killed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core import environment
from core.distributed import ranks
from core.errors import UserError, WorkError
from core.faults.failpoints import failpoint
from core.files import temporaries
from core.progress import Progress, counted, say
from core.queue.config import QueueConfig
from core.queue.dead_owners import expire_dead
from core.queue.failures import Failure
from core.queue.leases import Leases, LeaseState
from core.queue.work_queue import WorkQueue
from core.run import ends
from core.run.ending import Ending
from core.run.folder import SAMPLES
from tools.sample import parts as sample_parts
from tools.sample.batches import Job
from tools.sample.parts import IncompleteParts, Store
from tools.sample.units import LEASES, agreed_size, cut, unusable

PUBLISH = "publish"  # the last unit of work
ROUNDS = 3  # of making what is missing when the parts are put together


class DeviceError(RuntimeError):
    """The device of this worker has failed, which no unit is to blame for."""


def begin_anew(output: Path, queue: QueueConfig, claim: Callable[[], object]) -> None:
    """Have the first of the processes that were started together remove what is there, by `claim`.

    UserError if another worker is at it.
    """

    def work() -> None:
        _require_alone(output / LEASES, queue)
        claim()

    if environment.place().size == 1:
        work()
        return
    world = ranks.start("cpu", folder=output)  # only to wait for one another
    try:
        ranks.on_first_rank(work)
    finally:
        ranks.stop(world)


def _require_alone(folder: Path, queue: QueueConfig) -> None:
    if not folder.is_dir():
        return
    leases = Leases(folder, timeout_s=queue.timeout_s)
    expire_dead(leases)
    for state in leases.states():
        if not state.expired:
            raise UserError("overwrite", "true", f"false while {state.owner} is at {_what(state.unit)}")


def work(job: Job, parts: Store, publish: Callable[[], None]) -> None:
    """Generate what no other worker does until all is there, and publish it unless another one does."""
    output = Path(job.making.output)
    with (ending := Ending()).catching():
        try:
            _share(Worker(job, parts, publish, ending))
        except (OSError, WorkError):
            if not is_finished(output):
                raise  # else others have finished, and what we were at has gone with that
    clear(output, job.folders)


def _share(worker: Worker) -> None:
    worker.begin()
    for left in reversed(range(ROUNDS)):
        worker.generate_units()
        try:
            return worker.publish_all()
        except IncompleteParts:
            if not left:
                raise
            worker.remove_unusable()


def is_finished(output: Path) -> bool:
    """Return whether the samples are published."""
    return (output / SAMPLES).exists()


def clear(output: Path, folders: Iterable[Path] = ()) -> None:
    """Remove what only unfinished samples need, and what killed workers left.

    folders: further ones that hold files of samples.
    """
    for folder in {output, *folders}:
        for left in temporaries(folder):
            left.unlink(missing_ok=True)
    for name in (sample_parts.FOLDER, LEASES):
        shutil.rmtree(output / name, ignore_errors=True)


@dataclass
class Worker:
    """One of the processes that share the samples."""

    job: Job
    parts: Store
    publish: Callable[[], None]
    ending: Ending

    def __post_init__(self) -> None:
        self.output = Path(self.job.making.output)
        self.leases = self.output / LEASES
        self.units = cut(
            self.job.schedule.stretches, agreed_size(self.leases, self.parts, self.job.making.batch)
        )
        self.queue = WorkQueue(
            self.leases,
            list(self.units),
            self.job.making.queue,
            list_done=self.done,
            is_done=lambda unit: self.parts.path(self.units[unit]).exists() or is_finished(self.output),
            fatal=(DeviceError,),
        )

    def done(self) -> set[str]:
        """Return the units that are generated; all of them once the samples are published."""
        names = {rows: unit for unit, rows in self.units.items()}
        found = {names[rows] for rows in self.parts.listed()[0] if rows in names}
        # The parts go once the samples are there, maybe while they were listed.
        return set(self.units) if is_finished(self.output) else found

    def begin(self) -> None:
        """Forget lost workers and failures, since the command was started; look over parts if nobody else is
        at it, who did so."""
        expire_dead(self.queue.leases)
        self.queue.forget_losses()
        if not environment.restarts():
            self.queue.forget_failures()
        if all(state.expired for state in self.queue.leases.states()):
            self.remove_unusable()

    def remove_unusable(self) -> None:
        """Remove what is no whole part of this job, so that it is made anew."""
        for path, problem in unusable(self.parts, self.units).items():
            say(f"{path} is not used: {problem}; its samples are made anew", of_any_rank=True)
            path.unlink(missing_ok=True)

    def generate_units(self) -> None:
        """Generate units until each is done; WorkError where some failed again and again."""
        self.queue.left()
        self._seen = self.queue.done
        self._counted = self._samples(self._seen)
        self.progress = Progress(self.parts.count, "sample", done=self._counted)
        with self.progress, self.ending.holding_signals():
            self.queue.work(self._generate, self._wait, self._count)
            self._catch_up()
        failures, done = self.queue.failures(), self.done()
        if failed := [failure for failure in failures if failure.final and failure.unit not in done]:
            raise self._given_up(failed)

    def publish_all(self) -> None:
        """Have the samples published by one worker; the others wait for it, or take over."""

        def publish(unit: str) -> None:
            with self.ending.allowing_signals():
                failpoint("sample.publish")
                self.publish()

        queue = WorkQueue(
            self.leases,
            [PUBLISH],
            self.job.making.queue,
            list_done=lambda: {PUBLISH} if is_finished(self.output) else set(),
            fatal=(RuntimeError, OSError, MemoryError),
        )
        with self.ending.holding_signals():
            queue.work(publish, self._let_go)

    def _generate(self, unit: str) -> Callable[[], None]:
        """Make a unit's latents; return what decodes and writes them, beside the next unit's."""
        rows = self.units[unit]
        self._catch_up()
        with self.ending.allowing_signals(), _naming_device():
            made = self.job.make(rows)

        def write() -> None:
            with _naming_device():
                failpoint("sample.write")
                self.parts.write(rows, self.job.decoded(made))

        return write

    def _wait(self, states: list[LeaseState]) -> None:
        """Say for whom; the time to be ended."""
        self._let_go(states)
        held = ", ".join(f"{_what(s.unit)} ({s.owner}, alive {s.age_s:.0f} s ago)" for s in states[:4])
        self._catch_up(f"waiting for {held}")

    def _let_go(self, states: list[LeaseState]) -> None:
        """Let a signal end the wait, and wait for nobody who has died."""
        with self.ending.allowing_signals():
            pass
        expire_dead(self.queue.leases)

    def _catch_up(self, note: str = "") -> None:
        """Count what the others have done, if there was a new listing since."""
        if self._seen is not self.queue.done:
            self._seen = self.queue.done
            self._advance(max(0, self._samples(self._seen) - self._counted), note)

    def _count(self, unit: str) -> None:
        """Count a unit of our own."""
        self._advance(len(self.units[unit]))

    def _advance(self, count: int, note: str = "") -> None:
        self._counted += count
        self.progress.advance(count, note)

    def _samples(self, units: Iterable[str]) -> int:
        return sum(len(self.units[unit]) for unit in units)

    def _given_up(self, failures: list[Failure]) -> WorkError:
        named = "; ".join(f"{_what(failure.unit)}: {failure.errors[-1]}" for failure in failures)
        return WorkError(
            f"{self.output}: {len(failures)} of {counted(len(self.units), 'part')} failed and were given up: "
            f"{named} (nothing is published; the others are kept, and the same command tries these again)"
        )


@contextlib.contextmanager
def _naming_device() -> Iterator[None]:
    """Turn what a broken device raises into DeviceError."""
    try:
        yield
    except RuntimeError as error:
        if ends.kind_of(error) == "device":
            raise DeviceError(str(error)) from error
        raise


def _what(unit: str) -> str:
    """Return a unit as people call it."""
    numbers = re.fullmatch(r"(\d+)-(\d+)", unit)
    return f"samples {int(numbers[1])} to {int(numbers[2])}" if numbers else unit
