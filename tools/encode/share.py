"""One worker's share of an encoding job: the shards that it encodes, and the progress of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from core.progress import Progress, counted, duration, say
from core.queue.leases import LeaseState
from core.queue.work_queue import WorkQueue
from core.run.ending import Ending
from data.latent.encode_job import Job
from tools.encode.shard_parts import begin_shard


@dataclass
class Share:
    """The shards that this worker encodes, and their progress."""

    job: Job
    queue: WorkQueue
    ending: Ending

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.queue.left()
        self._seen, self._parts = self.queue.done, 0
        self._counted = self._samples(self._seen)
        total = len(self.job.dataset)
        self.progress = Progress(total, "encode", done=self._counted)

    def encode(self, unit: str) -> Callable[[], None]:
        """Encode a shard, and count what the others have done by the queue's last listing.

        Returns what waits until its part is written, which goes on beside the next shard.
        """
        self.job.quarantine.check()
        self.catch_up()
        with self.ending.allowing_signals():
            written = begin_shard(self.job, int(unit), self._advance)
        self._parts += 1
        if self._parts == 1:
            self._estimate(unit)
        return written

    def wait(self, states: list[LeaseState]) -> None:
        """Say whom this worker waits for; the job can be ended here."""
        with self.ending.allowing_signals():
            pass
        held = ", ".join(f"{s.unit} ({s.owner}, alive {s.age_s:.0f} s ago)" for s in states[:4])
        self.catch_up(f"waiting for shards {held}")

    def catch_up(self, note: str = "") -> None:
        """Count what the others have done, if there was a new listing since."""
        if self._seen is not self.queue.done:
            self._seen = self.queue.done
            self._advance(max(0, self._samples(self._seen) - self._counted), note)

    def _advance(self, count: int, note: str = "") -> None:
        self._counted += count
        busy = self.job.encoder.busy_s / (time.monotonic() - self._began)
        self.progress.advance(count, note or f"encoder busy {busy:.0%}")

    def _samples(self, units: Iterable[str]) -> int:
        return sum(len(self.job.rows(int(unit))) for unit in units)

    def _estimate(self, unit: str) -> None:
        """Say, after the first part, how long the others will take."""
        took = time.monotonic() - self._began
        workers = 1 + sum(not s.expired for s in self.queue.leases.states() if s.unit != unit)
        if not (left := len(self.job.dataset) - self._counted):
            return
        seconds = took * left / max(1, len(self.job.rows(int(unit)))) / workers
        time_left = f"about {duration(seconds)} of {counted(workers, 'worker')}"
        say(f"first part after {duration(took)}; {counted(left, 'sample')} left, {time_left}")
