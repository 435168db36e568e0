"""The tree of ranks along which objects are exchanged. Run: pytest tests/core/distributed/test_tree.py"""

from __future__ import annotations

import pytest

from core.distributed.tree import Links, links


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 12, 31, 32, 33, 100, 1024, 4096])
def test_every_rank_is_in_one_place(size: int) -> None:
    """Each has one parent, which knows it as its child; a subtree is a range of ranks, around its root."""
    places = [links(rank, size) for rank in range(size)]
    assert [rank for rank, place in enumerate(places) if place.parent is None] == [0]
    for rank, place in enumerate(places):
        assert max(len(place.below), len(place.above)) <= 1
        assert all(child < rank for child in place.below)
        assert all(child > rank for child in place.above)
        assert all(places[child].parent == rank for child in (*place.below, *place.above))
    assert sum(len(place.below) + len(place.above) for place in places) == size - 1

    def ranks_of(rank: int) -> list[int]:
        place = places[rank]
        lower = [found for child in place.below for found in ranks_of(child)]
        return [*lower, rank, *(found for child in place.above for found in ranks_of(child))]

    assert ranks_of(0) == list(range(size))


def test_a_message_passes_the_logarithm_of_the_ranks() -> None:
    for size in (2, 3, 100, 1000, 4096):
        for rank in range(size):
            hops, place = 0, links(rank, size)
            while place.parent is not None:
                hops, place = hops + 1, links(place.parent, size)
            assert hops <= (size - 1).bit_length()


def test_a_larger_world_gives_a_rank_no_more_to_talk_with() -> None:
    def peers(rank: int, size: int) -> int:
        place: Links = links(rank, size)
        return (place.parent is not None) + len(place.below) + len(place.above)

    for rank in range(8):
        assert peers(rank, 32) == peers(rank, 4096) <= peers(rank, 8) + 1
    assert max(peers(rank, 4096) for rank in range(4096)) == 3
