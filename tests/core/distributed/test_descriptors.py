"""Sockets of a rank, counted in real groups. Run: pytest tests/core/distributed/test_descriptors.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.ranks import finish, fork_ranks

PROGRAM = "tests.core.distributed.descriptors_run"
STORE = 4  # connections to the store, and what listens


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "count", [4, pytest.param(16, marks=pytest.mark.full), pytest.param(32, marks=pytest.mark.full)]
)
def test_sockets_grow_with_the_logarithm_of_the_ranks(tmp_path: Path, count: int) -> None:
    """Of each of two groups, one of which saves, a rank talks to neighbours and, where all wait for all, to
    ranks at distances of powers of two; a mesh would be count - 1 a group. Rank 0 has connections with all,
    as it hosts the store and gets the receipts.
    """
    ended = finish(fork_ranks(count, tmp_path / "out", str(tmp_path), program=PROGRAM))
    assert [status for status, _ in ended] == [0] * count, ended
    found = [int(text) for _, text in ended]
    partners = 2 * (count - 1).bit_length()  # to and from
    assert max(found[1:]) <= 2 * (partners + 2) + STORE
