"""Sockets of a rank, counted in real groups. Run: pytest tests/core/distributed/test_descriptors.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.ranks import finish, fork_ranks

PROGRAM = "tests.core.distributed.descriptors_run"
STORE = 4  # connections to the store, and what listens
LEAST, MOST = 8, 32  # ranks


def sockets(count: int, folder: Path) -> list[int]:
    """Return how many sockets each of so many ranks has at the end."""
    ended = finish(fork_ranks(count, folder / "out", str(folder), program=PROGRAM))
    assert [status for status, _ in ended] == [0] * count, ended
    return [int(text) for _, text in ended]


@pytest.mark.multiprocess
@pytest.mark.parametrize("count", [4, pytest.param(16, marks=pytest.mark.full)])
def test_a_rank_has_few_sockets(tmp_path: Path, count: int) -> None:
    """Of each of two groups, one of which saves, it talks with two neighbours and three of a tree at most.
    Rank 0 has a connection with each, since it hosts the store.
    """
    found = sockets(count, tmp_path)
    assert max(found[1:]) <= 2 * 5 + STORE
    assert found[0] <= 2 * 3 + STORE + 2 * count


@pytest.mark.multiprocess
@pytest.mark.full
def test_a_larger_world_gives_a_rank_no_more_sockets(tmp_path: Path) -> None:
    few, many = (sockets(count, tmp_path / str(count)) for count in (LEAST, MOST))
    assert max(many[1:]) <= max(few[1:]) + 2
    for rank in range(1, LEAST):
        assert many[rank] <= few[rank] + 2
    assert many[0] <= few[0] + 2 + (MOST - LEAST)  # a connection to the store for each rank
