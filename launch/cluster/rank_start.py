"""Command and environment with which the ranks of an attempt are started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core import environment
from core.run import ends
from core.run.last_line import SAID_FILE
from launch.cluster.config import ClusterConfig
from launch.cluster.records import JOB_FILE, Submission
from launch.jobs import Job

LATE_S = 30.0  # for the other ranks to end when the first has


def rank_command(job: Job, submission: Submission, config: ClusterConfig, folder: Path) -> list[str]:
    """Return the command that starts the ranks.  folder: of the attempt, where they write what they say."""
    python = config.python or sys.executable
    if config.apptainer_image:
        python_words = ["apptainer", "exec", "--nv", config.apptainer_image, python]
    else:
        python_words = [python]
    run = [*python_words, "-P", "-m", "launch", job.name, str(submission.folder / JOB_FILE)]
    if config.kind != "slurm":
        return run
    options = {
        "nodes": config.nodes,
        "ntasks": config.world_size,
        "ntasks-per-node": config.tasks_per_node,
        "cpus-per-task": config.cpus_per_task,  # not inherited since SLURM 22.05
        "kill-on-bad-exit": 0,  # ranks that end early together may be seconds apart
        "wait": int(LATE_S) if job.on_ranks and not job.shares else 0,
        "output": folder / "rank-%t.txt",
        "open-mode": "append",
        "mpi": "none",
        "container-image": config.container_image or None,
        "container-mounts": config.container_mounts or None,
    }
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return ["srun", "--unbuffered", *words, *config.srun, *run]


def rank_environment(
    submission: Submission, config: ClusterConfig, folder: Path, *, started: float, number: int
) -> dict[str, str]:
    """Return the ranks' environment: the submitted code, where to report their ends, and when the job ends.

    started: of this attempt, seconds since 1970.  number: of the attempt, from 0.
    """
    end = started + 60 * config.minutes
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(submission.code), os.environ.get("PYTHONPATH")])),
        ends.FOLDER: str(folder),
        SAID_FILE: str(folder / "told"),
    }
    if config.preflight:
        found[environment.PREFLIGHT] = "1"
    if config.kind == "slurm":
        found[environment.END_TIME] = str(end)
    else:
        found[environment.RESTARTS] = str(number)
        found[environment.PARENT] = str(os.getpid())  # the process that they do not outlive
    return found
