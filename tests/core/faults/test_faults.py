"""Faults of one rank of several. Run: pytest tests/core/faults/test_faults.py"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.batch import Batch
from core.checkpoint.weights import load_weights
from core.distributed.ranks import World, start
from core.faults.watchdog import EXIT_STATUS, START_PATIENCE
from core.records import read_rows
from tests.core import toy_run
from tests.core.ranks import finish, fork_ranks, run_ranks, start_interpreters, start_ranks
from tests.core.toy_run import toy_trainer

PROGRAM = toy_run.__file__

MOVED = {"schedule": "constant", "precision": "fp32"}  # of runs that change their number of ranks

OTHER_STEP = """
import torch
from core.distributed.ranks import start, stop
from core.distributed.agreement import StepAgreement
from core.batch import Batch
from core.run.ending import end_with
from core.errors import WorkError

def main():
    world = start("cpu", 60)
    batch = Batch(*(torch.ones(2, dtype=d) for d in (torch.float32, torch.int64, torch.int64, torch.float32)))
    for step in (5, 4097):
        agreement = StepAgreement(step, [batch], world)
        assert float(agreement.total_weight()) == 4.0
        agreement.require()
    astray = StepAgreement(6 + world.rank, [batch], world)
    try:
        astray.require()
    except WorkError as error:
        print(error)
    stop(world)

end_with(main)
"""

# Runs of two ranks; what is wrong on rank 1 happens when it asks for the data of its fifth step.
ASTRAY = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from core.distributed.ranks import start, stop
from core.run.ending import end_with
from core.errors import WorkError
from tests.core.toy_run import toy_trainer

def flip(tensor):
    tensor.detach().view(-1).view(torch.uint8)[:1].bitwise_xor_(1)

def run(world, name, act, **fields):
    trainer = toy_trainer(Path(sys.argv[1]) / name, world, steps=8, **fields)
    batches = trainer.data.batches
    def watched(first):
        for number, parts in enumerate(batches(first), first):
            if number == 4 and world.rank == 1:
                if act(trainer) == "leave out":
                    continue
            yield parts
    trainer.data = replace(trainer.data, batches=watched)
    try:
        trainer.fit()
    except WorkError as error:
        print(name, error)

def main():
    world = start("cpu", 60)
    run(world, "left-out", lambda trainer: "leave out")
    for stage in (1, 3, "fsdp2-2"):
        flip_master = lambda trainer: flip(trainer.engine.masters[0])
        run(world, f"master-{stage}", flip_master, zero_stage=stage, check_every=1)
    flip_frozen = lambda trainer: flip(trainer.engine.module.frozen.weight)
    run(world, "frozen", flip_frozen, zero_stage=2, check_every=3)
    flip_rows = lambda trainer: flip(trainer.engine.module.frozen.weight._local_tensor)
    run(world, "rows", flip_rows, zero_stage="fsdp2-3", check_every=1)
    stop(world)

end_with(main)
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Start at once: a run with validation, whose rank 1 is late for data once, one with a poisoned sample,
    one that goes on where one rank has left it, and one to be left to one rank."""
    folder = tmp_path_factory.mktemp("faults")
    fault = "fault=step.data@rank=1,step=4:sleep=3"
    late = f"--run={folder}/late steps=4 validate_every=2 precision=fp32 micro_batch=2 bad=1 {fault}"
    poisoned = f"--run={folder}/poisoned steps=3 poison=14 zero_stage=3"
    poisoned += f" --run={folder}/poisoned-fsdp2 steps=3 poison=14 zero_stage=fsdp2-2"
    toy_trainer(folder / "grown", start("cpu", 60), steps=5, zero_stage=1, **MOVED).fit()
    options = " ".join(f"{name}={value}" for name, value in MOVED.items())
    grown = f"--run={folder}/grown steps=8 zero_stage=3 micro_batch=2 {options}"
    shrunk = f"--run={folder}/shrunk steps=5 zero_stage=2 {options}"
    run_ranks(2, PROGRAM, *f"{late} {poisoned} {grown} {shrunk}".split())
    return folder


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["grown", "shrunk"])
def test_a_run_continues_on_another_number_of_ranks(two_ranks: Path, tmp_path: Path, name: str) -> None:
    """It takes the same samples, and loss, weights and average differ by rounding alone."""
    world = start("cpu", 60)
    if name == "shrunk":
        toy_trainer(two_ranks / name, world, steps=8, zero_stage=0, **MOVED).fit()
    toy_trainer(tmp_path, world, steps=8, **MOVED).fit()
    whole, moved = (read_rows(folder / "metrics.jsonl") for folder in (tmp_path, two_ranks / name))
    assert [row["step"] for row in moved] == list(range(1, 9))
    for one, other in zip(whole, moved, strict=True):
        assert other["order_hash"] == one["order_hash"]
        for number in ("loss", "grad_norm"):
            assert other[number] == pytest.approx(one[number], rel=1e-5), (number, one["step"])
    for which in ("raw", "ema"):
        one, other = (load_weights(folder, which) for folder in (tmp_path, two_ranks / name))
        for key in one.keys() - {"calls"}:
            torch.testing.assert_close(other[key], one[key], rtol=0, atol=1e-5)


@pytest.mark.multiprocess
def test_a_straggler_is_reported_and_training_goes_on(two_ranks: Path) -> None:
    rows = read_rows(two_ranks / "late" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    late = rows[3]["ranks"]
    assert (late["slowest"]["rank"], late["fastest"]["rank"]) == (1, 0)
    assert (late["straggler"]["rank"], late["straggler"]["phase"]) == (1, "data")
    assert late["straggler"]["behind_s"] > 2


@pytest.mark.multiprocess
def test_two_ranks_train_and_validate_as_one(two_ranks: Path, tmp_path: Path) -> None:
    """One of them has fewer true samples than the other."""
    world = start("cpu", 60)
    toy_trainer(tmp_path, world, steps=4, validate_every=2, precision="fp32", bad=1).fit()
    alone, together = (read_rows(folder / "metrics.jsonl") for folder in (tmp_path, two_ranks / "late"))
    for one, other in zip(alone, together, strict=True):
        assert (one["samples"], other["samples"]) == (7, 7)
        for name in ("loss", "grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-5), (name, one["step"])
    alone, together = (read_rows(f / "validation.jsonl") for f in (tmp_path, two_ranks / "late"))
    assert len(alone) == len(together) == 2
    for one, other in zip(alone, together, strict=True):
        for name in ("raw", "0.9", "0.5"):
            assert other[name]["loss"] == pytest.approx(one[name]["loss"], rel=1e-5)


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["poisoned", "poisoned-fsdp2"])
def test_a_bad_sample_on_one_rank_is_named(two_ranks: Path, name: str) -> None:
    (row,) = read_rows(two_ranks / name / "incidents.jsonl")
    (found,) = row["culprits"]
    assert (found["rank"], found["module"]) == (1, "first")
    assert [sample["id"] for sample in found["samples"]] == [14]
    applied: list[Any] = [r["applied"] for r in read_rows(two_ranks / name / "metrics.jsonl")]
    assert applied == [True, False, True]


@pytest.mark.multiprocess
def test_a_rank_in_another_step_is_found() -> None:
    for text in run_ranks(2, "-c", OTHER_STEP):
        assert "while others are in another one" in text


@pytest.mark.multiprocess
def test_a_rank_that_is_astray_or_corrupt_is_found(tmp_path: Path) -> None:
    """The cases: a step left out; a flipped bit of a master that exists once; one of a copy."""
    for text in run_ranks(2, "-c", ASTRAY, str(tmp_path)):
        found = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        assert "samples that all ranks hold in step 5 are not those" in found["left-out"]
        for stage in (1, 3, "fsdp2-2"):
            says = "rank 1: master 0 changed between two updates, found before step 5"
            assert says in found[f"master-{stage}"]
        assert "weight frozen.weight differs from that of rank 0, found before step 6" in found["frozen"]
        assert "rank 1: part of frozen.weight changed between two updates" in found["rows"]
    assert [row["kind"] for row in read_rows(tmp_path / "frozen" / "incidents.jsonl")] == ["corrupt"]


@pytest.mark.multiprocess
def test_nothing_is_published_before_every_rank_has_written(tmp_path: Path) -> None:
    """Rank 1 is stopped while it writes the second checkpoint; rank 0 has long left its receipt."""
    run = f"--run={tmp_path} steps=8 save_every=3"
    ranks = start_ranks(2, PROGRAM, *f"{run} fault=save.flush@rank=1,step=6:stop".split())
    deadline = time.monotonic() + 120
    while not (receipts := list(tmp_path.glob("checkpoints/step-00000006.*/rank-00000.json"))):
        assert time.monotonic() < deadline
        assert ranks[0].poll() is None, finish(ranks)[0][1]
        time.sleep(0.02)
    ranks[1].kill()
    assert finish(ranks)[0][0] != 0  # it has waited for the other, and lost it
    assert not (receipts[0].parent / "manifest.json").exists()
    continued, _ = run_ranks(2, PROGRAM, *run.split())
    assert "continuing after step 3" in continued
    assert json.loads((tmp_path / "finished.json").read_text())["step"] == 8


@pytest.mark.multiprocess
def test_a_read_that_hangs_ends_the_run(tmp_path: Path) -> None:
    run = f"--run={tmp_path} steps=5 watchdog_s=1 fault=step.data@step=3:sleep=1000"
    ((status, text),) = finish(start_ranks(1, PROGRAM, *run.split()))
    assert status == EXIT_STATUS
    assert "nothing has moved for 1 s in step 3 (data)" in text
    assert "in _act" in (tmp_path / "logs" / "hang-rank-0.txt").read_text()  # where it hangs


@pytest.mark.multiprocess
def test_a_slow_save_is_waited_for_and_one_that_hangs_ends_the_run(tmp_path: Path) -> None:
    """Rank 1's disk takes longer than the watchdog, and any collective, would wait; then it hangs."""
    words = "steps=6 save_every=2 watchdog_s=3 timeout_s=5.0 save_async="
    slow = "fault=save.flush@rank=1,step=2:sleep=7"
    hangs = "fault=save.flush@step=4:sleep=1000"
    both = {
        "slow": fork_ranks(2, tmp_path / "out", f"--run={tmp_path}/slow", *f"{words}false {slow}".split()),
        "beside": fork_ranks(
            2, tmp_path / "out-2", f"--run={tmp_path}/beside", *f"{words}true {slow}".split()
        ),
    }
    stuck = fork_ranks(
        1, tmp_path / "out-3", f"--run={tmp_path}/stuck", *f"{words}true save_timeout_s=2 {hangs}".split()
    )
    for name, ranks in both.items():
        for status, text in finish(ranks):
            assert status == 0, text
        assert (tmp_path / name / "finished.json").exists()
    ((status, text),) = finish(stuck)
    assert status == EXIT_STATUS
    assert "rank 0: the save under way has written nothing for 2 s; the process ends with status 75" in text
    assert len(list((tmp_path / "stuck").glob("checkpoints/*/manifest.json"))) == 1


def test_there_is_more_patience_until_the_first_step_has_ended(world: World, tmp_path: Path) -> None:
    trainer, seen = toy_trainer(tmp_path, world, steps=3, largest=True), list[float]()
    batches = trainer.data.batches

    def watched(first: int) -> Iterator[list[Batch]]:
        for parts in batches(first):
            seen.append(trainer.phases.patience)
            yield parts

    trainer.data = replace(trainer.data, batches=watched)
    trainer.fit()
    assert seen == [START_PATIENCE, 1, 1]


def wait_until_stuck(folder: Path) -> None:
    """Wait until rank 0 has been in its fourth step's update for a while."""
    beat, deadline = {"step": 0, "phase": "", "since_s": 0.0}, time.monotonic() + 120
    while (beat["step"], beat["phase"]) != (4, "update") or beat["since_s"] < 0.5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):
            beat = json.loads((folder / "logs" / "heartbeat-rank-0.json").read_text())


def stop_a_rank(folder: Path, stage: int) -> None:
    arguments = f"--run={folder} steps=50 save_every=50 zero_stage={stage} watchdog_s=4"
    words = f"{arguments} fault=step.update@rank=1,step=4:stop".split()
    ranks = start_interpreters(2, PROGRAM, *words, environment={"TORCH_FR_BUFFER_SIZE": "100"})
    started = time.monotonic()
    try:
        wait_until_stuck(folder)
        ranks[0].send_signal(signal.SIGUSR2)
        assert ranks[0].wait(120) == EXIT_STATUS
    finally:
        ranks[1].kill()
    text = finish(ranks)[0][1]
    assert time.monotonic() - started < 120
    report = (folder / "logs" / "hang-rank-0.txt").read_text()
    assert "in step 4 (update)" in report
    assert re.search(r"rank 1: step \d, \w+ for \d+ s; no heartbeat for \d+ s; samples", report)
    assert "in one_step" in report
    assert text.index("rank 0: SIGUSR2: ending after step 5 at the latest") < text.index(
        "rank 0: nothing has moved"
    )
    recorded = json.loads((folder / "logs" / "collectives-rank-0.json").read_text())["entries"]
    assert "all_reduce" in " ".join(entry["profiling_name"] for entry in recorded)
    assert not (folder / "finished.json").exists()


@pytest.mark.multiprocess
def test_a_stopped_rank_ends_the_run_with_a_report(tmp_path: Path) -> None:
    stop_a_rank(tmp_path, 2)


@pytest.mark.multiprocess
def test_a_failed_rank_does_not_wait_for_the_save_of_a_stopped_one(tmp_path: Path) -> None:
    """The failed rank's thread waits for the other's part of the save, and would for the group's timeout."""
    faults = "fault=save.flush@rank=1,step=3:stop;step.data@rank=0,step=4:raise"
    ranks = start_ranks(2, PROGRAM, f"--run={tmp_path}", "timeout_s=1000.0", "watchdog_s=0", faults)
    try:
        assert ranks[0].wait(120) == 1
    finally:
        ranks[1].kill()
    text = finish(ranks)[0][1]
    assert "the last save is given up, since not all ranks have come to their end" in text
    assert "failpoint step.data raised" in text
    assert not list((tmp_path / "checkpoints").glob("*/manifest.json"))


@pytest.mark.multiprocess
def test_ranks_that_fail_alike_finish_the_save_first(tmp_path: Path) -> None:
    faults = "fault=save.flush@rank=1,step=3:sleep=1;step.data@step=4:raise"
    for code, text in finish(start_ranks(2, PROGRAM, f"--run={tmp_path}", faults)):
        assert code == 1
        assert "failpoint step.data raised" in text
        assert "given up" not in text
    assert list((tmp_path / "checkpoints").glob("step-00000003.*/manifest.json"))


@pytest.mark.multiprocess
@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_stopped_rank_ends_the_run_at_every_stage(tmp_path: Path, stage: int) -> None:
    stop_a_rank(tmp_path, stage)


@pytest.mark.multiprocess
@pytest.mark.full
def test_a_slow_network_is_not_a_slow_rank(tmp_path: Path) -> None:
    """A wait inside the update holds up all ranks: none is called a straggler for it."""
    run = f"--run={tmp_path}/run steps=4 fault=step.update:sleep=0.3"
    run_ranks(2, PROGRAM, *run.split())
    stragglers = [
        json.dumps(r.get("ranks", {}).get("straggler")) for r in read_rows(tmp_path / "run" / "metrics.jsonl")
    ]
    assert set(stragglers) == {"null"}
