"""A job array that samples on a real SLURM, one of whose tasks is killed. Run: pytest -m slurm"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from core.checkpoint import exported
from core.run.folder import SAMPLES
from models.denoisers.dit import DiT
from tests.integration.slurm_run import Run
from tests.slurm_cluster import Cluster
from tests.tools.made_runs import MODEL, make_run
from tests.tools.sample.sample_runs import content

pytestmark = [pytest.mark.slurm, pytest.mark.full]
PARTS = 16
SLOW = {"LONGTAKE_FAULT": "sample.batch:sleep=0.4"}  # so that a kill comes in the middle
QUEUE = ("queue.timeout_s=6", "queue.heartbeat_s=0.5")


@pytest.fixture(scope="module")
def material(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make exported weights, and `alone`, what one process makes of them."""
    folder = tmp_path_factory.mktemp("material")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        make_run(folder / "exported", patch)
        torch.manual_seed(1)
        weights = {name: 0.2 * torch.randn(tensor.shape) for name, tensor in DiT(MODEL).state_dict().items()}
    record = {"checkpoint": "step-00000007.0", "weights": "ema", "average": "ema", "dtype": "fp32"}
    exported.finish(folder / "exported", weights, {**record, "step": 7, "updates": 7, "trained": []})
    run = Run(cluster, folder, folder / "alone")
    alone = run.launch("sample", *words(folder, folder / "alone"))
    assert alone.returncode == 0, alone.stdout
    return folder


def words(material: Path, output: Path) -> list[str]:
    places = [str(material / "exported"), f"output={output}"]
    return [*places, f"count={2 * PARTS}", "batch=2", "sampler.steps=2", "device=cpu", *QUEUE]


def parts(run: Run) -> int:
    """Parts that are finished."""
    return len(list(run.output.glob("parts/part-*.npz")))


def submit(run: Run, *fields: str) -> None:
    done = run.launch("submit", "sample", *words(run.cache, run.output), "cluster.minutes=10", *fields)
    assert done.returncode == 0, done.stdout


def kill_task(run: Run, task: int) -> None:
    """SIGKILL to a task's supervisor, of which SLURM then ends what it has started."""
    (record,) = run.submission.attempt_records(task)
    os.kill(record["pid"], signal.SIGKILL)


def listing(run: Run) -> str:
    """Return the row of `longtake jobs`."""
    shown = run.launch("jobs", str(run.output))
    assert shown.returncode == 0, shown.stdout
    return shown.stdout.splitlines()[1]


def require_complete(run: Run, material: Path) -> None:
    run.until(lambda: (run.output / SAMPLES).exists())
    run.until(lambda: listing(run).split()[1] == "done")
    made, alone = content(run.output), content(material / "alone")
    assert {name: made[name] for name in alone} == alone
    assert {name.partition("/")[0] for name in made.keys() - alone.keys()} <= {"submissions"}


def test_an_array_of_two_outlives_one_of_its_tasks(cluster: Cluster, material: Path, tmp_path: Path) -> None:
    run = Run(cluster, material, tmp_path / "samples", SLOW)
    submit(run, "cluster.array=2")
    run.until(lambda: len(run.submission.latest_records()) == 2 and parts(run) > 1)
    kill_task(run, 0)
    assert parts(run) < PARTS
    require_complete(run, material)
    assert "2 tasks: 1 lost, 1 done" in listing(run)


def test_ranks_on_two_nodes_share_the_samples_and_outlive_one_another(
    cluster: Cluster, material: Path, tmp_path: Path
) -> None:
    run = Run(cluster, material, tmp_path / "samples", SLOW)
    submit(run, "cluster.nodes=2")
    run.until(lambda: parts(run) > 2)
    run.kill(1)
    require_complete(run, material)
    (attempt,) = run.attempts  # complete all the same, so that it is not started again
    assert "ended without a word" in attempt["reason"]
