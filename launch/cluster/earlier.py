"""End an earlier submission of the same output, whose place a new one takes."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from core.errors import UserError
from core.progress import say
from launch.cluster import records, slurm
from launch.cluster.config import ClusterConfig

POLL_S = 0.5


def make_room(output: Path, cluster: ClusterConfig, *, replaces: bool) -> None:
    """End an earlier submission of this output that is queued or runs; UserError unless this one replaces it.

    One whose submitter was killed between `sbatch` and writing down the job's number is found by its name.
    """
    if cluster.kind == "slurm" and (running := slurm.jobs_named(queue_name(output))):
        jobs_text = ", ".join(running)
        if not replaces:
            raise UserError(
                f"{output}: job {jobs_text} is queued or runs; longtake cancel {output} ends it, "
                f"longtake submit {output} replaces it"
            )
        say(f"{output}: ending job {jobs_text}, whose place this one takes")
        for number in running:
            slurm.cancel(number)
        while slurm.jobs_named(queue_name(output)):
            time.sleep(POLL_S)
    for submission in records.submissions(output):
        latest = submission.latest_records()
        if not latest or submission.read()["cluster"].get("kind") not in ("local", "inline"):
            continue
        for attempt in latest:
            if attempt.get("state") == "running" and records.lives(attempt.get("pid", 0)):
                raise UserError(f"{output}: process {attempt['pid']} is at it; longtake cancel {output}")


def queue_name(output: Path) -> str:
    """Return the job's name in the queue: one for each output, by which a submission finds an earlier one."""
    digest = hashlib.sha256(str(output.resolve()).encode()).hexdigest()
    return f"{output.name}-{digest[:8]}"
