"""Watches over the ranks of a job, on the first node and outside of any container.

It starts the ranks (`srun` as its child, or local ones), and is the only one that has SLURM start the job
again: ranks in a container have no `scontrol`, and no signal reaches them there. Asked to end (SIGUSR2 before
the time limit or a preemption, SIGTERM of `scancel`), it leaves word in the folder of this start, which the
first rank reads at every step, and passes the signal on, which ends jobs without steps and ranks that have
not begun.

No torch here: this process must be light, and survive what brings ranks down.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import environment, terminal
from core.config.loading import from_dict
from core.errors import CONTINUABLE, WorkError
from core.files import published, write_json
from core.run import ends, signals
from core.run.folder import METRICS
from core.run.last_line import TOLD
from launch.cluster import slurm
from launch.cluster.config import ClusterConfig
from launch.cluster.records import ENDED, JOB_FILE, Submission, latest, read_record
from launch.cluster.verdict import Verdict, in_vain, judge
from launch.jobs import find

POLL_S = 0.2
LATE_S = 30.0  # for the other ranks to end when the first has
SILENT_S = 600.0  # without a heartbeat of any rank, in a run that has left some


@dataclass(frozen=True)
class Supervise:
    """What submitit runs.  folder: of the submission."""

    folder: str

    def __call__(self) -> int:
        return supervise(Submission(Path(self.folder)))

    def checkpoint(self) -> Any:
        """For a signal before this is running: submitit then has the job started again as it was."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def supervise(submission: Submission) -> int:
    """Run the job of a submission to its end, or until SLURM starts it again; an exit status."""
    told = submission.read()
    config = from_dict(ClusterConfig, told["cluster"])
    asked = Asked()
    with signals.answered_by(asked):
        _wait_for(told.get("after_output", ""), asked)
        while True:
            attempt = Attempt(submission, config, told, asked)
            verdict = attempt.run()
            if verdict.outcome == "again" and config.kind == "slurm":
                return _requeue(attempt, verdict)
            if verdict.outcome != "again" or asked.word:
                attempt.write(state=_STATES[verdict.outcome], reason=verdict.reason)
                return {"done": 0, "failed": 1}.get(verdict.outcome, CONTINUABLE)
            attempt.write(state="restarted", reason=verdict.reason)


_STATES = {"done": "done", "failed": "failed", "cancelled": "cancelled", "again": "cancelled"}


@dataclass
class Asked:
    """What signals have asked of this process.  word: 'requeue', 'cancel' or ''.  why: the signal's name."""

    word: str = ""
    why: str = ""
    tell: Callable[[], None] = field(default=lambda: None)

    def raise_flag(self, number: int) -> None:
        """Nothing: `note` sees to it."""

    def note(self, got: signal.Signals) -> None:
        """Remember; a request to end for good is never taken back by one to start again."""
        word = "cancel" if got in (signal.SIGTERM, signal.SIGINT) else "requeue"
        if self.word != "cancel" and self.word != word:
            self.word, self.why = word, got.name
            self.tell()


class Attempt:
    """One start of the job."""

    def __init__(
        self, submission: Submission, config: ClusterConfig, told: dict[str, Any], asked: Asked
    ) -> None:
        self.submission, self.config, self.told, self.asked = submission, config, told, asked
        self.job = find(told["job"])
        before = submission.attempts()
        self.slurm_job = environment.slurm_job() if config.kind == "slurm" else None
        name = environment.attempt() if self.slurm_job else None
        self.folder = submission.folder / "attempts" / (name or f"{config.kind}.{len(before)}")
        self.number = len([path for path in before if path != self.folder])
        self.child: subprocess.Popen[bytes] | None = None

    def run(self) -> Verdict:
        """Start the ranks and wait for their end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        self.write(
            state="running",
            started=started,
            node=environment.node(),
            pid=os.getpid(),
            progress_before=progress(self.submission.output),
            nodes=environment.nodes(),
        )
        is_local = (
            self.config.kind != "slurm"
        )  # srun waits for signals by itself, and must not find them blocked
        blocked = signals.inherited_blocked() if is_local else contextlib.nullcontext()
        with open(self.folder / "output.txt", "ab") as log, blocked:
            self.child = subprocess.Popen(
                self.command(),
                env=self.environment(started),
                cwd=self.told["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self.asked.tell = self.ask
        if self.asked.word:
            self.ask()
        status = self.watch(self.child)
        records = [record for path in published(self.folder, "rank-*.json") if (record := read_record(path))]
        verdict = judge(records, status, self.config.world_size, self.asked.word)
        self.write(
            ended=time.time(),
            status=status,
            reason=verdict.reason,
            asked=verdict.asked,
            failed_node=verdict.node,
            progress=progress(self.submission.output),
        )
        if verdict.outcome == "again" and (
            why := in_vain(self.submission.attempt_records(), self.config.attempts)
        ):
            return Verdict("failed", why)
        return verdict

    def watch(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for the ranks; end those of a run in which nobody gives a sign of life. Their status."""
        logs = self.submission.output / "logs"
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(POLL_S)
            beats = [
                path.stat().st_mtime for path in published(logs, "heartbeat-rank-*.json") if path.exists()
            ]
            if beats and time.time() - max(beats) > SILENT_S and max(beats) > self.started():
                terminal.tell(f"no rank has given a sign of life for {SILENT_S:.0f} s")
                child.kill()

    def started(self) -> float:
        """When this start began."""
        return float((read_record(self.folder / "attempt.json") or {}).get("started", 0.0))

    def ask(self) -> None:
        """Leave word that the run is to end, and pass the signal on."""
        with contextlib.suppress(OSError):  # a full disk: the signal remains
            write_json(self.folder / ends.ASKED, {"why": self.asked.why, "word": self.asked.word})
        if self.child is not None:
            self.child.send_signal(signal.SIGUSR2)

    def command(self) -> list[str]:
        """What starts the ranks."""
        python, config = self.config.python or sys.executable, self.config
        if config.apptainer_image:
            python_words = ["apptainer", "exec", "--nv", config.apptainer_image, python]
        else:
            python_words = [python]
        run = [*python_words, "-P", "-m", "launch", self.told["job"], str(self.submission.folder / JOB_FILE)]
        if config.kind != "slurm":
            return run
        options = {
            "nodes": config.nodes,
            "ntasks": config.world_size,
            "ntasks-per-node": config.tasks_per_node,
            "cpus-per-task": config.cpus_per_task,  # not inherited since SLURM 22.05
            "kill-on-bad-exit": 0,  # ranks that end early together may be seconds apart
            "wait": int(LATE_S) if self.job.on_ranks else 0,
            "output": self.folder / "rank-%t.txt",
            "open-mode": "append",
            "mpi": "none",
            "container-image": config.container_image or None,
            "container-mounts": config.container_mounts or None,
        }
        words = [f"--{name}={value}" for name, value in options.items() if value is not None]
        return ["srun", "--unbuffered", *words, *config.srun, *run]

    def environment(self, started: float) -> dict[str, str]:
        """Of the ranks: the code that was submitted, where they tell how they end, and when the job does."""
        end = started + 60 * self.config.minutes
        found = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(self.submission.code), os.environ.get("PYTHONPATH")])
            ),
            ends.FOLDER: str(self.folder),
            TOLD: str(self.folder / "told"),
        }
        if self.config.kind == "slurm":
            found[environment.END_TIME] = str(end)
        else:
            found[environment.RESTARTS] = str(self.number)
            found[environment.PARENT] = str(
                os.getpid()
            )  # which they outlive on a node of SLURM no more than here
        return found

    def write(self, **fields: Any) -> None:
        """Add to the record of this start."""
        path = self.folder / "attempt.json"
        write_json(path, {**(read_record(path) or {}), "name": self.folder.name, **fields})


def progress(output: Path) -> int:
    """How far a job is: the last step of training, else how many parts of its work are finished."""
    metrics = output / METRICS
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        with open(metrics, "rb") as file:
            file.seek(max(0, metrics.stat().st_size - 65536))
            lines = [line for line in file.read().split(b"\n")[:-1] if line.endswith(b"}")]
        import json

        return int(json.loads(lines[-1])["step"])
    return sum(len(published(output / name)) for name in (".receipts", "parts"))


def _requeue(attempt: Attempt, verdict: Verdict) -> int:
    """Have SLURM start the job again, without a node on which it failed first twice."""
    assert attempt.slurm_job is not None
    failed = [record.get("failed_node") for record in attempt.submission.attempt_records()]
    exclude = verdict.node if verdict.node and failed.count(verdict.node) >= 2 else ""
    attempt.write(state="requeued", reason=verdict.reason, excluded=exclude)
    try:
        slurm.requeue(attempt.slurm_job, exclude)
    except WorkError as error:
        attempt.write(state="failed", reason=f"{verdict.reason}; and SLURM did not requeue the job: {error}")
        return 1
    signal.pause()  # SLURM ends this process, and starts it again elsewhere
    return CONTINUABLE


def _wait_for(output: str, asked: Asked) -> None:
    """Where there is no queue: wait until the job with this output is done. WorkError if it fails."""
    while output and not asked.word:
        records = latest(Path(output)).attempt_records()
        state = records[-1]["state"] if records else "queued"
        if state == "done":
            return
        if state in ENDED:
            raise WorkError(f"{output} {state}, and this job was to come after it")
        time.sleep(POLL_S)
