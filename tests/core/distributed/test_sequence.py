"""Sequence groups: which ranks share which tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from core.distributed.ranks import World
from core.distributed.sequence import (
    SequenceGroup,
    data_world,
    make_sequence_group,
    split_tokens,
)
from core.errors import UserError


def world(rank: int, size: int) -> World:
    return World(rank, size, rank, torch.device("cpu"))


@given(st.integers(1, 50), st.integers(1, 9))
def test_shares_hold_every_token_once_in_order(tokens: int, size: int) -> None:
    x = torch.arange(1, tokens + 1, dtype=torch.float32)[None, :, None]
    groups = [SequenceGroup(rank, size, None) for rank in range(size)]
    shares = [split_tokens(x, group) for group in groups]
    assert {share.shape[1] for share in shares} == {groups[0].share(tokens)}
    held = [share[:, : group.valid(tokens, group.rank)] for share, group in zip(shares, groups, strict=True)]
    assert torch.equal(torch.cat(held, dim=1), x)
    assert torch.cat(shares, dim=1)[:, tokens:].eq(0).all()


def test_neighbours_are_one_rank_to_the_loader() -> None:
    seen = [data_world(world(rank, 6), 3) for rank in range(6)]
    assert [(w.rank, w.size) for w in seen] == [(0, 2)] * 3 + [(1, 2)] * 3
    assert data_world(world(2, 4), 1) == world(2, 4)
    assert make_sequence_group(world(0, 1), 1) is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_rank_of_4096_makes_one_group(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    group = SimpleNamespace(group_name="of eight")

    def making(*asked: Any, **how: Any) -> Any:
        made.append((asked, how))
        return group

    monkeypatch.setattr(dist, "new_group", making)
    monkeypatch.setattr(dist, "split_group", making)
    found = make_sequence_group(World(4091, 4096, 3, torch.device(device)), 8)
    assert found == SequenceGroup(3, 8, group, "of eight")
    mine = list(range(4088, 4096))
    if device == "cpu":
        assert made == [((mine,), {"use_local_synchronization": True})]
    else:  # one split of all ranks, each of which stands in one part
        ((_, how),) = made
        assert how["split_ranks"][-1] == mine
        assert [rank for part in how["split_ranks"] for rank in part] == list(range(4096))


def test_a_size_that_does_not_divide_the_ranks_is_refused() -> None:
    with pytest.raises(UserError, match=r"^sequence_parallel=4: expected a divisor of .* ranks, 6"):
        make_sequence_group(world(0, 6), 4)
