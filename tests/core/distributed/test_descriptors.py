"""Descriptors of a rank, counted in real groups. Run: pytest tests/core/distributed/test_descriptors.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.ranks import finish, fork_ranks

PROGRAM = "tests.core.distributed.descriptors_run"
STORE = 4  # connections to the store, and what listens
LEAST, MOST = 8, 32  # ranks


def counted(count: int, folder: Path) -> list[tuple[int, int]]:
    """Return how many sockets each of so many ranks has at the end, and descriptors in all."""
    ended = finish(fork_ranks(count, folder / "out", str(folder), program=PROGRAM))
    assert [status for status, _ in ended] == [0] * count, ended
    return [(int(sockets), int(every)) for _, text in ended for sockets, every in [text.split()]]


@pytest.mark.multiprocess
@pytest.mark.parametrize("count", [4, pytest.param(16, marks=pytest.mark.full)])
def test_a_rank_has_few_sockets(tmp_path: Path, count: int) -> None:
    """Of each of two groups, one of which saves, it talks with two neighbours and three of a tree at most.
    Rank 0 has a connection with each, since it hosts the store.
    """
    found = [sockets for sockets, _ in counted(count, tmp_path)]
    assert max(found[1:]) <= 2 * 5 + STORE
    assert found[0] <= 2 * 3 + STORE + 2 * count


@pytest.mark.multiprocess
@pytest.mark.full
def test_a_larger_world_gives_a_rank_no_more_descriptors(tmp_path: Path) -> None:
    few, many = (counted(count, tmp_path / str(count)) for count in (LEAST, MOST))
    for kind in ("sockets", "descriptors"):
        at_few, at_many = ([found[kind == "descriptors"] for found in each] for each in (few, many))
        assert max(at_many[1:]) <= max(at_few[1:]) + 2, kind
        assert all(at_many[rank] <= at_few[rank] + 2 for rank in range(1, LEAST)), kind
        assert at_many[0] <= at_few[0] + 2 + (MOST - LEAST), kind  # a connection to the store for each rank
