"""A job array that shares a sweep on a real SLURM, one of whose tasks is killed. Run: pytest -m slurm"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests import varied_digits
from tests.integration.slurm_run import Run
from tests.integration.test_sweep import FILE, ledger
from tests.slurm_cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.full]
RUNS = 3
SLOW = {"LONGTAKE_FAULT": "step.end:sleep=0.1"}  # so that the kill comes in the middle of a run
QUEUE = ("queue.timeout_s=6", "queue.heartbeat_s=0.5")


@pytest.fixture(scope="module")
def material(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make caches of digits, a sweep of three runs, and `alone`, which one process does."""
    folder = tmp_path_factory.mktemp("material")
    varied_digits.main(folder, 256, held_out=64)
    one_size = FILE.replace(", width=12 depth=1", "")
    (folder / "sweep.yaml").write_text(one_size.replace("[2.0e+7]", "[2.0e+7, 3.0e+7, 4.0e+7]"))
    run = Run(cluster, folder, folder / "alone")
    alone = run.launch("sweep", *words(folder, folder / "alone"))
    assert alone.returncode == 0, alone.stdout
    return folder


def words(material: Path, output: Path) -> list[str]:
    places = [str(material / "train"), f"autoencoder={material / 'autoencoder'}", f"output={output}"]
    return [str(material / "sweep.yaml"), *places, f"validation_source={material / 'held_out'}", *QUEUE]


def losses(output: Path) -> dict[str, object]:
    rows = ledger(output)
    assert len(rows) == RUNS
    return {str(row["run"]): row["losses"] for row in rows}


def test_an_array_shares_a_sweep_and_outlives_one_of_its_tasks(
    cluster: Cluster, material: Path, tmp_path: Path
) -> None:
    run = Run(cluster, material, tmp_path / "sweep", SLOW)
    submitted = run.launch(
        "submit", "sweep", *words(material, run.output), "cluster.minutes=10", "cluster.array=2"
    )
    assert submitted.returncode == 0, submitted.stdout
    run.until(
        lambda: len(run.submission.latest_records()) == 2 and len(list(run.output.glob("runs/*.log"))) >= 2
    )
    (record,) = run.submission.attempt_records(0)
    os.kill(record["pid"], signal.SIGKILL)
    assert len(ledger(run.output) if (run.output / "sweep.jsonl").exists() else []) < RUNS
    run.until(lambda: not cluster.tell("squeue", "-h").strip())
    assert losses(run.output) == losses(material / "alone")
