"""Supervise the ranks of a job, on the first node and outside of any container.

It starts the ranks (`srun` as its child, or local ones), and is the only one that has SLURM start the job
again: ranks in a container have no `scontrol`, and no signal reaches them there. Asked to end (SIGUSR2 before
the time limit or a preemption, SIGTERM of `scancel`), it writes a file into the folder of this start, which
the first rank looks for after its steps, and passes the signal on, which ends jobs without steps and ranks
that have not begun.

Torch is not imported here: this process must be light, and survive what kills ranks.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config.loading import from_dict
from core.errors import CONTINUABLE, WorkError
from core.run import signals
from launch.cluster import slurm
from launch.cluster.attempt import POLL_S, Attempt, EndRequest
from launch.cluster.config import ClusterConfig
from launch.cluster.listing import state_of
from launch.cluster.records import ENDED, AttemptRecord, Submission, latest
from launch.cluster.verdict import Verdict


@dataclass(frozen=True)
class Supervise:
    """The callable that submitit runs. folder: of the submission."""

    folder: str

    def __call__(self, task: int) -> int:
        return supervise(Submission(Path(self.folder)), task)

    def checkpoint(self, task: int) -> Any:
        """Handle a signal before this is running: submitit then has the job started again as it was."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, task)


def supervise(submission: Submission, task: int = 0) -> int:
    """Run the job of a submission until it ends or SLURM starts it again.

    Return an exit status.

    task: of a job array.
    """
    record = submission.read()
    config = from_dict(ClusterConfig, record["cluster"])
    asked = EndRequest()
    with signals.answered_by(asked):
        _wait_for(record.get("after_output", ""), asked)
        while True:
            attempt = Attempt(submission, config, record, asked, task)
            verdict = attempt.run()
            if verdict.outcome == "again" and config.kind == "slurm":
                return _requeue(attempt, verdict)
            if verdict.outcome != "again" or asked.word:
                attempt.write(state=_STATES[verdict.outcome], reason=verdict.reason)
                return {"done": 0, "failed": 1}.get(verdict.outcome, CONTINUABLE)
            attempt.write(state="restarted", reason=verdict.reason)


_STATES = {"done": "done", "failed": "failed", "cancelled": "cancelled", "again": "cancelled"}


def _requeue(attempt: Attempt, verdict: Verdict) -> int:
    """Have SLURM start the job again, without the nodes that failed it."""
    assert attempt.slurm_job is not None
    records = attempt.submission.attempt_records()
    exclude = excluded(records, verdict, attempt.config.exclude)
    attempt.write(state="requeued", reason=verdict.reason, excluded=exclude)
    try:
        slurm.requeue(attempt.slurm_job)
    except WorkError as error:
        attempt.write(state="failed", reason=f"{verdict.reason}; and SLURM did not requeue the job: {error}")
        return 1
    if (
        exclude
    ):  # after the requeue: only of a job that waits does SLURM change it, and we have KillWait for that
        try:
            slurm.leave_out(attempt.slurm_job, exclude)
        except WorkError as error:
            attempt.write(reason=f"{verdict.reason}; and SLURM did not leave out {exclude}: {error}")
    signal.pause()  # SLURM ends this process, and starts it again elsewhere
    return CONTINUABLE


def excluded(records: Sequence[AttemptRecord], verdict: Verdict, asked: str) -> str:
    """Name the nodes that the next start avoids.

    '' leaves SLURM's list as it is.

    These are nodes found unfit before the first step, those on which the job failed first twice, and those
    excluded before.  records: of all starts, this one included.  asked: `cluster.exclude`.
    """
    failed = [record.get("failed_node") for record in records]
    twice = [verdict.node] if verdict.node and failed.count(verdict.node) >= 2 else []
    before = [record["excluded"] for record in records if record.get("excluded")]
    if not (found := [*verdict.unfit, *twice]):
        return ""
    names = [name for text in (asked, *before, *found) for name in _names(text)]
    return ",".join(dict.fromkeys(names))


def _names(text: str) -> list[str]:
    """Split SLURM's `n[1,3-4],m` at its outer commas."""
    return [name for name in re.split(r",(?![^\[]*\])", text) if name]


def _wait_for(output: str, asked: EndRequest) -> None:
    """Wait, where there is no queue, until the job with this output is done. WorkError if it fails."""
    while output and not asked.word:
        state, _ = state_of(latest(Path(output)))
        if state == "done":
            return
        if state in (*ENDED, "lost"):
            raise WorkError(f"{output} {state}, and this job was to come after it")
        time.sleep(POLL_S)
