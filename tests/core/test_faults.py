"""Faults of one rank of several. Run: pytest tests/core/test_faults.py"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from core import distributed
from core.metrics import read_rows
from core.watchdog import EXIT_STATUS
from tests.core.ranks import finish, run_ranks, start_ranks
from tests.core.toy_run import toy_trainer

PROGRAM = str(Path(__file__).with_name("toy_run.py"))

OTHER_STEP = """
import torch
from core import distributed
from core.agreement import StepAgreement
from core.batch import Batch
from core.errors import WorkError
world = distributed.start("cpu", 60)
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
distributed.stop(world)
"""

# Runs of two ranks; what is wrong on rank 1 happens when it asks for the data of its fifth step.
ASTRAY = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from core import distributed
from core.errors import WorkError
from tests.core.toy_run import toy_trainer

def flip(tensor):
    tensor.detach().view(-1).view(torch.uint8)[:1].bitwise_xor_(1)

def run(name, act, **fields):
    trainer = toy_trainer(Path(sys.argv[1]) / name, world, steps=8, **fields)
    batches = trainer.feed.batches
    def watched(first):
        for number, parts in enumerate(batches(first), first):
            if number == 4 and world.rank == 1:
                if act(trainer) == "leave out":
                    continue
            yield parts
    trainer.feed = replace(trainer.feed, batches=watched)
    try:
        trainer.fit()
    except WorkError as error:
        print(name, error)

world = distributed.start("cpu", 60)
run("left-out", lambda trainer: "leave out")
for stage in (1, 3):
    flip_master = lambda trainer: flip(trainer.engine.flats[0])
    run(f"master-{stage}", flip_master, zero_stage=stage, check_every=1)
run("frozen", lambda trainer: flip(trainer.engine.module.frozen.weight), zero_stage=2, check_every=3)
distributed.stop(world)
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In one go: a run with validation whose rank 1 is late for its data, and one with a poisoned sample."""
    folder = tmp_path_factory.mktemp("faults")
    late = f"--run={folder}/late steps=4 validate_every=2 precision=fp32 fault=step.data@rank=1:sleep=0.3"
    poisoned = f"--run={folder}/poisoned steps=3 poison=14 zero_stage=3"
    run_ranks(2, PROGRAM, *late.split(), *poisoned.split())
    return folder


@pytest.mark.multiprocess
def test_a_straggler_is_reported_and_training_goes_on(two_ranks: Path) -> None:
    rows = read_rows(two_ranks / "late" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    last = rows[-1]["ranks"]
    assert (last["slowest"]["rank"], last["fastest"]["rank"]) == (1, 0)
    assert (last["straggler"]["rank"], last["straggler"]["phase"]) == (1, "data")


@pytest.mark.multiprocess
def test_validation_is_the_same_on_two_ranks(two_ranks: Path, tmp_path: Path) -> None:
    world = distributed.start("cpu", 60)
    toy_trainer(tmp_path, world, steps=4, validate_every=2, precision="fp32").fit()
    alone, together = (read_rows(f / "validation.jsonl") for f in (tmp_path, two_ranks / "late"))
    assert len(alone) == len(together) == 2
    for one, other in zip(alone, together, strict=True):
        for name in ("raw", "0.9", "0.5"):
            assert other[name]["loss"] == pytest.approx(one[name]["loss"], rel=1e-5)


@pytest.mark.multiprocess
def test_a_bad_sample_on_one_rank_is_named(two_ranks: Path) -> None:
    (row,) = read_rows(two_ranks / "poisoned" / "incidents.jsonl")
    (culprit,) = row["culprits"]
    assert (culprit["rank"], culprit["module"]) == (1, "first")
    assert [sample["id"] for sample in culprit["samples"]] == [14]
    applied: list[Any] = [r["applied"] for r in read_rows(two_ranks / "poisoned" / "metrics.jsonl")]
    assert applied == [True, False, True]


@pytest.mark.multiprocess
def test_a_rank_in_another_step_is_found() -> None:
    for text in run_ranks(2, "-c", OTHER_STEP):
        assert "while others are in another one" in text


@pytest.mark.multiprocess
def test_a_rank_that_is_astray_or_corrupt_is_found(tmp_path: Path) -> None:
    """A sample's step left out; a bit of a master that exists once; a bit of a copy, at the next check."""
    for text in run_ranks(2, "-c", ASTRAY, str(tmp_path)):
        found = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        assert "samples that all ranks hold in step 5 are not those" in found["left-out"]
        for stage in (1, 3):
            says = "rank 1: master 0 changed between two updates, found before step 5"
            assert says in found[f"master-{stage}"]
        assert "weight frozen.weight differs between the ranks, found before step 6" in found["frozen"]
    assert [row["kind"] for row in read_rows(tmp_path / "frozen" / "incidents.jsonl")] == ["corrupt"]


def stop_a_rank(folder: Path, stage: int) -> None:
    arguments = f"--run={folder} steps=50 save_every=50 zero_stage={stage} watchdog_s=4"
    ranks = start_ranks(2, PROGRAM, *f"{arguments} fault=step.update@rank=1,step=3:stop".split())
    started = time.monotonic()
    try:
        assert ranks[0].wait(120) == EXIT_STATUS
    finally:
        ranks[1].kill()
    text = finish(ranks)[0][1]
    assert time.monotonic() - started < 120
    report = (folder / "logs" / "hang-rank-0.txt").read_text()
    assert "in step 4 (update)" in report
    assert re.search(r"rank 1: step \d, \w+ for \d+ s; no heartbeat for \d+ s; samples", report)
    assert "in _one_step" in report
    assert "rank 0: nothing has moved" in text
    assert not (folder / "finished.json").exists()


@pytest.mark.multiprocess
def test_a_stopped_rank_ends_the_run_with_a_report(tmp_path: Path) -> None:
    stop_a_rank(tmp_path, 2)


@pytest.mark.multiprocess
@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_stopped_rank_ends_the_run_at_every_stage(tmp_path: Path, stage: int) -> None:
    stop_a_rank(tmp_path, stage)


@pytest.mark.multiprocess
@pytest.mark.full
def test_a_slow_network_is_not_a_slow_rank(tmp_path: Path) -> None:
    """A wait inside the update is everybody's: nobody is called a straggler for it."""
    run = f"--run={tmp_path}/run steps=4 fault=step.update:sleep=0.3"
    run_ranks(2, PROGRAM, *run.split())
    stragglers = [
        json.dumps(r.get("ranks", {}).get("straggler")) for r in read_rows(tmp_path / "run" / "metrics.jsonl")
    ]
    assert set(stragglers) == {"null"}
