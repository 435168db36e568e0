"""Training that is asked to end at any moment, as a person or a cluster does it."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import pytest

from core.checkpoint.store import CheckpointStore
from core.records import read_rows
from core.root import ROOT
from tests.integration.tiny_run import command, finish, rows, start

pytestmark = [pytest.mark.multiprocess, pytest.mark.full]
FIELDS = ("trainer.steps=40", "trainer.save_every=9", "metrics.log_every=1", "validation.every=10")
MOMENTS = 20


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    status, output = finish(command(cache, run, *FIELDS, "processes=2"))
    assert status == 0, output
    return run


def assert_equal(run: Path, undisturbed: Path) -> None:
    assert rows(run) == rows(undisturbed)
    validated = [read_rows(folder / "validation.jsonl") for folder in (run, undisturbed)]
    assert validated[0] == validated[1]
    ends = [CheckpointStore(folder / "checkpoints").latest() for folder in (run, undisturbed)]
    tensors = [{p.name: p.read_bytes() for p in end.glob("*.safetensors")} for end in ends if end]
    assert tensors[0] == tensors[1]


def test_signals_at_random_moments_cost_nothing(cache: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The launcher is signalled, again and again, until the run is through; no step is done twice."""
    words, moments = command(cache, tmp_path / "run", *FIELDS, "processes=2"), []
    for _ in range(MOMENTS):
        process, done = start(words), len(rows_so_far(tmp_path / "run"))
        number = random.choice([signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
        wanted = done + random.randrange(1, 4)  # rows there are when the signal comes
        while process.poll() is None and len(rows_so_far(tmp_path / "run")) < wanted:
            time.sleep(0.005)
        time.sleep(random.random() * 0.3)
        process.send_signal(number)
        output, _ = process.communicate(timeout=300)
        moments.append(f"{number.name} at {wanted}: status {process.returncode}")
        if process.returncode != 75:
            break
        assert f"ended early on {number.name}, saved after step" in output, moments
        kept = len(rows_so_far(tmp_path / "run"))
        assert f"saved after step {kept} of 40" in output, moments
        newest = CheckpointStore(tmp_path / "run" / "checkpoints").latest()
        assert newest is not None
        assert newest.name.startswith(f"step-{kept:08d}."), moments
    status, output = finish(words)
    assert status == 0, (moments, output)
    assert_equal(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_torchrun_passes_the_signal_on(
    cache: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """torchrun as the README has it, on one node."""
    python, *job = command(cache, tmp_path / "run", *FIELDS)
    (options,) = re.findall(r"^torchrun (.*?) -m launch train", (ROOT / "README.md").read_text(), re.M | re.S)
    for there, here in (("--nnodes 2", "--nnodes 1"), ("node 8", "node 2"), ("HOST:29500", "localhost:0")):
        assert there in options
        options = options.replace(there, here)
    words = [python, "-m", "torch.distributed.run", *options.replace("\\", " ").split(), *job]
    process = start(words)
    while process.poll() is None and len(rows_so_far(tmp_path / "run")) < 4:
        time.sleep(0.005)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert f"ended early on {number.name}, saved after step" in output
    assert "; the same command continues the run" in output.splitlines()[-1]  # after torchrun's traceback
    status, output = finish(words)
    assert status == 0, output
    assert_equal(tmp_path / "run", undisturbed)


def rows_so_far(run: Path) -> list[str]:
    file = run / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []
