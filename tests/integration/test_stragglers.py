"""Detection of the slow rank where ranks wait for each other inside a forward pass.

Run: pytest tests/integration/test_stragglers.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from core.records import read_rows
from tests.core.ranks import run_ranks

# Rank 1 computes more in front of each block: in CPU time, so that a busy machine changes nothing.
SLOW = """
import sys, time
from pathlib import Path
import torch
from core.distributed import ranks
from core.metrics import rank_report
from core.run.ending import end_with
from tests.integration import parity_run

EXTRA_S = 0.1
rank_report.LATE = 0.0  # how long a step takes is a busy machine's affair; say who is behind in any case

class SlowOnRankOne(parity_run.DiT):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        if torch.distributed.get_rank() == 1:
            for block in self.blocks:
                block.register_forward_pre_hook(compute_more)

def compute_more(*_):
    if not torch.is_grad_enabled():
        return  # validation has ten passes for one of training
    until, x = time.thread_time() + EXTRA_S, torch.ones(64, 64)
    while time.thread_time() < until:
        x @ x

def main():
    world = ranks.start("cpu", 60)
    for name, fields in {
        "even": {"zero_stage": 3, "sequence_parallel": 2},
        "zero-3": {"zero_stage": 3},
        "heads": {"zero_stage": 1, "sequence_parallel": 2},
        "ring": {"zero_stage": 2, "sequence_parallel": 2, "model": '{"heads":3}'},
    }.items():
        parity_run.train(Path(sys.argv[1]) / name, world, steps=3, **fields)
        parity_run.DiT = SlowOnRankOne
    ranks.stop(world)

end_with(main)
"""


@pytest.mark.multiprocess
def test_a_rank_that_computes_longer_in_its_forward_pass_is_named(tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    run_ranks(2, str(program), str(tmp_path))
    reports = {p.parent.name: read_rows(p)[-1]["ranks"] for p in tmp_path.glob("*/metrics.jsonl")}
    even = reports.pop("even")["straggler"]
    assert even is None or even["phase"] == "data" or even["behind_s"] < 0.3
    assert set(reports) == {"zero-3", "heads", "ring"}
    for name, ranks in reports.items():
        assert (ranks["straggler"]["rank"], ranks["straggler"]["phase"]) == (1, "computing"), name
        assert (ranks["slowest"]["rank"], ranks["fastest"]["rank"]) == (1, 0), name
        assert ranks["straggler"]["behind_s"] > 0.6, name  # of 1.2: 3 steps of 2 micro-batches, 2 blocks
