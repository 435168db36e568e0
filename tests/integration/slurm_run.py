"""Jobs submitted to a real SLURM, as tests watch and disturb them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.root import ROOT
from launch.cluster import records
from tests.integration.tiny_run import command, rows
from tests.slurm_cluster import Cluster, until

LIMIT_S = 180.0  # for anything that a job is to do
CREDENTIAL_S = 3.0
NODES = ("cluster.nodes=2", "cluster.minutes=10")
STEPS = 30
FIELDS = (f"trainer.steps={STEPS}", "trainer.save_every=10", "metrics.log_every=1")


@dataclass
class Run:
    """A training run in `output` that is submitted to `cluster`.  variables: of the submitting process."""

    cluster: Cluster
    cache: Path
    output: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def launch(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `longtake WORDS`."""
        python = command(self.cache, self.output)[0]
        environment = {
            **self.cluster.environment,
            "PYTHONPATH": str(ROOT),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            **self.variables,
        }
        return subprocess.run(
            [python, "-m", "launch", *words],
            env=environment,
            cwd=self.output.parent,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
        )

    def submit(self, *fields: str) -> str:
        """Submit the run; SLURM's number of the job."""
        words = command(self.cache, self.output, *NODES, *fields)
        done = self.launch("submit", *words[3:])
        assert done.returncode == 0, done.stdout
        return self.job

    @property
    def submission(self) -> records.Submission:
        return records.latest(self.output)

    @property
    def job(self) -> str:
        return str(self.submission.read()["slurm_job"])

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The output of the supervisors, oldest first."""
        return self.submission.attempt_records()

    def steps(self) -> int:
        """Return the steps in the record."""
        path = self.output / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def rows(self) -> list[dict[str, Any]]:
        """Return the record without values that depend on a clock."""
        return rows(self.output)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for what the job does."""
        until(condition, LIMIT_S, self.tell)

    def until_state(self, state: str) -> None:
        """Wait until the last start has come to a state that its supervisor wrote."""
        self.until(lambda: bool(self.attempts) and self.attempts[-1]["state"] == state)

    def start_now(self, starts: int) -> None:
        """Wait until the job has been started so often.

        SLURM has a requeued job wait two minutes, since nodes refuse credentials that are not newer than the
        moment at which those of the last start were revoked; some seconds are enough for that.
        """
        pending_since: list[float] = []

        def runs() -> bool:
            if len(self.submission.attempts()) >= starts:
                return True
            if self.cluster.state(self.job) == "PENDING":
                pending_since.append(time.monotonic())
                if time.monotonic() - pending_since[0] > CREDENTIAL_S:
                    self.cluster.tell("scontrol", "update", f"jobid={self.job}", "StartTime=now")
            return False

        self.until(runs)

    def finish(self) -> None:
        """Wait for the job's end, with all steps done."""
        self.until_state("done")
        self.until(lambda: self.cluster.state(self.job) == "COMPLETED")

    def last_words(self, start: int) -> str:
        """Return what the ranks of one start reported to its supervisor of their ends."""
        told = self.submission.attempts()[start].glob("rank-*.json")
        ends = [records.read_record(path, records.RankEnd) for path in told]
        return "\n".join(str(end["text"]) for end in ends if end)

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal one rank's process."""
        os.kill(self.cluster.tasks(self.job, "launch")[rank], number)

    def tell(self) -> str:
        """Describe the job's state, for a test that fails."""
        texts = [path.read_text(errors="replace") for path in self.submission.folder.glob("attempts/*/*.txt")]
        logs = [path.read_text(errors="replace") for path in self.submission.folder.glob("submitit/*.out")]
        state = self.cluster.tell("scontrol", "show", "job", self.job)
        return "\n".join([json.dumps(self.attempts, indent=1), *texts, *logs, state])
