"""Training on a real SLURM of two nodes: submitted, preempted, cancelled, killed. Run: pytest -m slurm"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from tests.integration.slurm_run import Run
from tests.integration.tiny_run import command, finish, rows
from tests.slurm_cluster import Cluster

pytestmark = pytest.mark.slurm
STEPS = 30
FIELDS = (f"trainer.steps={STEPS}", "trainer.save_every=10", "metrics.log_every=1")
SLOW = {"LONGTAKE_FAULT": "step.end:sleep=0.1"}  # so that a signal comes in the middle


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a run that is submitted and left alone."""
    run = Run(cluster, cache, tmp_path_factory.mktemp("undisturbed") / "run")
    run.submit(*FIELDS)
    run.finish()
    return run


@pytest.fixture
def run(cluster: Cluster, cache: Path, tmp_path: Path) -> Run:
    return Run(cluster, cache, tmp_path / "run", SLOW)


def require_equal(run: Run, undisturbed: Run) -> None:
    assert run.rows() == undisturbed.rows()


def test_a_job_is_submitted_and_finishes_as_on_local_ranks(
    undisturbed: Run, cache: Path, tmp_path: Path
) -> None:
    assert [attempt["state"] for attempt in undisturbed.attempts] == ["done"]
    status, output = finish(command(cache, tmp_path / "local", *FIELDS, "processes=2"))
    assert status == 0, output
    assert undisturbed.rows() == rows(tmp_path / "local")
    listed = undisturbed.launch("jobs", str(undisturbed.output)).stdout.splitlines()[1]
    assert listed.split()[1:5] == ["done", "1", "n[0-1]", f"{STEPS}/{STEPS}"]
    assert f"trained {STEPS} steps" in undisturbed.launch("logs", str(undisturbed.output), "rank=0").stdout


def test_a_preempted_job_saves_and_is_requeued(run: Run, undisturbed: Run) -> None:
    job = run.submit(*FIELDS)
    run.until(lambda: run.steps() > 2)
    run.cluster.run("scancel", "--batch", "--signal=USR2", job)
    run.start_now(starts=2)
    run.finish()
    first, second = run.attempts
    assert (first["state"], first["asked"], second["state"]) == ("requeued", True, "done")
    assert second["progress_before"] == first["progress"] < STEPS
    require_equal(run, undisturbed)


def test_nodes_are_looked_over_before_training(undisturbed: Run) -> None:
    record = json.loads((undisturbed.output / "logs" / "preflight.json").read_text())
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


def test_a_killed_rank_ends_the_others_and_the_job_is_requeued(run: Run, undisturbed: Run) -> None:
    run.submit(*FIELDS)
    run.until(lambda: run.steps() > 12)
    run.kill(1, signal.SIGKILL)
    run.start_now(starts=2)
    first = run.attempts[0]
    assert (first["state"], first["failed_node"]) == ("requeued", "n1"), first
    assert "rank 1 on n1" in first["reason"]
    run.finish()
    require_equal(run, undisturbed)
