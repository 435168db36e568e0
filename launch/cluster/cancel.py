"""End a submitted job for good: training saves after the step under way, and can be submitted again."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from core import environment, terminal
from core.errors import UserError
from core.progress import say
from launch.cluster import records, slurm
from launch.cluster.listing import state_of
from launch.cluster.records import ENDED, AttemptRecord


def main(words: Sequence[str]) -> int:
    """Run `longtake cancel RUN`."""
    if len(words) != 1 or words[0].startswith("-") or "=" in words[0]:
        terminal.deliver("usage: longtake cancel RUN\n\n" + str(__doc__))
        return 0 if {"--help", "-h"} & set(words) else 2
    output = Path(words[0])
    submission = records.latest(output)
    state, _ = state_of(submission)
    record = submission.read()
    if state in (*ENDED, "lost"):
        say(f"{output}: {state} before")
        return 0
    if record["cluster"].get("kind") == "slurm":
        found = {str(record.get("slurm_job", "")), *slurm.jobs_named(record["name"])} - {""}
        for job in sorted(found):
            slurm.cancel(job)
        say(f"{output}: cancelled job {', '.join(sorted(found))}")
        return 0
    running = [record for record in submission.latest_records() if record.get("state") not in ENDED]
    nowhere: AttemptRecord = {}
    for attempt in running or [nowhere]:
        if attempt.get("node") != environment.node() or not attempt.get("pid"):
            raise UserError(
                "source", output, f"a job on this node, and it runs on {attempt.get('node', 'none yet')}"
            )
        os.kill(attempt["pid"], signal.SIGTERM)
        say(f"{output}: cancelled process {attempt['pid']}")
    return 0
