"""Training on a real SLURM of two nodes: submitted, preempted, cancelled, killed. Run: pytest -m slurm"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from tests.integration.slurm_run import FIELDS, STEPS, Run
from tests.integration.tiny_run import command, finish, rows
from tests.slurm_cluster import Cluster

pytestmark = pytest.mark.slurm
SLOW = {"LONGTAKE_FAULT": "step.end:sleep=0.1"}  # so that a signal comes in the middle


@pytest.fixture
def run(cluster: Cluster, submitted_cache: Path, tmp_path: Path) -> Run:
    return Run(cluster, submitted_cache, tmp_path / "run", SLOW)


def require_equal(run: Run, left_alone: Run) -> None:
    assert run.rows() == left_alone.rows()


def test_a_job_is_submitted_and_finishes_as_on_local_ranks(left_alone: Run, tmp_path: Path) -> None:
    assert [attempt["state"] for attempt in left_alone.attempts] == ["done"]
    status, output = finish(command(left_alone.cache, tmp_path / "local", *FIELDS, "processes=2"))
    assert status == 0, output
    assert left_alone.rows() == rows(tmp_path / "local")
    listed = left_alone.launch("jobs", str(left_alone.output)).stdout.splitlines()[1]
    assert listed.split()[1:5] == ["done", "1", "n[0-1]", f"{STEPS}/{STEPS}"]
    assert f"trained {STEPS} steps" in left_alone.launch("logs", str(left_alone.output), "rank=0").stdout


def test_a_preempted_job_saves_and_is_requeued(run: Run, left_alone: Run) -> None:
    job = run.submit(*FIELDS)
    run.until(lambda: run.steps() > 2)
    run.cluster.run("scancel", "--batch", "--signal=USR2", job)
    run.start_now(starts=2)
    run.finish()
    first, second = run.attempts
    assert (first["state"], first["asked"], second["state"]) == ("requeued", True, "done")
    assert second["progress_before"] == first["progress"] < STEPS
    require_equal(run, left_alone)


def test_nodes_are_looked_over_before_training(left_alone: Run) -> None:
    record = json.loads((left_alone.output / "logs" / "preflight.json").read_text())
    assert [facts["node"] for facts in record["ranks"]] == ["n0", "n1"]
    assert all(facts["is_right"] and facts["links"]["all_reduce"] > 0 for facts in record["ranks"])
    assert record["unfit"] == {}


def test_a_cancelled_job_saves_and_stays_cancelled(run: Run) -> None:
    job = run.submit(*FIELDS)
    run.until(lambda: run.steps() > 2)
    assert run.launch("cancel", str(run.output)).returncode == 0
    run.until_state("cancelled")
    run.until(lambda: run.cluster.state(job) == "CANCELLED")
    newest = CheckpointStore(run.output / "checkpoints").latest()
    assert newest is not None
    assert newest.name == f"step-{run.steps():08d}.{job}.0"
    CheckpointReader(newest).verify()
    assert "cancelled" in run.launch("jobs", str(run.output)).stdout


def test_a_killed_rank_ends_the_others_and_the_job_is_requeued(run: Run, left_alone: Run) -> None:
    run.submit(*FIELDS)
    run.until(lambda: run.steps() > 12)
    run.kill(1, signal.SIGKILL)
    run.start_now(starts=2)
    first = run.attempts[0]
    assert (first["state"], first["failed_node"]) == ("requeued", "n1"), first
    assert "rank 1 on n1" in first["reason"]
    run.finish()
    require_equal(run, left_alone)
