"""One start of a submitted job: start the ranks, pass requests to end on to them, and wait for their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import environment, terminal
from core.files import published, write_json
from core.records import read_last
from core.run import ends, signals
from core.run.folder import LOGS, METRICS, RUNS
from launch.cluster import slurm
from launch.cluster.config import ClusterConfig
from launch.cluster.rank_start import rank_command, rank_environment
from launch.cluster.records import (
    ATTEMPT_FILE,
    AttemptRecord,
    RankEnd,
    Submission,
    SubmissionRecord,
    read_record,
)
from launch.cluster.silence import Silence
from launch.cluster.verdict import Verdict, in_vain, judge
from launch.jobs import find

POLL_S = 0.2
OUT_OF_TIME = (
    "its time limit came before its ranks had ended; a larger cluster.signal_s gives the last save more time"
)


@dataclass
class EndRequest:
    """Signals that this process received. word: 'requeue', 'cancel' or ''. why: the signal's name."""

    word: str = ""
    why: str = ""
    tell: Callable[[], None] = field(default=lambda: None)

    def raise_flag(self, number: int) -> None:
        """Do nothing: `note` handles the signal."""

    def note(self, got: signal.Signals) -> None:
        """Record a signal; a request to end for good is never replaced by one to start again."""
        word = "cancel" if got in (signal.SIGTERM, signal.SIGINT) else "requeue"
        if self.word != "cancel" and self.word != word:
            self.word, self.why = word, got.name
            self.tell()


class Attempt:
    """One start of the job."""

    def __init__(
        self,
        submission: Submission,
        config: ClusterConfig,
        record: SubmissionRecord,
        asked: EndRequest,
        task: int = 0,
    ) -> None:
        """Create an attempt. task: of a job array; each continues and is given up by itself."""
        self.task = task
        self.submission, self.config, self.record, self.asked = submission, config, record, asked
        self.job = find(record["job"])
        self.slurm_job = environment.slurm_job() if config.kind == "slurm" else None
        name = environment.attempt() if self.slurm_job else None
        before = [record["name"] for record in submission.attempt_records(task)]
        local = f"{config.kind}.{task}" if config.array else config.kind
        self.folder = submission.folder / "attempts" / (name or f"{local}.{len(before)}")
        self.number = len([earlier for earlier in before if earlier != self.folder.name])
        self.child: subprocess.Popen[bytes] | None = None
        self.silence = Silence(submission.output / LOGS)
        self.end_s = 0.0  # when the scheduler will end this start
        self.was_done = self.is_done()

    def run(self) -> Verdict:
        """Start the ranks and wait for their end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        self.end_s = environment.end_time() or started + 60 * self.config.minutes
        self.write(
            state="running",
            task=self.task,
            started=started,
            node=environment.node(),
            pid=os.getpid(),
            progress_before=progress(self.submission.output),
            nodes=environment.nodes(),
        )
        # srun waits for signals by itself, and must not find them blocked.
        is_local = self.config.kind != "slurm"
        blocked = signals.inherited_blocked() if is_local else contextlib.nullcontext()
        with open(self.folder / "output.txt", "ab") as log, blocked:
            self.child = subprocess.Popen(
                rank_command(self.job, self.submission, self.config, self.folder),
                env=rank_environment(
                    self.submission, self.config, self.folder, started=started, number=self.number
                ),
                cwd=self.record["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self.asked.tell = self.ask
        if self.asked.word:
            self.ask()
        status = self.watch(self.child)
        verdict = self.verdict(status)
        self.write(
            ended=time.time(),
            status=status,
            reason=verdict.reason,
            asked=verdict.asked,
            failed_node=verdict.node,
            progress=progress(self.submission.output),
        )
        if verdict.outcome == "again" and (
            why := in_vain(self.submission.attempt_records(self.task), self.config.attempts)
        ):
            return Verdict("failed", why)
        return verdict

    def verdict(self, status: int | None) -> Verdict:
        """Decide what follows for the job.  status: of the ranks; None where SLURM ends them soon."""
        if status is None:
            return Verdict("again", OUT_OF_TIME)
        self.tell_limit_from_cancel()
        records = [
            end
            for path in published(self.folder, "rank-*.json")
            if (end := read_record(path, RankEnd)) is not None
        ]
        verdict = judge(records, status, self.config.world_size, self.asked.word)
        if verdict.outcome == "again" and self.job.shares and not self.was_done and self.is_done():
            return Verdict("done", verdict.reason)  # the others have done the work of those that died
        return verdict

    def is_done(self) -> bool:
        """Return whether the file that the job writes last exists; False where none is known."""
        return bool(self.job.done) and (self.submission.output / self.job.done).exists()

    def watch(self, child: subprocess.Popen[bytes]) -> int | None:
        """Wait for the ranks, end them if none gives a sign of life, and return their status.

        None where SLURM ends the job because its time is over: this process and they will be killed within
        seconds, so that there is no time to wait for their end.
        """
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(POLL_S)
            if self.tell_limit_from_cancel():
                return None
            if silent_s := self.silence.seconds(self.started):
                terminal.tell(f"no rank has given a sign of life for {silent_s:.0f} s")
                child.kill()

    def tell_limit_from_cancel(self) -> bool:
        """Return whether a SIGTERM, which asks to cancel the job, came from SLURM at the end of its time.

        The job is then to be started again. Where the controller does not answer, the clock decides.
        """
        if self.slurm_job is None or (self.asked.word, self.asked.why) != ("cancel", signal.SIGTERM.name):
            return False
        is_limit = slurm.reached_its_limit(self.slurm_job)
        if is_limit is None:
            is_limit = time.time() >= self.end_s
        self.asked.word = "requeue" if is_limit else "cancel"
        self.asked.why = "the time limit" if is_limit else "scancel"
        return is_limit

    def started(self) -> float:
        """Return when this start began."""
        found = read_record(self.folder / ATTEMPT_FILE, AttemptRecord)
        return found.get("started", 0.0) if found else 0.0

    def ask(self) -> None:
        """Record that the run is to end, and pass the signal on."""
        with contextlib.suppress(OSError):  # a full disk: the signal remains
            write_json(self.folder / ends.ASKED, {"why": self.asked.why, "word": self.asked.word})
        if self.child is not None:
            self.child.send_signal(signal.SIGUSR2)

    def write(self, **fields: Any) -> None:
        """Add to the record of this start."""
        path = self.folder / ATTEMPT_FILE
        write_json(path, {**(read_record(path, AttemptRecord) or {}), "name": self.folder.name, **fields})


def progress(output: Path) -> int:
    """Return the progress of a job: the last step of training, of all runs of a sweep, else the number of
    finished parts."""
    runs = [path for path in published(output / RUNS) if path.is_dir()]
    with contextlib.suppress(OSError):
        steps = [int(row.get("step", 0)) for run in (output, *runs) for row in read_last(run / METRICS, 1)]
        if steps:
            return sum(steps)
    return sum(len(published(output / name)) for name in (".receipts", "parts"))
