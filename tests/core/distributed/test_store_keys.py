"""What ranks write at the store where they meet. Run: pytest tests/core/distributed/test_store_keys.py

A key more for each rank, or a longer one in a larger world, is a thousand times that at a thousand ranks, all
at rank 0. Tasks of one `srun` write one key a rank before (test_rendezvous.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.core.ranks import finish, fork_ranks

PROGRAM = "tests.core.distributed.store_keys_run"
KINDS = {
    "its address in a group": r"default_pg/0//(\d+//)?cpu//0/\d+",
    "its signs of life": r"default_pg/0//longtake/alive/\d+",
    "the end, of all ranks": r"default_pg/0//longtake/end [0-9a-f]+/(count|all)",
}


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name)), name)


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("count", "stage", "groups"),
    [
        # Of all ranks, once more for DeepSpeed, and of the threads that save.
        (2, "deepspeed-1", 3),
        (4, "deepspeed-1", 3),
        # Of all ranks, of those that share the state, of those that save; of replicas, where that is not all.
        pytest.param(2, "fsdp2-2-1", 3, marks=pytest.mark.full),
        (4, "fsdp2-2-2", 4),
    ],
)
def test_a_rank_writes_as_many_keys_in_any_world(tmp_path: Path, count: int, stage: str, groups: int) -> None:
    """A start, a step, a save and the end: a key for each group of a rank, and one more."""
    ended = finish(fork_ranks(count, tmp_path / "out", str(tmp_path / "run"), stage, program=PROGRAM))
    assert [status for status, _ in ended] == [0] * count, ended
    found: dict[str, int] = json.loads(ended[0][1].splitlines()[-1])
    kinds = Counter(map(kind_of, found))
    assert kinds == {
        "its address in a group": groups * count,
        "its signs of life": count,
        "the end, of all ranks": 2,
    }
    # Of a full mesh each rank would write an address for each other rank.
    assert {size for name, size in found.items() if kind_of(name) == "its address in a group"} == {154}
