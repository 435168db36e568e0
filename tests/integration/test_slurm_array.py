"""A job array that encodes on a real SLURM, some of whose tasks are killed. Run: pytest -m slurm"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.dataset.schema import MANIFEST
from launch.cluster import records
from tests.integration.slurm_run import Run
from tests.slurm_cluster import Cluster
from tests.tools.encode.encode_runs import content, make_autoencoder

pytestmark = pytest.mark.slurm
UNITS, OF_EACH = 16, 4
SLOW = {"LONGTAKE_FAULT": "encode.batch:sleep=0.4"}  # so that a kill comes in the middle
QUEUE = ("queue.timeout_s=6", "queue.heartbeat_s=0.5")


@pytest.fixture(scope="module")
def material(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a raw dataset, an autoencoder, and `alone`, the cache that one process makes of them."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(UNITS * OF_EACH):
        picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        picture.save(folder / "photos" / f"{number:03d}.png")
    make_autoencoder(folder / "autoencoder")
    run = Run(cluster, folder, folder / "alone")
    shard = run.launch("shard", "photos", "output=raw", f"samples_per_shard={OF_EACH}")
    assert shard.returncode == 0, shard.stdout
    encode = run.launch("encode", *words(folder, folder / "alone"))
    assert encode.returncode == 0, encode.stdout
    return folder


def words(material: Path, output: Path) -> list[str]:
    places = [str(material / "raw"), f"autoencoder={material / 'autoencoder'}", f"output={output}"]
    return [*places, "buckets.shapes=[[1,16,16]]", "batch=1", "device=cpu", *QUEUE]


def submit(run: Run, tasks: int, *fields: str) -> None:
    array = ("cluster.minutes=10", f"cluster.array={tasks}", *fields)
    done = run.launch("submit", "encode", *words(run.cache, run.output), *array)
    assert done.returncode == 0, done.stdout


def receipts(run: Run) -> int:
    """Return the finished units."""
    return len(list(run.output.glob(".receipts/*")))


def kill_task(run: Run, task: int) -> None:
    """Send SIGKILL to a task's supervisor; SLURM then ends what it has started."""
    (record,) = run.submission.attempt_records(task)
    os.kill(record["pid"], signal.SIGKILL)


def listing(run: Run) -> str:
    """Return the row of `longtake jobs`."""
    shown = run.launch("jobs", str(run.output))
    assert shown.returncode == 0, shown.stdout
    return shown.stdout.splitlines()[1]


def require_complete(run: Run, killed: int, tasks: int) -> None:
    run.until(lambda: (run.output / MANIFEST).exists())
    run.until(lambda: listing(run).split()[1] == "done")
    listed = listing(run)
    assert tasks == 1 or f"{tasks} tasks: {killed} lost, {tasks - killed} done" in listed
    made = content(run.output)
    theirs = content(run.cache / "alone")
    assert {name: made[name] for name in theirs} == theirs
    assert {name.partition("/")[0] for name in made.keys() - theirs.keys()} <= {"submissions"}


def check_array(run: Run, tasks: int, killed: int) -> None:
    submit(run, tasks)
    run.until(lambda: len(run.submission.latest_records()) == tasks and receipts(run) > killed)
    for task in range(killed):
        kill_task(run, task)
    assert receipts(run) < UNITS
    require_complete(run, killed, tasks)


def test_an_array_of_two_outlives_one_of_its_tasks(cluster: Cluster, material: Path, tmp_path: Path) -> None:
    check_array(Run(cluster, material, tmp_path / "latents", SLOW), tasks=2, killed=1)


@pytest.mark.full
def test_an_array_of_four_outlives_two_of_its_tasks(cluster: Cluster, material: Path, tmp_path: Path) -> None:
    check_array(Run(cluster, material, tmp_path / "latents", SLOW), tasks=4, killed=2)


@pytest.mark.full
def test_tasks_are_added_by_submitting_again_and_outlive_the_first(
    cluster: Cluster, material: Path, tmp_path: Path
) -> None:
    run = Run(cluster, material, tmp_path / "latents", SLOW)
    submit(run, 1)
    run.until(lambda: receipts(run) > 1)
    submit(run, 1)
    run.until(lambda: bool(run.submission.latest_records()))
    first, second = records.submissions(run.output)
    os.kill(first.attempt_records(0)[0]["pid"], signal.SIGKILL)
    assert second.folder == run.submission.folder
    require_complete(run, 0, 1)
