"""What each rank has, beside what DeepSpeed really gives it, and over thousands of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.optim.groups import OptimizerConfig
from models.denoisers.dit import DiTConfig
from models.denoisers.network import count_parameters
from tests.core.ranks import run_ranks
from tools.plan.shares import numbers_of_ranks, shares_of_ranks
from tools.plan.step_samples import Bucket, Workload
from tools.runs.memory.run_memory import groups_of

MODEL = DiTConfig(width=20, depth=2, heads=2, num_classes=9)
OPTIMIZER = OptimizerConfig(weight_decay=0.1)

PROGRAM = """
import json, sys
from pathlib import Path
from core.distributed import ranks
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from tests.tools.plan.test_shares import MODEL, OPTIMIZER

folder = Path(sys.argv[1])
world = ranks.start("cpu", 60, folder=folder)
found = []
for stage in range(4):
    engine = make_engine(MODEL.build(), EngineConfig(zero_stage=stage, device="cpu"), OPTIMIZER, world)
    held = sum(shard.stop - shard.start for shard in engine.shards)
    found.append(ranks.gather_objects(held))
if world.rank == 0:
    (folder / "found.json").write_text(json.dumps(found))
ranks.stop(world)
"""


@pytest.mark.multiprocess
@pytest.mark.full
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_hold_what_deepspeed_gives_them(ranks: int, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    run_ranks(ranks, str(tmp_path / "program.py"), str(tmp_path))
    groups = groups_of(MODEL.build, OPTIMIZER)
    assert len(groups) == 2  # with and without decay
    for stage, held in enumerate(json.loads((tmp_path / "found.json").read_text())):
        assert numbers_of_ranks(groups, stage, ranks).tolist() == held


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 3, 4096, 1 << 18])
def test_all_numbers_have_one_owner(stage: int, ranks: int) -> None:
    groups = groups_of(MODEL.build, OPTIMIZER)
    held = numbers_of_ranks(groups, stage, ranks)
    assert held.sum() == count_parameters(MODEL)
    assert (np.diff(held) <= 0).all()  # the last ranks have less
    assert (numbers_of_ranks(groups, 0, ranks) == count_parameters(MODEL)).all()


def test_samples_and_tokens_of_a_group_are_shared_out_once() -> None:
    buckets = [Bucket("a", (4, 1, 8, 8), 9, 16, 2048, 0.5), Bucket("b", (4, 5, 8, 8), 9, 80, 1024, 0.5)]
    work = Workload(buckets, 1, 1024, 0)
    shares = shares_of_ranks(groups_of(MODEL.build, OPTIMIZER), 1, 4, 4096, work)
    assert [share.token_part for share in shares[:5]] == [0, 1, 2, 3, 0]
    for number, bucket in enumerate(buckets):
        taken = [share.samples[number] for share in shares if share.token_part == 0]
        assert [first for first, _ in taken] == [stop - bucket.group // 1024 for _, stop in taken]
        assert [i for first, stop in taken for i in range(first, stop)] == list(range(bucket.group))
